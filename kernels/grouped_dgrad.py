"""grouped_dgrad: the gradient of the input as an implicit GEMM that gathers; forward of a transposed convolution.

    dx[n, c, h, w] = bias[c] + sum over k, r, s of dy[n, k, p, q] * w[k, c, r, s], k over the filters of c's group
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

With stride > 1 only some taps meet an input, and which ones depends on its phase, (h + padding_h) % stride_h. All
inputs of a phase take the same taps, every (stride / gcd(stride, dilation))-th one, so a phase is an ordinary
product with rows (n, i, j), where h + padding_h = stride_h * i + phase. A program owns ROWS whole blocks of stride_h x
stride_w inputs, and computes its phases one after the other: each tap is used once per block, and work is even over
programs. No zeros are inserted, no tap is loaded for nothing, nothing is scattered. Stride 1 has one phase.

Data movement. dx is written once. A block of rows loads dy once per tap and block of columns, as grouped_fprop loads x;
phases read the same rows of dy one after the other, so L1 or L2 serves all loads but the first. NHWC: channels
lie side by side, and a phase's stores are whole sectors from 16 channels of fp16 on. NCHW: the stores of a phase lie
stride_w elements apart; a sector is written by stride_w phases of one program, and put together in L2.
The filter is read along its input channels: in NHWC by 16 bytes, in NCHW R * S elements apart, from L1.

The tile is that of grouped_fprop, for the same reasons.
"""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from convbound.kernels.implicit_gemm import (
    ProductTile,
    accumulator,
    block,
    locate_block,
    packed_groups,
    precision,
    sum_of_taps,
)
from convbound.kernels.launch import Launch, Plan
from convbound.kernels.tile import sizes
from convbound.problem import ConvProblem, Layout


@triton.jit
def first_tap(phase, dilation, TAPS: tl.constexpr, STRIDE: tl.constexpr):
    """The first tap that meets inputs of a phase, TAPS if none does; it is among the first STRIDE ones."""
    first = TAPS
    for before in tl.static_range(min(TAPS, STRIDE)):
        tap = min(TAPS, STRIDE) - 1 - before
        first = tl.where((phase - tap * dilation) % STRIDE == 0, tap, first)
    return first


@triton.jit
def grouped_dgrad(
    dy_ptr,
    w_ptr,
    bias_ptr,
    dx_ptr,
    N,
    C,
    H,
    W,
    K,
    P,
    Q,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    every_h,
    every_w,
    group_c,
    group_k,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PACK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    # Blocks of stride_h x stride_w inputs; the first begins above and left of the image, unless stride divides padding.
    blocks_h = tl.cdiv(H + padding_h % STRIDE_H, STRIDE_H)
    blocks_w = tl.cdiv(W + padding_w % STRIDE_W, STRIDE_W)
    packs = tl.cdiv(K // group_k, PACK)
    row, column, pack = locate_block(N * blocks_h * blocks_w, PACK * group_c, packs, ROWS, COLUMNS)
    n = (row // (blocks_h * blocks_w)).to(tl.int64)[:, None]
    i = (row // blocks_w % blocks_h)[:, None] + padding_h // STRIDE_H
    j = (row % blocks_w)[:, None] + padding_w // STRIDE_W
    c = (pack * (PACK * group_c) + column)[None, :]
    group = (column // group_c)[None, :]
    first_k = pack * (PACK * group_k)
    column_inside = (column < PACK * group_c)[None, :] & (c < C)
    row_inside = (row < N * blocks_h * blocks_w)[:, None]

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    w_channel, w_tap = (1, group_c) if CHANNELS_LAST else (R * S, 1)
    filters = w_ptr + (first_k * (group_c * R * S) + (column - column // group_c * group_c)[None, :] * w_channel)

    for phase in range(STRIDE_H * STRIDE_W):
        phase_h = phase // STRIDE_W
        phase_w = phase % STRIDE_W
        first_r = first_tap(phase_h, dilation_h, R, STRIDE_H)
        first_s = first_tap(phase_w, dilation_w, S, STRIDE_W)
        total = sum_of_taps(
            dy_ptr + n * K * P * Q + first_k * y_channel,
            row_inside,
            i + (phase_h - first_r * dilation_h) // STRIDE_H,
            j + (phase_w - first_s * dilation_w) // STRIDE_W,
            P,
            Q,
            -(every_h * dilation_h // STRIDE_H),
            -(every_w * dilation_w // STRIDE_W),
            y_position,
            y_channel,
            filters + (first_r * S + first_s) * w_tap,
            tl.cdiv(R - first_r, every_h),
            tl.cdiv(S - first_s, every_w),
            every_h * S * w_tap,
            every_w * w_tap,
            group_c * R * S,
            min(PACK * group_k, K - first_k),
            group_k,
            group,
            column_inside,
            PACK,
            DEPTH,
            PRECISION,
            ACCUMULATOR,
        )
        if bias_ptr is not None:
            total += tl.load(bias_ptr + c, mask=column_inside, other=0.0).to(ACCUMULATOR)
        h = i * STRIDE_H + phase_h - padding_h
        w = j * STRIDE_W + phase_w - padding_w
        inside = row_inside & column_inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        # Position and image first: the rest would be kept for all phases, in too many registers.
        position_ptrs = dx_ptr + (n * C * H * W + (h * W + w) * x_position)
        tl.store(position_ptrs + c * x_channel, total.to(dx_ptr.dtype.element_ty), mask=inside)


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: ProductTile, bias: bool) -> Plan:
    """The launch for dy, w, bias (or None) and dx, dense in the layout."""
    arguments = {"N": problem.n, **sizes(problem)}
    stride_h, stride_w = arguments.pop("stride_h"), arguments.pop("stride_w")
    group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
    pack = packed_groups(problem, group_c, tile.columns)
    columns = block(tile.columns, pack * group_c)
    r, s = (1, *problem.filter)[-2:]
    blocks_h = triton.cdiv(arguments["H"] + arguments["padding_h"] % stride_h, stride_h)
    blocks_w = triton.cdiv(arguments["W"] + arguments["padding_w"] % stride_w, stride_w)
    programs = (
        triton.cdiv(problem.n * blocks_h * blocks_w, tile.rows)
        * triton.cdiv(problem.groups, pack)
        * triton.cdiv(pack * group_c, columns)
    )
    every_h = stride_h // math.gcd(stride_h, arguments["dilation_h"])
    every_w = stride_w // math.gcd(stride_w, arguments["dilation_w"])
    launch = Launch(
        grouped_dgrad,
        programs,
        {"dy": dtype, "w": dtype, "bias": dtype if bias else None, "dx": dtype},
        arguments | {"every_h": every_h, "every_w": every_w, "group_c": group_c, "group_k": group_k},
        {
            "R": r,
            "S": s,
            "STRIDE_H": stride_h,
            "STRIDE_W": stride_w,
            "CHANNELS_LAST": layout == "NHWC",
            "PACK": pack,
            "ROWS": tile.rows,
            "COLUMNS": columns,
            "DEPTH": block(tile.depth, pack * group_k),
            "PRECISION": precision(dtype),
            "ACCUMULATOR": accumulator(dtype),
        },
        tile.warps,
        tile.stages,
        resident=1,
    )
    return Plan((launch,))
