"""``tune``: the alternatives of Triton's static table, timed on a GPU.

The table (kernels/table.py) says which row serves what, and by which tile; nobody has timed it. For a problem this
times every designed row that serves it, each with its own tile and with the tiles around it, and says what is fastest
beside what the table would take. The table is then changed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor

from convbound.kernels.launch import operands
from convbound.kernels.table import KERNELS, Kernel, select
from convbound.kernels.tile import Tile
from convbound.problem import ConvProblem, Layout, Pass
from convbound.timing import Call, Timer, medians

# Seconds for timing the alternatives of one pass, per alternative.
BUDGET = 0.1
# The least and most of a tile's sizes by their names. Others are 16 at least, as a matrix product needs.
LIMITS: dict[str, tuple[int, int | None]] = {"warps": (1, 16), "stages": (1, None), "steps": (1, None)}


@dataclass(frozen=True)
class Timing:
    """One alternative: a row, its tile, and its median seconds, or why it has none."""

    row: str
    tile: str
    selected: bool
    seconds: float | None
    reason: str = ""


def alternatives(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, arch: int | None
) -> list[Kernel]:
    """The row that the table selects, other designed rows that serve, and all of them with other tiles."""
    rows = [row for row in KERNELS if not row.naive and row.serves(problem, pass_, dtype, layout, arch)]
    first = select(problem, pass_, dtype, layout, arch)
    rows = [first, *(row for row in rows if row is not first)]
    varied = [replace(row, tile=tile) for row in rows if not row.naive for tile in neighbours(row.tile)]
    return rows + [row for row in varied if row.serves(problem, pass_, dtype, layout, arch)]


def neighbours(tile: Tile) -> Iterator[Tile]:
    """Tiles with one size halved or doubled, or with one stage less or more."""
    for name, size in asdict(tile).items():
        least, most = LIMITS.get(name, (16, None))
        if size < least:
            continue  # a 1, where the kernel has no choice
        less, more = (size - 1, size + 1) if name == "stages" else (size // 2, 2 * size)
        if size > least:
            yield replace(tile, **{name: less})
        if most is None or size < most:
            yield replace(tile, **{name: more})


def search(
    problem: ConvProblem,
    pass_: Pass,
    dtype: torch.dtype,
    layout: Layout,
    device: torch.device,
    arch: int | None,
    timer: Timer,
) -> list[Timing]:
    """Time all alternatives in turn on random tensors, the fastest first; what fails or errs is last, with the reason.

    A result that is not close to that of the selected row is an error: tests check rows, not every tile.
    """
    rows = alternatives(problem, pass_, dtype, layout, arch)
    tensors = operands(problem, pass_, torch.empty(0, dtype=dtype, device=device), layout)
    for tensor in tensors.values():
        if tensor is not None:
            tensor.normal_()
    result = {"fprop": "y", "dgrad": "dx", "wgrad": "dw"}[pass_]
    expected: Tensor | None = None
    calls: dict[int, Call] = {}
    reasons: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            plan = row.plan(problem, dtype, bias=False)
            tensors[result].fill_(torch.nan)  # type: ignore[union-attr]
            plan.run(tensors)
            if expected is None:
                expected = tensors[result].clone()  # type: ignore[union-attr]
            _check(tensors[result], expected)
            calls[index] = partial(plan.run, tensors)
        except Exception as error:
            reasons[index] = " ".join(f"{type(error).__name__}: {error}".split())
    seconds = dict(zip(calls, medians(list(calls.values()), timer, BUDGET * len(calls)), strict=True))
    timings = [
        Timing(row.name, str(row.tile), index == 0, seconds.get(index), reasons.get(index, ""))
        for index, row in enumerate(rows)
    ]
    return sorted(timings, key=lambda timing: (timing.seconds is None, timing.seconds))


def report(timings: Sequence[Timing]) -> list[str]:
    """A line for each alternative."""
    lines = []
    for timing in timings:
        took = f"{1e3 * timing.seconds:9.4f} ms" if timing.seconds is not None else f"{'-':>9}   "
        note = "  selected by the table" if timing.selected else ""
        lines.append(f"  {took}  {timing.row:36} {timing.tile:62}{note}{timing.reason and '  ' + timing.reason}")
    return lines


def _check(result: Tensor | None, expected: Tensor) -> None:
    assert result is not None
    error = (result.double() - expected.double()).abs().max()
    limit = 16 * torch.finfo(result.dtype).eps * expected.double().abs().max()
    if not error <= limit:
        raise ValueError(f"the result is off by {float(error):.2e}, more than {float(limit):.2e}")
