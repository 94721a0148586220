"""What the tests of fast CUDA kernels share: traces of layers, resident blocks, inner loops of machine code."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import pytest
import torch

from convbound import _library
from convbound.problem import ConvProblem
from support import cubins, device
from support.data import Operands

LIBRARY = _library.PACKAGE / "libconvbound_cuda.so"
# Why nothing can be read from machine code, or None.
NO_CODE: str | None = _library.LOADED["cuda"] or (None if cubins.cuobjdump() else "neither a CUDA toolkit nor triton")
needs_code = pytest.mark.skipif(NO_CODE is not None, reason=f"no machine code: {NO_CODE}")


def trace(
    problem: ConvProblem, pass_: str, dtype: str, layout: str, options: str = "profile=sm_90", family: str = ""
) -> dict[str, Any]:
    """What the row that serves does with aligned tensors; the row's family and name are added.

    Or the first one of a family that would.
    """
    profile = options.split()[0].removeprefix("profile=")
    like = next(
        row
        for row in device.rows()
        if (row["pass"].name, row["dtype"].name, row["layout"].name) == (pass_, dtype, layout)
    )
    keys = (like["pass"], like["dtype"], like["layout"])
    row = next(
        row
        for row in device.rows()
        if (row["pass"], row["dtype"], row["layout"]) == keys
        and family in row["family"]
        and device.serves(row, problem, profile)
    )
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    operands = Operands(*(torch.zeros(shape, dtype=device.dtype_of(row)) for shape in shapes), None)
    (found,) = device.run_row(row, operands, problem, f"trace {options}", aligned=True)[1]
    return cast(dict[str, Any], found | {"family": row["family"], "row": row["name"]})


def wide_share(found: dict[str, Any]) -> float:
    """The share of global bytes that went by accesses of 16 bytes."""
    by_width = torch.tensor(found["loaded_bytes_by_width"]) + torch.tensor(found["stored_bytes_by_width"])
    return float(by_width[4] / by_width.sum())


@lru_cache(maxsize=1)
def _mangled() -> dict[str, str]:
    """The mangled names of the library's kernels."""
    found = set(re.findall(r"Function (_Z\w+)", cubins._dump("-res-usage", LIBRARY)))
    return {name: mangled for mangled, name in cubins._demangled(found).items()}


def resident_blocks(found: dict[str, Any], architecture: str) -> int:
    """How many of a traced launch's blocks share a multiprocessor, with the registers that nvcc gave them."""
    kernel = cubins.read_kernels(LIBRARY)[found["kernel"], architecture]
    return cubins.resident_blocks(kernel, found["block"][0], found["shared_bytes"])


@dataclass(frozen=True)
class Loop:
    """An innermost loop of a kernel's machine code."""

    instructions: int
    fma: int


@lru_cache
def inner_loops(kernel: str, architecture: str) -> tuple[Loop, ...]:
    """The loops without another loop in them."""
    tool = cubins.cuobjdump()
    assert tool is not None
    command = [tool, "-sass", "-arch", architecture, "-fun", _mangled()[kernel], str(LIBRARY)]
    # One library holds many cubins, and the tool fails for each that lacks the function.
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    (section,) = text.split("Function : ")[1:]
    instructions = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+([^;]+);", section)]
    jumps = [(int(to[1], 16), at) for at, text in instructions if (to := re.search(r"\bBRA\b.*0x([0-9a-f]+)", text))]
    loops = [(begin, end) for begin, end in jumps if begin < end]
    found = []
    for begin, end in loops:
        if any((begin, end) != other and begin <= other[0] and other[1] <= end for other in loops):
            continue
        body = [text for at, text in instructions if begin <= at <= end]
        found.append(Loop(len(body), sum(bool(re.match(r"(@!?P\d\s+)?FFMA\b", text)) for text in body)))
    return tuple(found)
