"""depthwise_wgrad, version 0: partial sums over chunks of the batch, then a second kernel that adds the chunks.

    dw[k, r, s] = sum over n, p, q of dy[n, k, p, q] * x[n, k // multiplier, h, w]
    dbias[k]    = sum over n, p, q of dy[n, k, p, q]
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

A filter has few elements and each of them is a sum over the whole batch, so the sum is what has to be split. All N *
P * Q positions stand in one row, images included, so that small planes leave no thread idle. A program of the first
kernel owns a chunk of STEPS * POSITIONS of them times CHANNELS filters k. Tap by tap it keeps one sum per lane over
the chunk, adds up the lanes at the end, and writes the result to its own place in `partials` [chunk][tap][K], in fp32
(fp64 for double). The bias gradient is one more tap, which sees ones in place of x. The second kernel adds the chunks
in an order that depends on nothing but the problem: no atomics, and the result is bitwise repeatable.

Data movement. Compulsory are x and dy once and the filter. Both are loaded R * S times, but a chunk is small enough
(8 KB of each in NCHW, 32 KB in NHWC, in fp16) that L1 or L2 serves all loads except the first. The workspace is
written and read once: at 3x3 in fp16 0.5 % of dy in NCHW and 4 % in NHWC, but at 31x31 in NHWC almost 4 times dy.

The tile. NCHW: one channel and 128 contiguous positions, one per thread as in fprop, in 32 steps. NHWC: 32 channels
times 32 positions, as in fprop, in 16 steps. More steps would shrink the workspace, but leave fewer programs than a
GPU has room for; a sum that is shorter takes fewer.
"""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbound.kernels.launch import Launch, Plan
from convbound.kernels.tile import PositionTile, constants, sizes
from convbound.problem import ConvProblem, Layout


@triton.jit
def depthwise_wgrad(
    dy_ptr,
    x_ptr,
    partials_ptr,
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
    R: tl.constexpr,
    S: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
    BIAS: tl.constexpr,
):
    channel_tiles = tl.cdiv(K, CHANNELS)
    chunk = tl.program_id(0) // channel_tiles
    k = tl.program_id(0) % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)
    lanes = chunk * (STEPS * POSITIONS) + tl.arange(0, POSITIONS)[:, None]

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    x_begin = k[None, :] // MULTIPLIER * x_channel
    dy_begin = k[None, :] * y_channel
    partials_ptr += chunk.to(tl.int64) * K * (R * S + BIAS)

    accumulator: tl.constexpr = partials_ptr.dtype.element_ty
    for tap in range(R * S + BIAS):
        total = tl.zeros((POSITIONS, CHANNELS), accumulator)
        for step in range(STEPS):
            position = lanes + step * POSITIONS
            n = (position // (P * Q)).to(tl.int64)
            pq = position % (P * Q)
            h = pq // Q * stride_h - padding_h + tap // S * dilation_h
            w = pq % Q * stride_w - padding_w + tap % S * dilation_w
            inside = (position < N * P * Q) & (k[None, :] < K)
            in_image = inside & (tap < R * S) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            dy = tl.load(dy_ptr + n * K * P * Q + (dy_begin + pq * y_position), mask=inside, other=0.0)
            x = tl.load(x_ptr + n * C * H * W + (x_begin + (h * W + w) * x_position), mask=in_image, other=0.0)
            total += dy.to(accumulator) * tl.where(tap < R * S, x.to(accumulator), 1.0)
        tl.store(partials_ptr + tap * K + k, tl.sum(total, axis=0), mask=k < K)


@triton.jit
def depthwise_wgrad_sum(
    partials_ptr,
    dw_ptr,
    dbias_ptr,
    chunks,
    K,
    TAPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channel_tiles = tl.cdiv(K, CHANNELS)
    tap = tl.program_id(0) // channel_tiles
    k = tl.program_id(0) % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)
    row = tl.arange(0, CHUNKS)[:, None]
    rows = TAPS + (dbias_ptr is not None)  # of one chunk

    total = tl.zeros((CHUNKS, CHANNELS), partials_ptr.dtype.element_ty)
    for first in range(0, chunks, CHUNKS):
        offset = ((first + row).to(tl.int64) * rows + tap) * K + k[None, :]
        total += tl.load(partials_ptr + offset, mask=(first + row < chunks) & (k[None, :] < K), other=0.0)
    result = tl.sum(total, axis=0).to(dw_ptr.dtype.element_ty)
    tl.store(dw_ptr + k * TAPS + tap, result, mask=(k < K) & (tap < TAPS))
    if dbias_ptr is not None:
        tl.store(dbias_ptr + k, result, mask=(k < K) & (tap == TAPS))


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: PositionTile, bias: bool) -> Plan:
    """The launches for dy, x, dw and dbias (or None), dense in the layout, with the workspace between them."""
    arguments = {"N": problem.n, **sizes(problem)}
    positions = problem.n * arguments["P"] * arguments["Q"]
    steps = min(tile.steps, triton.next_power_of_2(max(1, triton.cdiv(positions, tile.positions))))
    chunks = triton.cdiv(positions, tile.positions * steps)
    constant = constants(problem, layout, tile) | {"STEPS": steps, "BIAS": int(bias)}
    taps = constant["R"] * constant["S"]
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32

    first = Launch(
        depthwise_wgrad,
        chunks * triton.cdiv(problem.k, tile.channels),
        {"dy": dtype, "x": dtype, "partials": accumulator},
        arguments,
        constant,
        tile.warps,
    )
    second = Launch(
        depthwise_wgrad_sum,
        (taps + bias) * triton.cdiv(problem.k, 32),
        {"partials": accumulator, "dw": dtype, "dbias": dtype if bias else None},
        {"chunks": chunks, "K": problem.k},
        {"TAPS": taps, "CHUNKS": 64, "CHANNELS": 32},
        tile.warps,
    )
    return Plan((first, second), {"partials": (chunks * (taps + bias) * problem.k, accumulator)})
