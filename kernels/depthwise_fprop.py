"""depthwise_fprop, version 0: each output reads its inputs as the equation says.

    y[n, k, p, q] = bias[k] + sum over r, s of x[n, k // multiplier, h, w] * w[k, r, s]
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

A program owns a tile of one image, POSITIONS outputs (p, q) times CHANNELS filters k, and walks over the R * S taps.
For each it loads the inputs of all outputs of the tile and one filter element per channel; nothing is kept between
taps.

Data movement. Compulsory are x and y once and the filter. y is written once. x is loaded R * S times, from L1 except
for the first time; from L2 it comes once, plus the halo of (R - 1) * dilation rows around a tile, plus once per
further filter of the same channel. The filter of a depthwise convolution is [K][R][S] in both layouts. In NHWC
channels lie side by side, so all loads of x are vectors where C is divisible by 16. In NCHW neighbouring taps are one
element apart, so no more than one in four could be a vector: Triton loads single elements.

The tile. NCHW: one channel and 128 positions, one per thread, so that the single elements which a warp loads lie side
by side; 4 per thread would spread each request over 4 times as many sectors. A plane smaller than the tile leaves
threads idle. NHWC: 32 channels are 64 bytes of fp16, two whole sectors, and waste little of most channel counts; 32
positions make it 8 elements per thread, a 16-byte vector of fp16.
"""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbound.kernels.launch import Launch, Plan
from convbound.kernels.tile import PositionTile, constants, locate, sizes
from convbound.problem import ConvProblem, Layout


@triton.jit
def depthwise_fprop(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
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
):
    n, pq, k = locate(K, P * Q, CHANNELS, POSITIONS)
    inside = (pq < P * Q) & (k < K)
    c = k // MULTIPLIER
    h0 = pq // Q * stride_h - padding_h
    w0 = pq % Q * stride_w - padding_w

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    x_ptr += n * C * H * W
    y_ptr += n * K * P * Q

    accumulator: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((POSITIONS, CHANNELS), accumulator)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + k, mask=k < K, other=0.0).to(accumulator)
    for tap in range(R * S):
        h = h0 + tap // S * dilation_h
        w = w0 + tap % S * dilation_w
        in_image = inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        x = tl.load(x_ptr + c * x_channel + (h * W + w) * x_position, mask=in_image, other=0.0)
        weight = tl.load(w_ptr + k * (R * S) + tap, mask=k < K, other=0.0)
        total += x.to(accumulator) * weight.to(accumulator)
    tl.store(y_ptr + k * y_channel + pq * y_position, total.to(y_ptr.dtype.element_ty), mask=inside)


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: PositionTile, bias: bool) -> Plan:
    """The launch for x, w, bias (or None) and y, dense in the layout."""
    arguments = sizes(problem)
    tiles = triton.cdiv(problem.k, tile.channels) * triton.cdiv(arguments["P"] * arguments["Q"], tile.positions)
    tensors = {"x": dtype, "w": dtype, "bias": dtype if bias else None, "y": dtype}
    constant = constants(problem, layout, tile)
    return Plan((Launch(depthwise_fprop, problem.n * tiles, tensors, arguments, constant, tile.warps),))
