"""depthwise_toeplitz: depthwise fprop, and dgrad of stride 1, with a large filter, as matrix products of 16-bit types.

    y[n, k, p, q] = bias[k] + sum over r, s of x[n, k // multiplier, p + r - padding_h, q + s - padding_w] * w[k, r, s]

For one channel and one row r of its filter that is a product: rows are rows (n, p) of images, columns 16 neighbouring
outputs q, and depth a WINDOW of columns of x that covers all which these outputs see. The right operand is the band
matrix T[i, j] = w[k, r, i - j - shift], zero outside of the filter, the same for every 16 columns: a Toeplitz matrix.
It is gathered from w for each r, and serves all ROWS x 16 * BLOCKS outputs of a program. So an output costs R * WINDOW
multiply-adds on tensor cores instead of R * S on the others. dgrad is the same with the filter turned round, as in
depthwise_rows: FLIP and SOURCES.

The useful fraction is S / WINDOW: 22 % at 7, 28 % at 9, 41 % at 13, with a window of 32; 48 % at 31 with one of 64. At
7x7 on sm_90 an output takes at most 111 instructions: all 507 of the kernel R times, shared by 32 outputs per thread.
depthwise_rows has 643, most of them in a loop that yields one output per thread. The window begins at a multiple of
ALIGN columns at or before the first that is needed (`shift` are the columns in between), so that x is loaded by ALIGN
elements at once, 16 bytes where 8 divides W and the window has room. An infinity or NaN in x times a zero of T is a
NaN: it reaches outputs as far as the window does.

Data movement, of fp16 at 56x56. L2: x once, and the halo of R - 1 rows per ROWS of them, for a program walks over all
columns and L1 holds its rows; y once, but each block of 16 columns is stored by itself, and rows of 112 bytes are no
whole sectors: counted 1.28 times compulsory at 9x9, 1.43 times at 31x31. L1: x R times, WINDOW / 16 columns for each
output, which is 4 R bytes per output at 9x9, by 16 bytes; the filter 16 * WINDOW elements per row, for ROWS * 16 *
BLOCKS outputs. Loads are not pipelined: asynchronous copies of 16 bytes pass by L1, and would come from L2 R times.

The tile. 128 rows, or 64 for a window of 64, of several images where a plane has fewer, times up to 8 blocks of 16
columns, by 8 warps: at most 64 registers of sums per thread. More rows spill where x is not aligned.
"""

# Tuples in Triton know concatenation, but no unpacking.
# ruff: noqa: RUF005
# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from convbound.kernels.depthwise_rows import as_dgrad
from convbound.kernels.launch import Launch, Plan
from convbound.kernels.limits import LARGEST
from convbound.kernels.tile import Tile, sizes
from convbound.problem import ConvProblem, Layout

WIDTH = 16  # of a block of outputs
MOST_BLOCKS = 8
WINDOWS = (32, 64)
LEAST_TAPS = 36


@triton.jit
def depthwise_toeplitz(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    N,
    C,
    H,
    K,
    P,
    x_vectors,
    y_vectors,
    padding_h,
    lead,
    shift,
    R: tl.constexpr,
    S: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SOURCES: tl.constexpr,
    FLIP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    WINDOW: tl.constexpr,
    ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
):
    # As products, for the compiler to see what divides them.
    x_width = x_vectors * ALIGN
    y_width = y_vectors * Y_ALIGN
    # Programs are numbered columns first, then rows and channels.
    column_tiles = tl.cdiv(y_width, WIDTH * BLOCKS)
    row_tiles = tl.cdiv(N * P, ROWS)
    first_q = tl.program_id(0) % column_tiles * (WIDTH * BLOCKS)
    rest = tl.program_id(0) // column_tiles
    row = rest % row_tiles * ROWS + tl.arange(0, ROWS)
    k = rest // row_tiles
    n = (row // P).to(tl.int64)
    p = row % P
    i = tl.arange(0, WINDOW)
    j = tl.arange(0, WIDTH)
    s = i[:, None] - j[None, :] - shift
    first_column = first_q - lead * ALIGN
    x_rows = x_ptr + (n * C + k // MULTIPLIER * SOURCES) * H * x_width

    totals = (tl.zeros((ROWS, WIDTH), tl.float32),) * BLOCKS
    for step in range(SOURCES * R):
        source = step // R
        tap = step % R * S + s
        weights = w_ptr + (k * SOURCES + source).to(tl.int64) * (R * S)
        place = (R * S - 1 - tap) if FLIP else tap
        band = tl.load(weights + place, mask=(s >= 0) & (s < S), other=0.0)
        h = p + step % R - padding_h
        inside = (row < N * P) & (h >= 0) & (h < H)
        row_ptrs = x_rows + (source * H + h) * x_width
        sums = ()
        for block in tl.static_range(BLOCKS):
            column = first_column + block * WIDTH + i
            in_image = inside[:, None] & (column >= 0)[None, :] & (column < x_width)[None, :]
            x = tl.load(row_ptrs[:, None] + column[None, :], mask=in_image, other=0.0)
            sums = sums + (tl.dot(x, band, totals[block]),)
        totals = sums

    start = 0.0
    if bias_ptr is not None:
        start = tl.load(bias_ptr + k).to(tl.float32)
    y_rows = y_ptr + (n * K + k) * P * y_width + p * y_width
    for block in tl.static_range(BLOCKS):
        q = first_q + block * WIDTH + j
        inside = (row < N * P)[:, None] & (q < y_width)[None, :]
        tl.store(y_rows[:, None] + q[None, :], (totals[block] + start).to(y_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class ToeplitzTile(Tile):
    """So many `rows` of images with the smallest window, and with a larger one as many fewer."""

    rows: int


def window(filter_width: int) -> int | None:
    """The columns that 16 outputs see, rounded up to what a product can have; None where it is too many."""
    return next((size for size in WINDOWS if size >= WIDTH + filter_width - 1), None)


def serves(problem: ConvProblem) -> bool:
    """Whether the filter is large enough, its rows are no wider than a window, and there are no gaps.

    And whether the rows of all images can be counted.
    """
    plain = problem.ndim == 2 and problem.stride == problem.dilation == (1, 1)
    fits = math.prod(problem.filter) >= LEAST_TAPS and window(problem.filter[-1]) is not None
    return plain and fits and problem.n * max(problem.input[0], problem.output[0]) <= LARGEST


def plan_fprop(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: ToeplitzTile, bias: bool) -> Plan:
    """The launch for x, w, bias (or None) and y, dense in NCHW."""
    constants = {"MULTIPLIER": problem.k // problem.c, "SOURCES": 1, "FLIP": False}
    return Plan((_launch(problem, sizes(problem), constants, dtype, tile, bias),))


def plan_dgrad(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: ToeplitzTile, bias: bool) -> Plan:
    """The launch for dy, w, bias (or None) and dx, dense in NCHW."""
    constants = {"MULTIPLIER": 1, "SOURCES": problem.k // problem.c, "FLIP": True}
    launch = _launch(problem, as_dgrad(problem), constants, dtype, tile, bias)
    return Plan((launch,), names={"x": "dy", "y": "dx"})


def _launch(
    problem: ConvProblem,
    arguments: dict[str, int],
    constants: dict[str, int | bool],
    dtype: torch.dtype,
    tile: ToeplitzTile,
    bias: bool,
) -> Launch:
    r, s = problem.filter
    depth = window(s)
    assert depth is not None  # serves
    # As many columns at once as divide a row and as the window has room for.
    room = depth - (WIDTH + s - 1)
    align = next(size for size in (8, 4, 2, 1) if arguments["W"] % size == 0 and size - 1 <= room)
    lead = -(-arguments["padding_w"] // align)
    y_align = math.gcd(arguments["Q"], 8)
    blocks = min(MOST_BLOCKS, int(triton.next_power_of_2(triton.cdiv(arguments["Q"], WIDTH))))
    rows = tile.rows * WINDOWS[0] // depth
    row_tiles = triton.cdiv(problem.n * arguments["P"], rows)
    return Launch(
        depthwise_toeplitz,
        triton.cdiv(arguments["Q"], WIDTH * blocks) * row_tiles * arguments["K"],
        {"x": dtype, "w": dtype, "bias": dtype if bias else None, "y": dtype},
        {name: arguments[name] for name in ("C", "H", "K", "P", "padding_h")}
        | {
            "N": problem.n,
            "x_vectors": arguments["W"] // align,
            "y_vectors": arguments["Q"] // y_align,
            "lead": lead,
            "shift": lead * align - arguments["padding_w"],
        },
        constants
        | {
            "R": r,
            "S": s,
            "ROWS": rows,
            "WIDTH": WIDTH,
            "BLOCKS": blocks,
            "WINDOW": depth,
            "ALIGN": align,
            "Y_ALIGN": y_align,
        },
        tile.warps,
        resident=1,
        registers=rows * WIDTH * blocks // (32 * tile.warps),
    )
