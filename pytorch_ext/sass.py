"""A CUDA kernel's machine code (SASS) as a graph of basic blocks, read by the tools of the CUDA toolkit or of Triton.

Basic blocks, and for each instruction the source lines that it is inlined from: what a count of executed instructions
(:mod:`convbound.executed`) needs. No GPU is asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_FRAME = re.compile(r'//## File "[^"]*?([^/"]+)", line (\d+)')
_LABEL = re.compile(r"(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*)([.\w]*)\s*([^;]*);")
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


@dataclass(frozen=True)
class Instruction:
    """`frames` are source lines, such as ``"kernel.cu:41"``: its own, and the calls that it is inlined from."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: str
    predicated: bool
    frames: frozenset[str]

    @property
    def width(self) -> int:
        """Bytes of a lane's access."""
        if self.opcode == "LDSM":
            return 16
        return next((_BYTES[part] for part in self.modifiers if part in _BYTES), 4)


@dataclass(frozen=True)
class Code:
    """One kernel for one architecture; blocks by address, the first is the entry."""

    kernel: str
    architecture: str
    registers: int
    blocks: tuple[tuple[Instruction, ...], ...]
    edges: tuple[tuple[int, int], ...]  # from block to block
    exits: tuple[int, ...]  # blocks that a thread may end in


def tool(name: str) -> str | None:
    """``cuobjdump`` or ``nvdisasm``: of a CUDA toolkit, or of the triton wheel."""
    triton = importlib.util.find_spec("triton")
    packaged = Path(str(triton.origin)).parent / "backends/nvidia/bin" / name if triton else None
    return shutil.which(name) or (str(packaged) if packaged and packaged.exists() else None)


@lru_cache(maxsize=256)
def find(library: Path, kernel: str, architecture: str) -> Code | str:
    """The code of a library's kernel, by the name that the emulator gives it; or why there is none, in words."""
    missing = [name for name in ("cuobjdump", "nvdisasm", "c++filt") if tool(name) is None]
    if missing:
        return f"{missing[0]} is not installed; pip install triton brings the first two, binutils c++filt"
    if not library.exists():
        return "this build has no CUDA kernels; CONVBOUND_CUDA=1 pip install --no-build-isolation . builds them"
    for cubin, mangled in _functions(library, architecture).get(_plain(kernel), ()):
        usage = _output("cuobjdump", "-res-usage", "-fun", mangled, cubin)
        registers = re.search(r"REG:(\d+)", usage)
        if registers is not None:
            return parse(kernel, architecture, int(registers[1]), _section(_text(cubin), mangled))
    return f"{library.name} has no {kernel} for {architecture}"


def parse(kernel: str, architecture: str, registers: int, text: str) -> Code:
    """The same from nvdisasm's text of one function."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    frames: list[str] = []
    new = True
    for line in text.splitlines():
        if found := _FRAME.search(line):
            if new:
                frames, new = [], False
            frames.append(f"{found[1]}:{found[2]}")
        elif found := _LABEL.match(line):
            labels[found[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            new = True
            modifiers = tuple(found[3].split(".")[1:])
            instructions.append(Instruction(found[2], modifiers, found[4], bool(found[1]), frozenset(frames)))
    return Code(kernel, architecture, registers, *_graph(instructions, labels))


def _graph(
    instructions: list[Instruction], labels: dict[str, int]
) -> tuple[tuple[tuple[Instruction, ...], ...], tuple[tuple[int, int], ...], tuple[int, ...]]:
    ends = {i + 1 for i, instruction in enumerate(instructions) if instruction.opcode in ("BRA", "EXIT", "RET", "BRX")}
    begins = sorted(begin for begin in {0, *labels.values(), *ends} if begin < len(instructions))
    number = {begin: i for i, begin in enumerate(begins)}
    blocks = tuple(
        tuple(instructions[begin:end]) for begin, end in zip(begins, [*begins[1:], len(instructions)], strict=True)
    )
    edges: list[tuple[int, int]] = []
    exits = []
    for i, block in enumerate(blocks):
        last = block[-1]
        goes_on = last.opcode not in ("BRA", "EXIT", "RET", "BRX") or last.predicated
        if last.opcode == "BRA":
            target = re.search(r"\.L_x_\d+", last.operands)
            assert target is not None
            edges.append((i, number[labels[target[0]]]))
            goes_on |= re.match(r"!?U?P\d", last.operands) is not None  # BRA P0, `(.L_x_1)
        elif last.opcode == "EXIT":
            exits.append(i)
        if goes_on and i + 1 < len(blocks):
            edges.append((i, i + 1))
    return blocks, tuple(edges), tuple(exits)


@lru_cache(maxsize=4)
def _functions(library: Path, architecture: str) -> dict[str, list[tuple[Path, str]]]:
    """By plain name: the cubins of a library and the mangled names in them."""
    content = library.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"convbound-cubins-{os.getuid()}-{digest}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            _output("cuobjdump", "-xelf", "all", library.resolve(), cwd=fresh)
            with contextlib.suppress(OSError):  # another process was quicker
                Path(fresh).rename(folder)
            Path(fresh).mkdir(exist_ok=True)  # for the context to remove
    found = [
        (cubin, name.decode())
        for cubin in sorted(folder.glob(f"*.{architecture}.cubin"))
        for name in dict.fromkeys(re.findall(rb"\.text\.(_Z\w+)\0", cubin.read_bytes()))
    ]
    names = subprocess.run(
        ["c++filt"], input="\n".join(mangled for _, mangled in found), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    functions: dict[str, list[tuple[Path, str]]] = {}
    for entry, name in zip(found, names, strict=True):
        functions.setdefault(_plain(name), []).append(entry)
    return functions


def _plain(name: str) -> str:
    """A demangled name without return type, parameters, anonymous namespaces and spaces."""
    name = re.sub(r"\s|\(anonymousnamespace\)::", "", re.sub(r"^void\s", "", name).replace(" ", ""))
    depth = 0
    for at, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:at]
    return name


@lru_cache(maxsize=8)
def _text(cubin: Path) -> str:
    return _output("nvdisasm", "-gi", "-c", "-ndf", cubin)


def _section(text: str, mangled: str) -> str:
    return text.split(f"\n.text.{mangled}:\n", 1)[1].split("\n\t.section", 1)[0]


def _output(name: str, *arguments: str | Path, cwd: str | None = None) -> str:
    program = tool(name)
    assert program is not None
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True, cwd=cwd).stdout
