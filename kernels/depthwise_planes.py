"""depthwise_planes: depthwise fprop and dgrad of whole small planes in NCHW, stored as one linear run.

    y[n, k, p, q] = bias[k] + sum over r, s of x[n, k // multiplier, h, w] * w[k, r, s]
    fprop: h = p * stride_h + r * dilation_h - padding_h
    dgrad: p = h * stride_h + r * dilation_h - padding_h, and a sum over the multiplier's filters of a channel (SOURCES)

The kernel's y is what a pass computes: dgrad runs with dy for x and dx for y (TRANSPOSED); columns are as rows.

Planes (n, k) of y are contiguous, over images too, but the rows of a small plane are no whole sectors of 32 bytes: a
kernel that stores row by row writes three times the sectors of 7x7 planes in 16 bits. Here a program owns PLANES of
them. A thread has one column of one plane, in strided dgrad a block of PHASES = stride_w columns, and walks down it,
row by row of x, which it loads S times, once for each column of the filter, and adds to the sums of all rows of y that
it takes part in. The rounded rows stay in registers until all are there, are joined to a block [PLANES, rows, columns],
padded to powers of two, and gathered through shared memory to the order that they have in y: one run of neighbouring
addresses, whatever the width of a plane.

Cost per output. L1: S loads of x; in strided dgrad S / (stride_h * stride_w). Arithmetic: R * S FMA, S conversions; one
write and one read of shared memory, and some ten instructions for the gather's index. L2: x once, for a program has
whole planes, and its L1 holds them; y once, but for a sector at both ends of a run: counted 1.00 times the compulsory
bytes of 3x3 at 28x28, 14x14 and 7x7, where row by row it is 1.27, 1.49 and 1.98 (fp16). All sizes of a plane are known
to the compiler: rows outside of x are not loaded, addresses are immediates, stride and dilation are free. The price is
a kernel without loops for each shape of a layer: P * R * S is bounded.

The tile. 128 threads have 4 planes of 28x28, 8 of 14x14, 16 of 7x7: runs of whole sectors in 16 bits. A thread keeps
its filter, R * S registers, a column of results, and the sums that are not complete.
"""

# Tuples in Triton know concatenation, but no unpacking.
# ruff: noqa: RUF005
# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from convbound.kernels.launch import L1, Launch, Plan, residents
from convbound.kernels.strips import SECTOR
from convbound.kernels.tile import Tile, exchanged, sizes
from convbound.kernels.transposed_depthwise import add_to, in_turn
from convbound.problem import ConvProblem, Layout, Pass

MOST_TAPS = 49  # in registers
MOST_STEPS = 800  # rows times taps, for all of them are unrolled
LARGEST_PLANE = 32  # rows and columns of y
# What a thread has registers for besides its filter and a column of results; a test finds as many in compiled kernels.
OTHER_REGISTERS = 12


@triton.constexpr_function
def result_row(h, r, P, stride, padding, dilation, transposed):
    """The row of y that tap r adds row h of x to; -1 where there is none."""
    if transposed:
        p = h * stride + r * dilation - padding
    else:
        p, rest = divmod(h + padding - r * dilation, stride)
        p = -1 if rest else p
    return p if 0 <= p < P else -1


@triton.constexpr_function
def is_read(h, R, P, stride, padding, dilation, transposed):
    """Whether any tap reads row h of x."""
    return any(result_row(h, r, P, stride, padding, dilation, transposed) >= 0 for r in range(R))


@triton.jit
def stacked(rows, LEVELS: tl.constexpr):
    """2^LEVELS rows, each [planes, columns], one below the other: [planes, rows, columns]."""
    planes: tl.constexpr = rows[0].shape[0]
    columns: tl.constexpr = rows[0].shape[1]
    # The first join makes the highest bit of a row's number.
    for level in tl.static_range(LEVELS):
        joined = ()
        for row in tl.static_range(2 ** (LEVELS - 1 - level)):
            joined = joined + (tl.join(rows[row], rows[row + 2 ** (LEVELS - 1 - level)]),)
        rows = joined
    return tl.permute(tl.reshape(rows[0], (planes, columns, 2**LEVELS)), (0, 2, 1))


@triton.jit
def depthwise_planes(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    planes,
    K,
    H: tl.constexpr,
    W: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    padding_h: tl.constexpr,
    padding_w: tl.constexpr,
    dilation_h: tl.constexpr,
    dilation_w: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SOURCES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    PHASES: tl.constexpr,
    LEVELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
    RUN: tl.constexpr,
):
    # Planes are numbered over all images; those of x begin with the one that the program's first plane reads.
    first = tl.program_id(0) * PLANES
    first_x = first // MULTIPLIER
    plane = first + tl.arange(0, PLANES)[:, None]
    k = plane % K
    # Lane q has the PHASES columns from q * PHASES - before on.
    before: tl.constexpr = padding_w % PHASES
    q = tl.arange(0, COLUMNS)[None, :]
    inside = (plane < planes) & (q * PHASES < Q + before)
    x_ptr += first_x.to(tl.int64) * (SOURCES * H * W)
    x_plane = (plane // MULTIPLIER - first_x) * (SOURCES * H * W)

    start = tl.zeros((PLANES, COLUMNS), tl.float32)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + k, mask=plane < planes, other=0.0).to(tl.float32)
    weights = ()
    for tap in tl.static_range(SOURCES * R * S):
        weight = tl.load(w_ptr + k * (SOURCES * R * S) + tap, mask=plane < planes, other=0.0)
        weights = weights + (weight.to(tl.float32),)

    sums = (start,) * (P * PHASES)
    for h in tl.static_range(H):
        if is_read(h, R, P, stride_h, padding_h, dilation_h, TRANSPOSED):
            for s in tl.static_range(S):
                if TRANSPOSED:
                    w = q + (padding_w // stride_w - s * dilation_w // stride_w)
                else:
                    w = q * stride_w + (s * dilation_w - padding_w)
                in_image = inside & (w >= 0) & (w < W)
                for source in tl.static_range(SOURCES):
                    x = tl.load(x_ptr + (x_plane + w + (source * H + h) * W), mask=in_image, other=0.0).to(tl.float32)
                    for r in tl.static_range(R):
                        sums = add_to(
                            sums,
                            result_row(h, r, P, stride_h, padding_h, dilation_h, TRANSPOSED) * PHASES
                            + s * dilation_w % PHASES,
                            x * weights[(source * R + r) * S + s],
                        )

    rows = ()
    for p in tl.static_range(2**LEVELS):
        row = in_turn(sums, (p if p < P else 0) * PHASES, PHASES)
        rows = rows + (row.to(y_ptr.dtype.element_ty),)
    block = stacked(rows, LEVELS).reshape((PLANES * 2**LEVELS * COLUMNS * PHASES,))
    position = tl.arange(0, RUN)
    row = position // Q
    place = before + position + row * (COLUMNS * PHASES - Q) + row // P * ((2**LEVELS - P) * COLUMNS * PHASES)
    result = tl.gather(block, tl.where(position < PLANES * P * Q, place, 0), 0)
    y_ptr += first.to(tl.int64) * (P * Q)
    tl.store(y_ptr + position, result, mask=position < min(PLANES, planes - first) * (P * Q))


@dataclass(frozen=True)
class PlaneTile(Tile):
    """So many `lanes`, each with a column of a plane, or in strided dgrad a block of columns."""

    lanes: int


@dataclass(frozen=True)
class Planes:
    """How programs own planes: `count` of them, in `columns` lanes of `phases` columns each, and 2^`levels` rows."""

    count: int
    columns: int
    phases: int
    levels: int
    registers: int


def cut(arguments: dict[str, int], r: int, weights: int, transposed: bool, lanes: int) -> Planes:
    """The planes of a program with so many lanes, whose filters have r rows of so many weights."""
    phases = arguments["stride_w"] if transposed else 1
    columns = int(triton.next_power_of_2(triton.cdiv(arguments["Q"] + arguments["padding_w"] % phases, phases)))
    # In a plane of few rows some rows of the filter meet none; and where they do not overlap, none is kept.
    kept = 0 if transposed and r <= arguments["stride_h"] else min(r, arguments["H"], arguments["P"])
    registers = kept * weights + arguments["P"] + OTHER_REGISTERS
    return Planes(max(1, lanes // columns), columns, phases, (arguments["P"] - 1).bit_length(), registers)


def serves(problem: ConvProblem, pass_: Pass, tile: PlaneTile, itemsize: int) -> bool:
    """Whether the rows of a result are no whole sectors, and its planes so small that programs own whole ones."""
    if problem.ndim != 2:
        return False
    arguments, sources = _arguments(problem, pass_)
    (r, s), p, q = problem.filter, arguments["P"], arguments["Q"]
    taps = r * s * sources
    if max(p, q) > LARGEST_PLANE or taps > MOST_TAPS or p * taps > MOST_STEPS or q * itemsize % SECTOR == 0:
        return False
    planes = cut(arguments, r, s * sources, pass_ == "dgrad", tile.lanes)
    if planes.phases not in (1, 2, 4):
        return False
    x = planes.count * sources * arguments["H"] * arguments["W"]
    shared = planes.count * planes.columns * planes.phases << planes.levels
    return (x + shared) * itemsize <= L1 // residents(tile.warps, planes.registers)


def plan_fprop(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: PlaneTile, bias: bool) -> Plan:
    """The launch for x, w, bias (or None) and y, dense and NCHW."""
    return Plan((_launch(problem, "fprop", dtype, tile, bias),))


def plan_dgrad(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: PlaneTile, bias: bool) -> Plan:
    """The launch for dy, w, bias (or None) and dx, dense and NCHW."""
    return Plan((_launch(problem, "dgrad", dtype, tile, bias),), names={"x": "dy", "y": "dx"})


def _arguments(problem: ConvProblem, pass_: Pass) -> tuple[dict[str, int], int]:
    """The sizes by the kernel's names, and how many planes of x are added up to one of y."""
    if pass_ == "fprop":
        return sizes(problem), 1
    return exchanged(sizes(problem)), problem.k // problem.c


def _launch(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, tile: PlaneTile, bias: bool) -> Launch:
    arguments, sources = _arguments(problem, pass_)
    r, s = problem.filter
    planes = cut(arguments, r, s * sources, pass_ == "dgrad", tile.lanes)
    all_planes, plane = problem.n * arguments["K"], arguments["P"] * arguments["Q"]
    return Launch(
        depthwise_planes,
        triton.cdiv(all_planes, planes.count),
        {"x": dtype, "w": dtype, "bias": dtype if bias else None, "y": dtype},
        {"planes": all_planes, "K": arguments["K"]},
        {name: size for name, size in arguments.items() if name not in "CK"}
        | {
            "R": r,
            "S": s,
            "MULTIPLIER": problem.k // problem.c if pass_ == "fprop" else 1,
            "SOURCES": sources,
            "TRANSPOSED": pass_ == "dgrad",
            "PHASES": planes.phases,
            "LEVELS": planes.levels,
            "COLUMNS": planes.columns,
            "PLANES": planes.count,
            "RUN": triton.next_power_of_2(planes.count * plane),
        },
        tile.warps,
        resident=max(1, 16 // tile.warps),
        registers=planes.registers,
    )
