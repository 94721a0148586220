"""grouped_fprop: grouped and dense convolution as an implicit GEMM on tensor cores.

    y[n, k, p, q] = bias[k] + sum over c, r, s of x[n, c, h, w] * w[k, c, r, s], c over the channels of k's group
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

Rows of the product are the outputs (n, p, q) of all images, columns the filters of a pack of groups, depth R * S taps
times the pack's channels (implicit_gemm.py). A program owns ROWS x COLUMNS of y in fp32 registers. Dilation, stride and
padding are parameters: they move the rows that a tap meets, and cost nothing. `tl.dot` becomes mma.sync on sm_80,
wgmma on sm_90, tcgen05.mma on sm_100; fp32 goes through tf32 where torch allows it, else through FMA.

Data movement. y is written once. x is loaded R * S times for each block of columns: through L1 where programs have one
stage, as the rows for packs do, since there memory binds; else by cp.async, which passes L1 by, and L2 serves
all but the first. The filter, small, is loaded once per block of rows. A step loads (ROWS + COLUMNS) * DEPTH elements
for 2 * ROWS * COLUMNS * DEPTH operations: 128 x 128 makes 64 FLOP per byte from L2 in fp16, 128 x 64 makes 43.
NHWC: channels lie side by side, so x, filter and y move by 16 bytes. NCHW: x moves by single elements, coalesced
along the row of the image; the filter's channels are R * S elements apart, and its sectors come from L1 for all taps
but the first.

The tile. 128 rows are what two warpgroups, or one tcgen05.mma, take; columns as many as groups have, for every further
block of columns loads x again; a depth of 64 is one 128-byte row of fp16 in shared memory.
"""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

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
def grouped_fprop(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    N,
    C,
    H,
    W,
    K,
    P,
    Q,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    group_c,
    group_k,
    R: tl.constexpr,
    S: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PACK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    packs = tl.cdiv(K // group_k, PACK)
    row, column, pack = locate_block(N * P * Q, PACK * group_k, packs, ROWS, COLUMNS)
    n = (row // (P * Q)).to(tl.int64)[:, None]
    pq = (row % (P * Q))[:, None]
    k = (pack * (PACK * group_k) + column)[None, :]
    group = (column // group_k)[None, :]
    first_c = pack * (PACK * group_c)
    column_inside = (column < PACK * group_k)[None, :] & (k < K)
    row_inside = (row < N * P * Q)[:, None]

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    w_channel, w_tap = (1, group_c) if CHANNELS_LAST else (R * S, 1)

    total = sum_of_taps(
        x_ptr + n * C * H * W + first_c * x_channel,
        row_inside,
        pq // Q * stride_h - padding_h,
        pq % Q * stride_w - padding_w,
        H,
        W,
        dilation_h,
        dilation_w,
        x_position,
        x_channel,
        # The pack's channels are counted through, a group's filter begins with its own.
        w_ptr + (k * (group_c * R * S) - group * (group_c * w_channel)),
        R,
        S,
        S * w_tap,
        w_tap,
        w_channel,
        min(PACK * group_c, C - first_c),
        group_c,
        group,
        column_inside,
        PACK,
        DEPTH,
        PRECISION,
        ACCUMULATOR,
    )
    if bias_ptr is not None:
        total += tl.load(bias_ptr + k, mask=column_inside, other=0.0).to(ACCUMULATOR)
    y = y_ptr + n * K * P * Q + (k * y_channel + pq * y_position)
    tl.store(y, total.to(y_ptr.dtype.element_ty), mask=row_inside & column_inside)


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: ProductTile, bias: bool) -> Plan:
    """The launch for x, w, bias (or None) and y, dense in the layout."""
    arguments = {"N": problem.n, **sizes(problem)}
    group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
    pack = packed_groups(problem, group_k, tile.columns)
    columns = block(tile.columns, pack * group_k)
    r, s = (1, *problem.filter)[-2:]
    programs = (
        triton.cdiv(problem.n * arguments["P"] * arguments["Q"], tile.rows)
        * triton.cdiv(problem.groups, pack)
        * triton.cdiv(pack * group_k, columns)
    )
    launch = Launch(
        grouped_fprop,
        programs,
        {"x": dtype, "w": dtype, "bias": dtype if bias else None, "y": dtype},
        arguments | {"group_c": group_c, "group_k": group_k},
        {
            "R": r,
            "S": s,
            "CHANNELS_LAST": layout == "NHWC",
            "PACK": pack,
            "ROWS": tile.rows,
            "COLUMNS": columns,
            "DEPTH": block(tile.depth, pack * group_c),
            "PRECISION": precision(dtype),
            "ACCUMULATOR": accumulator(dtype),
        },
        tile.warps,
        tile.stages,
        resident=1,
    )
    return Plan((launch,))
