"""Infinities and NaN in the operands of the Triton kernels: none is missed, and they spread no further than is told.

kernels/nonfinite.py tells how far. Here the same stands as masks of results, one for each of its patterns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatch

import pytest
import torch
from support import triton_rows
from support.check import Results, expected
from support.data import Operands
from torch import Tensor

from convbound.kernels import nonfinite, table
from convbound.kernels.implicit_gemm import packed_groups
from convbound.kernels.table import Kernel
from convbound.problem import ConvProblem

Index = tuple[int, ...]
Reach = Callable[[Kernel, ConvProblem, Index, Tensor], Tensor]
# Which operands a pass has: an activation and the filter, or in wgrad both activations.
OPERANDS = {"fprop": ("x", "w"), "dgrad": ("y", "w"), "wgrad": ("x", "y")}
VALUES = (math.inf, math.nan, -math.inf)
# The first that a row serves: so small that it is fast, and everything that can spread does.
PROBLEMS = tuple(
    map(
        ConvProblem.parse,
        """
        mb2g3ic3ih7iw5oc6kh3kw2ph1pw1ew0
        mb2g3ic3ih8iw6oc6kh3kw2sh2ph1eh0pw1ew0 a stride
        mb2g3ic3iw9oc6kw3pw1 one dimension
        mb2g3ic6ih5iw4oc9kh3kw2ph1pw1ew0 packed groups
        mb2g3ic6ih6iw4oc9kh3kw2sh2ph1eh0pw1ew0 packed groups, a stride
        mb2g4ic64ih3iw4oc64kh3kw2ph1pw1ew0 packed groups, aligned
        ic16ih3iw4oc48kh2ph1eh0 filters for tiles of 64
        ic48ih3iw4oc16kh2ph1eh0 channels for tiles of 64
        ic16ih3iw4oc256kh2ph1eh0 filters for the largest tiles
        ic256ih3iw4oc16kh2ph1eh0 channels for the largest tiles
        mb2g2ic2ih5iw70oc4kh8kw5ph3pw1 a large filter
        """.strip().splitlines(),
    )
)


def problem_for(row: Kernel) -> ConvProblem:
    """The first problem that a row serves; one with a stride where the row is made for that, or asks what it is."""
    strides = row.family == "transposed" or row.name.startswith("depthwise_dgrad_naive")
    served = [p for p in PROBLEMS if row.serves(p, row.pass_, row.dtypes[0], row.layout)]
    return max(served, key=lambda p: strides and p.stride[0] > 1)  # the first of the largest


def dependent(row: Kernel, problem: ConvProblem, name: str, index: Index) -> Results:
    """Which elements of the results depend on one element of an operand."""
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape}
    fills = {operand: torch.full(shape, float(operand != name)) for operand, shape in shapes.items()}
    fills[name][index] = 1
    bias = torch.zeros(problem.c if row.pass_ == "dgrad" else problem.k)
    results = expected(row.pass_, Operands(**fills, bias=bias), problem)
    return results if name != "x" else {**results, "dbias": torch.zeros(())}


def channel(row: Kernel, problem: ConvProblem, index: Index, met: Tensor) -> Tensor:
    """All results of the channel, in fprop of the filter, that an element of the filter is for."""
    group = index[0] // (problem.k // problem.groups)
    own = index[0] if row.pass_ == "fprop" else group * (problem.c // problem.groups) + index[1]
    mask = torch.zeros_like(met)
    mask[:, own] = True
    return mask


def taps_beyond(row: Kernel, problem: ConvProblem, index: Index, met: Tensor) -> Tensor:
    """Those of them whose tap lies outside; in dgrad a tap that falls between two outputs lies nowhere."""
    mask = channel(row, problem, index, met)
    if row.pass_ == "dgrad":
        for axis, size in enumerate(problem.input):
            begin, tap = problem.padding[axis][0], index[2 + axis] * problem.dilation[axis]
            stride = problem.stride[axis] if problem.output[axis] > 1 else 1  # as the kernels take it
            meets = (torch.arange(size) + begin - tap) % stride == 0
            mask &= meets.reshape([-1 if other == axis else 1 for other in range(problem.ndim)])
    return mask & ~met


def between_strides(row: Kernel, problem: ConvProblem, index: Index, met: Tensor) -> Tensor:
    return channel(row, problem, index, met) & ~met & ~taps_beyond(row, problem, index, met)


def taps_of_dy(row: Kernel, problem: ConvProblem, index: Index, met: Tensor) -> Tensor:
    """The filter of a channel of dy."""
    mask = torch.zeros_like(met)
    mask[index[1]] = True
    return mask & ~met


def rows_of_taps(row: Kernel, problem: ConvProblem, index: Index, met: Tensor) -> Tensor:
    """The filters of a channel of x, of a depthwise problem."""
    multiplier = problem.k // problem.c
    mask = torch.zeros_like(met)
    mask[index[1] * multiplier : (index[1] + 1) * multiplier] = True
    return mask & ~met


def pack(row: Kernel, problem: ConvProblem, index: Index, met: Tensor) -> Tensor:
    """What depends on an element of an activation, and the same positions of the groups in its pack."""
    source, result = (problem.c, problem.k) if row.pass_ == "fprop" else (problem.k, problem.c)
    source, result = source // problem.groups, result // problem.groups
    groups = packed_groups(problem, result, row.tile.columns)
    assert 1 < groups * result <= 64
    first = index[1] // source // groups * groups
    mask = torch.zeros_like(met)
    mask[:, first * result : (first + groups) * result] = met.any(dim=1, keepdim=True)
    return mask & ~met


def window(row: Kernel, problem: ConvProblem, index: Index, met: Tensor) -> Tensor:
    """The results of the channel where the filter reaches from an element, and 46 more columns on both sides."""
    multiplier = problem.k // problem.c
    own = [index[1] // multiplier] if row.pass_ == "dgrad" else [index[1] * multiplier + m for m in range(multiplier)]
    mask = torch.zeros_like(met)
    mask[index[0], own] = True
    for axis, more in (0, 0), (1, 46):
        taps, begin = problem.filter[axis], problem.padding[axis][0]
        first = index[2 + axis] - begin if row.pass_ == "dgrad" else index[2 + axis] + begin - (taps - 1)
        position = torch.arange(met.shape[2 + axis])
        reached = (position >= first - more) & (position < first + taps + more)
        mask &= reached[:, None] if axis == 0 else reached
    return mask & ~met


# By the patterns of kernels/nonfinite.py: of which operand, and which results it may reach that do not depend on it.
REACH: dict[str, tuple[str, Reach]] = {
    "*_fprop_*": ("w", taps_beyond),
    "*_dgrad_*": ("w", taps_beyond),
    "*_dgrad_naive_*": ("w", between_strides),
    "*_wgrad_*": ("y", taps_of_dy),
    **{f"depthwise_wgrad_{name}_*": ("x", rows_of_taps) for name in ("rows9", "rows49", "large")},
    **{f"*_fprop_{name}_*": ("x", pack) for name in ("packs", "any", "fp64")},
    **{f"*_dgrad_{name}_*": ("y", pack) for name in ("packs", "any", "fp64")},
    "depthwise_fprop_toeplitz_*": ("x", window),
    "depthwise_dgrad_toeplitz_*": ("y", window),
}


def test_what_is_told_is_what_is_tested():
    assert [pattern for pattern, _ in nonfinite.SPREADS] == list(REACH)


CASES = [(row, name) for row in table.KERNELS for name in OPERANDS[row.pass_]]


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize(("row", "name"), CASES, ids=[f"{row.name}-{name}" for row, name in CASES])
def test_none_is_missed_and_they_spread_as_far_as_is_told(row: Kernel, name: str):
    problem = problem_for(row)
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape}
    bias = torch.ones(problem.c if row.pass_ == "dgrad" else problem.k)
    operands = Operands(**{operand: torch.ones(shape) for operand, shape in shapes.items()}, bias=bias)
    # The first element, one in the middle, and the last.
    places: list[Index] = [tuple(int((size - 1) * part) for size in shapes[name]) for part in (0, 0.5, 1)]
    for index, value in zip(places, VALUES, strict=True):
        getattr(operands, name)[index] = value
    results = triton_rows.run_row(row, operands.map(lambda tensor: tensor.to(row.dtypes[0])), problem)

    met = [dependent(row, problem, name, index) for index in places]
    reaching = [pattern for pattern, (operand, _) in REACH.items() if operand == name and fnmatch(row.name, pattern)]
    for result, found in results.items():
        depends = [one[result] != 0 for one in met]
        bad, all_met = ~found.isfinite(), torch.stack(depends).any(dim=0)
        assert not (all_met & ~bad).any(), f"{result} of {problem}: missed"
        spread = bad & ~all_met
        for pattern in reaching if result != "dbias" else ():
            reach = REACH[pattern][1]
            mask = torch.stack([reach(row, problem, *one) for one in zip(places, depends, strict=True)]).any(dim=0)
            assert (bad & ~all_met & mask).any(), f"{result} of {problem}: spreads not as {pattern} says"
            spread &= ~mask
        assert not spread.any(), f"{result} of {problem}: spreads to {spread.nonzero()[:5].tolist()}"
