"""The index arithmetic of convolution as a matrix product: device code that the grouped kernels share.

A product has rows, columns and depth. In fprop and dgrad rows are positions of the result in all images, columns its
channels, and depth the taps times the channels that are summed; in wgrad rows are filters, columns taps times channels,
and depth the positions of all outputs. No matrix is ever written out: each step of a product loads one block of
each operand from where the convolution has it.

Groups. Channels of different groups do not meet, and a group may be smaller than the smallest product of a tensor core
(16). So PACK neighbouring groups are treated as one whose filter is zero outside of the groups on its diagonal: the
zeros come from a mask, not from memory. It multiplies PACK times too much, at a rate that memory cannot follow anyway,
and loads all channels of the pack at once, each once. A large group is a pack of one.
"""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from convbound.kernels.precision import allows_tf32
from convbound.kernels.tile import Tile
from convbound.problem import ConvProblem

# What a tensor core takes at least of rows, columns and depth.
LEAST_BLOCK = 16


@triton.jit
def locate_block(rows, columns, packs, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows [ROWS], the columns [COLUMNS] and the pack of this program.

    Programs are numbered columns first, then packs, then rows, so that those which read the same rows run together.
    """
    program = tl.program_id(0)
    column_blocks = tl.cdiv(columns, COLUMNS)
    rest = program // column_blocks
    column = program % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    row = rest // packs * ROWS + tl.arange(0, ROWS)
    return row, column, rest % packs


@triton.jit
def sum_of_taps(
    source_ptrs,
    row_inside,
    first_h,
    first_w,
    H,
    W,
    step_h,
    step_w,
    position_stride,
    channel_stride,
    filter_ptrs,
    taps_h,
    taps_w,
    filter_stride_h,
    filter_stride_w,
    filter_stride_depth,
    depth,
    group_depth,
    column_group,
    column_inside,
    PACK: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    """The sum over taps and channels of source times filter, [ROWS, COLUMNS].

    Tap (i, j) of a row meets its image of H x W, `source_ptrs` [ROWS, 1], at h = first_h + i * step_h and w alike;
    outside of the image it meets zeros. Its filter lies at `filter_ptrs` [1, COLUMNS] + i * filter_stride_h + ….
    `depth` channels are summed, of which `group_depth` belong to a group: a column takes those of `column_group` alone.
    Channels are the outer loop and taps the inner one, for all taps of a block of channels read the same sectors.
    """
    total = tl.zeros((first_h.shape[0], column_group.shape[1]), ACCUMULATOR)
    taps = taps_h * taps_w
    for step in range(taps * tl.cdiv(depth, DEPTH)):
        channel = step // taps * DEPTH + tl.arange(0, DEPTH)
        tap_h = step % taps // taps_w
        tap_w = step % taps % taps_w
        h = first_h + tap_h * step_h
        w = first_w + tap_w * step_w
        in_image = row_inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        position_ptrs = source_ptrs + (h * W + w) * position_stride
        source_inside = in_image & (channel < depth)[None, :]
        source = tl.load(position_ptrs + channel[None, :] * channel_stride, mask=source_inside, other=0.0)

        taken = column_inside & (channel < depth)[:, None]
        if PACK > 1:
            taken &= channel[:, None] // group_depth == column_group
        tap = tap_h * filter_stride_h + tap_w * filter_stride_w
        weight = tl.load(filter_ptrs + (tap + channel[:, None] * filter_stride_depth), mask=taken, other=0.0)
        total = tl.dot(source, weight, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    return total


@dataclass(frozen=True)
class ProductTile(Tile):
    """`rows` x `columns` of a product's result, and so much of its `depth` to a step.

    The loads of so many steps, the `stages`, are under way at once.
    """

    rows: int
    columns: int
    depth: int
    stages: int = 1


def packed_groups(problem: ConvProblem, columns_per_group: int, columns: int) -> int:
    """How many groups are treated as one, so that they fill a tile's columns."""
    return min(problem.groups, max(1, columns // columns_per_group))


def block(most: int, size: int) -> int:
    """The block for a size: a power of two, no larger than need be."""
    return max(LEAST_BLOCK, min(most, int(triton.next_power_of_2(size))))


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """What products of a dtype are summed in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def precision(dtype: torch.dtype) -> str:
    """How fp32 is multiplied: by tf32 where torch lets cuDNN's convolutions do so. Other dtypes know no choice."""
    return "tf32" if dtype == torch.float32 and allows_tf32() else "ieee"
