"""transposed_depthwise: depthwise dgrad with a stride, by gather; with a bias the forward of a transposed convolution.

    dx[n, c, h, w] = bias[c] + sum over m, r, s of dy[n, k, p, q] * w[k, r, s]
    with k = c * multiplier + m, and p and q where p * stride_h = h + padding_h - r * dilation_h, and q alike

A lane owns a block of stride_h x stride_w inputs, h + padding_h = i * stride_h + a and w alike. Tap r meets exactly one
of its rows, a = (r * dilation_h) mod stride_h, and there p = i - (r * dilation_h) / stride_h, rounded down. Both are
known to the compiler: so every tap is used once per block, no lane is idle, no zero is inserted, and nothing is divided
in the kernel. A program walks down ROWS rows of blocks, COLUMNS wide, of CHANNELS channels. Every dx has one owner: no
atomics.

Cost per block of stride_h * stride_w inputs. L1: one load of dy for each distinct (p, q), that is ceil(R / stride_h) *
ceil(S / stride_w), one per input for 4x4 at stride 2. Arithmetic: R * S FMA. L2: dy once, and the halo of a strip of
rows; dx once. NCHW: neighbouring inputs belong to different phases of a block; at stride_w 1, 2 and 4 they are put in
turn in registers, and stores are contiguous, else each phase stores by itself, every stride_w-th element.
NHWC: channels are contiguous, loads and stores are vectors. The filter stays in registers, R * S for each channel of a
thread; so does the block.

The tile is that of depthwise_rows, for the same reasons.
"""

# Tuples in Triton know concatenation, but no unpacking.
# ruff: noqa: RUF005
# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from convbound.kernels import strips
from convbound.kernels.launch import Launch, Plan
from convbound.kernels.tile import sizes
from convbound.problem import ConvProblem, Layout

MOST_TAPS = 49  # in registers
MOST_BLOCK = 16  # inputs


@triton.constexpr_function
def is_first(tap, stride, dilation):
    """Whether a tap is the first one that meets its row of dy, or column: neighbours may meet the same."""
    return tap == 0 or tap * dilation // stride > (tap - 1) * dilation // stride


@triton.jit
def add_to(sums, place: tl.constexpr, term):
    """The sums, with the term added to the one at a place; a negative one has none."""
    if place >= 0:
        sums = sums[:place] + (sums[place] + term,) + sums[place + 1 :]
    return sums


@triton.jit
def in_turn(block, first: tl.constexpr, COUNT: tl.constexpr):
    """The elements of COUNT (1, 2 or 4) tensors of a block in turn, along their last axis."""
    if COUNT == 1:
        together = block[first]
    elif COUNT == 2:
        together = tl.interleave(block[first], block[first + 1])
    else:
        even = tl.interleave(block[first], block[first + 2])
        together = tl.interleave(even, tl.interleave(block[first + 1], block[first + 3]))
    return together


@triton.jit
def transposed_depthwise(
    dy_ptr,
    w_ptr,
    bias_ptr,
    dx_ptr,
    C,
    H,
    W,
    K,
    P,
    Q,
    blocks_h,
    blocks_w,
    first_p,
    first_q,
    first_h,
    first_w,
    rows,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    SOURCES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Programs are numbered columns first, then strips of rows, channels and images. Block (0, 0) begins at (first_h,
    # first_w), at or before the image, and its tap 0 meets dy at (first_p, first_q).
    column_tiles = tl.cdiv(blocks_w, COLUMNS)
    strips_ = tl.cdiv(blocks_h, rows)
    channel_tiles = tl.cdiv(C, CHANNELS)
    rest = tl.program_id(0) // column_tiles
    j = tl.program_id(0) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    first_i = rest % strips_ * rows
    rest = rest // strips_
    c = rest % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)
    n = (rest // channel_tiles).to(tl.int64)
    j = j[:, None] if CHANNELS_LAST else j[None, :]
    c = c[None, :] if CHANNELS_LAST else c[:, None]

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    dy_ptrs = dy_ptr + n * K * P * Q + c * (SOURCES * y_channel)
    dx_ptrs = dx_ptr + n * C * H * W + c * x_channel

    accumulator: tl.constexpr = tl.float64 if dy_ptr.dtype.element_ty == tl.float64 else tl.float32
    start = j * 0 + c * 0 + tl.zeros((1, 1), accumulator)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + c, mask=c < C, other=0.0).to(accumulator)
    weights = ()
    for tap in tl.static_range(SOURCES * R * S):
        weight = tl.load(w_ptr + c * (SOURCES * R * S) + tap, mask=c < C, other=0.0)
        weights = weights + (weight.to(accumulator),)

    for i in range(first_i, min(first_i + rows, blocks_h)):
        block = (start,) * (STRIDE_H * STRIDE_W)
        for first_r in tl.static_range(R):
            if is_first(first_r, STRIDE_H, DILATION_H):
                p = i + first_p - first_r * DILATION_H // STRIDE_H
                for first_s in tl.static_range(S):
                    if is_first(first_s, STRIDE_W, DILATION_W):
                        q = j + first_q - first_s * DILATION_W // STRIDE_W
                        met = (p >= 0) & (p < P) & (q >= 0) & (q < Q) & (j < blocks_w) & (c < C)
                        for source in tl.static_range(SOURCES):
                            offset = (p * Q + q) * y_position + source * y_channel
                            dy = tl.load(dy_ptrs + offset, mask=met, other=0.0).to(accumulator)
                            for r in tl.static_range(first_r, R):
                                if r * DILATION_H // STRIDE_H == first_r * DILATION_H // STRIDE_H:
                                    for s in tl.static_range(first_s, S):
                                        if s * DILATION_W // STRIDE_W == first_s * DILATION_W // STRIDE_W:
                                            block = add_to(
                                                block,
                                                r * DILATION_H % STRIDE_H * STRIDE_W + s * DILATION_W % STRIDE_W,
                                                dy * weights[(source * R + r) * S + s],
                                            )
        for a in tl.static_range(STRIDE_H):
            h = i * STRIDE_H + a + first_h
            row_inside = (h >= 0) & (h < H) & (c < C)
            row_ptrs = dx_ptrs + h * W * x_position
            if CHANNELS_LAST or not (STRIDE_W == 1 or STRIDE_W == 2 or STRIDE_W == 4):
                for b in tl.static_range(STRIDE_W):
                    w = j * STRIDE_W + b + first_w
                    result = block[a * STRIDE_W + b].to(dx_ptr.dtype.element_ty)
                    inside = row_inside & (w >= 0) & (w < W) & (j < blocks_w)
                    tl.store(row_ptrs + w * x_position, result, mask=inside)
            else:
                begin = tl.program_id(0) % column_tiles * (COLUMNS * STRIDE_W)
                w = begin + tl.arange(0, COLUMNS * STRIDE_W)[None, :] + first_w
                phases = in_turn(block, a * STRIDE_W, STRIDE_W)
                inside = row_inside & (w >= 0) & (w < W)
                tl.store(row_ptrs + w * x_position, phases.to(dx_ptr.dtype.element_ty), mask=inside)


def serves(problem: ConvProblem) -> bool:
    """Whether filter and block fit into registers."""
    taps = math.prod(problem.filter) * (problem.k // problem.c)
    return taps <= MOST_TAPS and 1 < math.prod(problem.stride) <= MOST_BLOCK


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: strips.StripTile, bias: bool) -> Plan:
    """The launch for dy, w, bias (or None) and dx, dense in the layout."""
    given = sizes(problem)
    r, s = (1, *problem.filter)[-2:]
    stride_h, stride_w, dilation_h, dilation_w = (
        given[f"{name}_{axis}"] for name in ("stride", "dilation") for axis in "hw"
    )
    blocks_h = triton.cdiv(given["H"] + given["padding_h"] % stride_h, stride_h)
    blocks_w = triton.cdiv(given["W"] + given["padding_w"] % stride_w, stride_w)
    # To the strips it is a convolution of dy without stride or dilation, whose outputs are blocks.
    of_blocks = {"C": given["K"], "H": given["P"], "W": given["Q"], "K": given["C"], "P": blocks_h, "Q": blocks_w}
    of_blocks |= {"stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}
    reach_h, reach_w = (r - 1) * dilation_h // stride_h + 1, (s - 1) * dilation_w // stride_w + 1
    cut = strips.cut(of_blocks, reach_h, reach_w, tile, layout, dtype, wgrad=False)
    launch = Launch(
        transposed_depthwise,
        cut.of_a_plane * triton.cdiv(problem.c, cut.channels) * problem.n,
        {"dy": dtype, "w": dtype, "bias": dtype if bias else None, "dx": dtype},
        {name: given[name] for name in "CHWKPQ"}
        | {
            "blocks_h": blocks_h,
            "blocks_w": blocks_w,
            "first_p": given["padding_h"] // stride_h,
            "first_q": given["padding_w"] // stride_w,
            "first_h": -(given["padding_h"] % stride_h),
            "first_w": -(given["padding_w"] % stride_w),
            "rows": cut.rows,
        },
        {
            "R": r,
            "S": s,
            "STRIDE_H": stride_h,
            "STRIDE_W": stride_w,
            "DILATION_H": dilation_h,
            "DILATION_W": dilation_w,
            "SOURCES": problem.k // problem.c,
            "CHANNELS_LAST": layout == "NHWC",
            "COLUMNS": cut.columns,
            "CHANNELS": cut.channels,
        },
        cut.warps,
        resident=max(1, 16 // cut.warps),
        registers=cut.registers,
    )
    return Plan((launch,))
