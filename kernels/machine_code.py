"""What a compiled kernel is made of, from its PTX and its SASS: resources, access widths, tensor-core instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from triton import knobs

_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
_OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
_PTX_ACCESS = re.compile(r"\b(ld|st)\.global(?:\.(?!v\d|b\d)[\w:]+)*\.((?:v\d\.)?b\d+)")
_PTX_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global(?:\.[\w:]+)* *\[[^]]*\], *\[[^]]*\], *(\w+)")
_PTX_TENSOR_CORE = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")
_SASS_TENSOR_CORE = re.compile(r"[A-Z]*MMA")  # HMMA, HGMMA (wgmma), UTCHMMA (tcgen05)
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}

Counts = dict[str, int]


@dataclass(frozen=True)
class MachineCode:
    """Resources per thread, and instructions by kind; all counts are of the code, not of what is executed.

    `loads` and `stores` are the SASS accesses to global memory by their bytes per thread, asynchronous copies into
    shared memory included; `ptx_loads` and `ptx_stores` the PTX ones by form, such as ``v4.b32`` or ``cp.async 16``.
    """

    registers: int
    stack: int
    local: int
    spill_loads: int
    spill_stores: int
    instructions: int
    loads: Counts
    stores: Counts
    tensor_core: Counts
    ptx_loads: Counts
    ptx_stores: Counts
    ptx_tensor_core: Counts


def read(cubin: bytes, ptx: str) -> MachineCode:
    """Take a kernel apart with the tools in Triton's wheel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        usage = _output(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file)
        sass = _output(knobs.nvidia.nvdisasm.path, "-c", "-ndf", file)  # without its data flow, a third of its time
    return parse(usage, sass, ptx)


def parse(usage: str, sass: str, ptx: str) -> MachineCode:
    """The same from the tools' output; of one kernel."""
    resources = _RESOURCES.search(usage)
    opcodes = [match.split(".") for match in _OPCODE.findall(sass)]
    if resources is None or not opcodes:
        raise ValueError(f"no kernel in the output of cuobjdump and nvdisasm: {usage[:200]!r}, {sass[:200]!r}")
    registers, stack, local = map(int, resources.groups())
    accesses = _PTX_ACCESS.findall(ptx) + [("ld", f"cp.async {int(size, 0)}") for size in _PTX_COPY.findall(ptx)]
    return MachineCode(
        registers=registers,
        stack=stack,
        local=local,
        # Triton has no arrays in local memory, so whatever goes there was spilled.
        spill_loads=sum(opcode[0] == "LDL" for opcode in opcodes),
        spill_stores=sum(opcode[0] == "STL" for opcode in opcodes),
        instructions=sum(opcode[0] != "NOP" for opcode in opcodes),
        loads=_count(_width(opcode) for opcode in opcodes if opcode[0] in ("LDG", "LDGSTS")),
        stores=_count(_width(opcode) for opcode in opcodes if opcode[0] == "STG"),
        tensor_core=_count(opcode[0] for opcode in opcodes if _SASS_TENSOR_CORE.fullmatch(opcode[0])),
        ptx_loads=_count(form for access, form in accesses if access == "ld"),
        ptx_stores=_count(form for access, form in accesses if access == "st"),
        ptx_tensor_core=_count(_PTX_TENSOR_CORE.findall(ptx)),
    )


def _width(opcode: list[str]) -> str:
    return str(next((_BYTES[part] for part in opcode if part in _BYTES), 4))


def _count(values: Iterable[str]) -> Counts:
    return dict(sorted(Counter(values).items()))


def _output(tool: str, *arguments: str | Path) -> str:
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout
