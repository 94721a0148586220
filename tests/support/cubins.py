"""What the CUDA library's machine code says about its kernels, read by cuobjdump; no GPU is asked."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z]\w*)([.\w]*)", re.MULTILINE)
_ACCESSES = ("LDGSTS", "LDG", "STG", "LDSM", "LDS", "STS", "LDL", "STL")


@dataclass
class Kernel:
    """One kernel in one architecture's machine code."""

    name: str  # as the emulator calls it: convbound::naive::fprop_kernel<float, (convbound::Layout)0>
    architecture: str  # sm_80
    registers: int = 0
    stack_bytes: int = 0
    local_bytes: int = 0
    shared_bytes: int = 0  # static
    max_threads: int = 0  # of __launch_bounds__; 0 where there are none
    instructions: Counter[str] = field(default_factory=Counter)  # by name: FFMA
    accesses: Counter[tuple[str, int]] = field(default_factory=Counter)  # of these by (LDG, bytes of a lane)


# Of a multiprocessor: threads, bytes of shared memory, and the bytes in flight that keep its memory busy (twice what
# Little's law asks for).
MULTIPROCESSORS = {"sm_80": (2048, 164 << 10, 24 << 10), "sm_90": (2048, 228 << 10, 36 << 10)}
REGISTERS = 65536
_RESERVED_SHARED = 1024  # per block


def resident_blocks(kernel: Kernel, threads: int, shared_bytes: int) -> int:
    """How many blocks of a launch a multiprocessor of the kernel's architecture holds at once."""
    most_threads, shared, _ = MULTIPROCESSORS[kernel.architecture]
    registers = (kernel.registers + 7) // 8 * 8
    return min(most_threads // threads, REGISTERS // (registers * threads), shared // (shared_bytes + _RESERVED_SHARED))


def cuobjdump() -> str | None:
    """The tool: of a CUDA toolkit, or of the triton wheel."""
    triton = importlib.util.find_spec("triton")
    packaged = Path(str(triton.origin)).parent / "backends/nvidia/bin/cuobjdump" if triton else None
    return shutil.which("cuobjdump") or (str(packaged) if packaged and packaged.exists() else None)


@lru_cache(maxsize=1)
def read_kernels(library: Path) -> dict[tuple[str, str], Kernel]:
    """All kernels of a library, by name and architecture.

    Disassembling takes a while, so one process of a test run does it, and later runs find what it left.
    """
    digest = hashlib.sha256(library.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    known = Path(tempfile.gettempdir()) / f"convbound-kernels-{os.getuid()}-{digest}.pickle"
    with FileLock(f"{known}.lock"):
        if not known.exists():
            known.write_bytes(pickle.dumps(_read_kernels(library)))
        kernels: dict[tuple[str, str], Kernel] = pickle.loads(known.read_bytes())
    return kernels


def _read_kernels(library: Path) -> dict[tuple[str, str], Kernel]:
    kernels: dict[tuple[str, str], Kernel] = {}

    def kernel(mangled: str, architecture: str) -> Kernel:
        name = names[mangled]
        return kernels.setdefault((name, architecture), Kernel(name, architecture))

    usage, elf = (_dump(flag, library) for flag in ("-res-usage", "-elf"))
    names = _demangled(set(re.findall(r"Function (_Z\w+)", usage)) | set(re.findall(r"nv\.info\.(_Z\w+)", elf)))
    for architecture, text in _by_architecture(usage):
        for mangled, registers, stack, shared, local in re.findall(
            r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text
        ):
            found = kernel(mangled, architecture)
            found.registers, found.stack_bytes = int(registers), int(stack)
            found.shared_bytes, found.local_bytes = int(shared), int(local)
    for architecture, text in _by_architecture(elf):
        for section in re.split(r"\n(?=\.nv\.info\._Z)", text)[1:]:
            bounds = re.search(
                r"EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:\s+(\w+) (\w+) (\w+)", _one_section(section)
            )
            if bounds:
                x, y, z = (int(size, 16) for size in bounds.groups())
                kernel(section.split("\n")[0].removeprefix(".nv.info."), architecture).max_threads = x * y * z
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        _dump("-xelf", "all", library.resolve(), cwd=folder)
        cubins = sorted(Path(folder).iterdir())
        for cubin, text in zip(cubins, pool.map(lambda cubin: _dump("-sass", cubin), cubins), strict=True):
            for section in text.split("Function : ")[1:]:
                found = kernel(section.split("\n")[0].strip(), cubin.suffixes[-2].removeprefix("."))
                for name, modifiers in _INSTRUCTION.findall(section):
                    found.instructions[name] += 1
                    if name in _ACCESSES:
                        width = next((_BYTES[m] for m in modifiers.split(".") if m in _BYTES), 4)
                        found.accesses[name, width] += 1
    return kernels


def _dump(*arguments: str | Path, cwd: str | None = None) -> str:
    tool = cuobjdump()
    assert tool is not None
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True, cwd=cwd).stdout


def _by_architecture(text: str) -> Iterator[tuple[str, str]]:
    """The parts of a dump that describe machine code, each with its architecture; PTX is left out."""
    for part in re.split(r"\nFatbin (?=elf code|ptx code)", text):
        if part.startswith("elf code"):
            architecture = re.search(r"arch = (sm_\w+)", part)
            assert architecture is not None
            yield architecture[1], part


def _one_section(text: str) -> str:
    """The text up to the next section of the file."""
    return re.split(r"\n\.(?:nv|text|rel)", text, maxsplit=1)[0]


def _demangled(names: set[str]) -> dict[str, str]:
    ordered = sorted(names)
    done = subprocess.run(["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True)
    return dict(zip(ordered, map(_short, done.stdout.splitlines()), strict=True))


def _short(name: str) -> str:
    """``void a::(anonymous namespace)::k<float>(P)`` as ``a::k<float>``."""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    depth = 0
    for i in range(len(name) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(name[i], 0)
        if depth == 0:
            return name[:i] if name.endswith(")") else name
    return name
