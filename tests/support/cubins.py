"""What the CUDA library's machine code says about its kernels, read by cuobjdump; no GPU is asked."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
_ACCESS = re.compile(r"\b(LDGSTS|LDG|STG|LDSM|LDS|STS|LDL|STL)((?:\.[A-Z0-9_a-z]+)*)")


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
    accesses: Counter[tuple[str, int]] = field(default_factory=Counter)  # instructions by (LDG, bytes of a lane)
    products: int = 0  # instructions for tensor cores


def cuobjdump() -> str | None:
    """The tool: of a CUDA toolkit, or of the triton wheel."""
    triton = importlib.util.find_spec("triton")
    packaged = Path(str(triton.origin)).parent / "backends/nvidia/bin/cuobjdump" if triton else None
    return shutil.which("cuobjdump") or (str(packaged) if packaged and packaged.exists() else None)


@lru_cache(maxsize=1)
def read_kernels(library: Path) -> dict[tuple[str, str], Kernel]:
    """All kernels of a library, by name and architecture."""
    kernels: dict[tuple[str, str], Kernel] = {}

    def kernel(mangled: str, architecture: str) -> Kernel:
        name = names[mangled]
        return kernels.setdefault((name, architecture), Kernel(name, architecture))

    usage, elf, sass = (_dump(flag, library) for flag in ("-res-usage", "-elf", "-sass"))
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
    for architecture, text in _by_architecture(sass):
        for section in text.split("Function : ")[1:]:
            found = kernel(section.split("\n")[0].strip(), architecture)
            found.products += len(re.findall(r"\bHMMA\.", section))
            for operation, modifiers in _ACCESS.findall(section):
                width = next((_BYTES[m] for m in modifiers.split(".") if m in _BYTES), 4)
                found.accesses[operation, width] += 1
    return kernels


def _dump(flag: str, library: Path) -> str:
    tool = cuobjdump()
    assert tool is not None
    return subprocess.run([tool, flag, str(library)], capture_output=True, text=True, check=True).stdout


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
