"""CUDA kernels on tensors of more than 2^31 elements: the last blocks of the grid, in the emulator.

The tensors are anonymous memory of which only the last pages are ever touched, so they cost address space alone. What
lies before is zero, so the end of the result is that of a small problem, made of the operands' ends.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support import device
from support.check import expected
from support.data import integers
from torch import Tensor

from convbound.problem import ConvProblem, Layout, Pass

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

DTYPE = torch.float16
LAST_BLOCKS = 96
MAP_NORESERVE = 0x4000  # Linux; not every Python has a name for it


@dataclass(frozen=True)
class Case:
    """A large problem, and the small one that its tensors end with."""

    layout: Layout
    large: ConvProblem
    small: ConvProblem
    passes: tuple[Pass, ...] = ("fprop", "dgrad")


def cases() -> list[Case]:
    found = []
    for how in ("ph1", "sh2ph1", "ph2dh2"):
        image = f"g64ic64ih33oc64kh3{how}"  # 32769 of them
        for layout in ("NCHW", "NHWC"):
            found.append((layout, f"mb32769{image}", image))
    for how in ("", "sw2", "dw2"):
        found.append(("NCHW", f"g2056ic2056iw1048583oc2056kw3{how}", f"iw1048583kw3{how}ic1oc1"))
        found.append(("NHWC", f"g2056ic2056iw1048583oc2056kw3{how}", f"g2056ic2056iw205oc2056kw3{how}"))
    # Of wgrad those with so many channels that a block sums alone.
    sums = [("NCHW", "g1048577ic1048577iw2056oc1048577kw3pw1", "g64ic64iw2056oc64kw3pw1")]
    for how in ("", "dw2"):
        sums.append(("NHWC", f"g8512ic8512iw262145oc8512kw3{how}", f"g8512ic8512iw205oc8512kw3{how}"))
    return [
        Case(layout, ConvProblem.parse(large), ConvProblem.parse(small), passes)
        for texts, passes in ((found, Case.passes), (sums, ("wgrad",)))
        for layout, large, small in texts
    ]


CASES = cases()


def zeros(elements: int) -> Tensor:
    """So many zeros, none of them in memory before it is touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return torch.frombuffer(mmap.mmap(-1, elements * DTYPE.itemsize, flags=flags), dtype=DTYPE)


def in_memory(tensor: Tensor, layout: Layout) -> Tensor:
    """The elements in the order of the layout."""
    return tensor.flatten() if layout == "NCHW" or tensor.dim() == 1 else tensor.movedim(1, -1).flatten()


def served(case: Case) -> list[dict[str, Any]]:
    """Of each kernel, the row for the dtype that serves."""
    return [
        row
        for row in device.rows()
        if device.dtype_of(row) == DTYPE
        and row["layout"].name == case.layout
        and row["pass"].name in case.passes
        and device.serves(row, case.large)
        and not (case.layout == "NHWC" and row["name"] == "naive_wgrad")  # a thread would read all of a channel
        and not row["name"].startswith("grouped_wgrad")  # all blocks add to one result
        and not (
            case.layout == "NCHW" and row["family"] == "grouped"
        )  # of copies; the end of one is not all of another
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.large}-{case.layout}")
def test_last_blocks(case: Case):
    large = case.large
    assert max(math.prod(large.x_shape), math.prod(large.y_shape)) > 2**31
    rows = served(case)
    assert rows
    for row in rows:
        pass_ = row["pass"].name
        operands = integers(case.small, pass_, DTYPE)
        wanted = expected(pass_, operands, case.small)
        result = {"fprop": "y", "dgrad": "x", "wgrad": "w"}[pass_]
        bias_size = large.c if pass_ == "dgrad" else large.k
        sizes = {"x": math.prod(large.x_shape), "w": math.prod(large.w_shape), "y": math.prod(large.y_shape)}
        tensors = {name: zeros(size) for name, size in {**sizes, "bias": bias_size}.items()}
        for name, tensor in tensors.items():
            small = in_memory(getattr(operands, name), case.layout)
            tensor[tensor.numel() - small.numel() :] = torch.nan if name == result else small
        plan = device.plan(row, large)
        assert not isinstance(plan, str), plan
        grid = plan["grid"]
        assert grid[1:] == (1, 1)
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        if pass_ == "wgrad":
            addresses["bias"] = 0  # the naive kernel's is another launch
        last = 1 if case.layout == "NHWC" and pass_ == "wgrad" else LAST_BLOCKS
        if row["name"] == "grouped_dgrad_nhwc_gemm":
            last = 64 * 4  # the groups and phases of the last positions
        device.introspect.simt_run(
            row["pass"],
            device.native(large),
            row["dtype"],
            row["layout"],
            **addresses,
            options=f"blocks={max(0, grid[0] - last)}:{last}",
            row=row["index"],
        )
        right = in_memory(wanted[{"y": "y", "x": "dx", "w": "dw"}[result]], case.layout).to(DTYPE)
        got = tensors[result][-right.numel() :]
        written = ~got.isnan()
        assert written.any(), f"{row['name']} wrote nothing at the end of its result"
        assert torch.equal(got[written], right[written]), row["name"]
