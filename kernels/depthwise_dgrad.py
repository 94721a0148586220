"""depthwise_dgrad, version 0: each input gathers from the outputs that it took part in.

    dx[n, c, h, w] = bias[c] + sum over m, r, s of dy[n, k, p, q] * w[k, r, s]
    with k = c * multiplier + m, and p and q where p * stride_h = h + padding_h - r * dilation_h, and q alike

With a bias this is the forward of a transposed convolution. A program owns a tile of one image, POSITIONS inputs (h, w)
times CHANNELS channels c, and walks over multiplier * R * S taps. A tap meets an input only where the division by the
stride leaves no remainder: with stride 2 in three of four cases it loads nothing, yet costs its two divisions.

Data movement. Compulsory are dy and dx once and the filter. dx is written once. dy is loaded R * S / (stride_h *
stride_w) times, from L1 except for the first time; from L2 it comes once, plus a halo of (R - 1) * dilation / stride
rows around a tile. No zeros are inserted, nothing is scattered, and no atomics: every sum has one owner.

The tile is that of depthwise_fprop, for the same reasons.
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
def depthwise_dgrad(
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
    n, hw, c = locate(C, H * W, CHANNELS, POSITIONS)
    inside = (hw < H * W) & (c < C)
    h0 = hw // W + padding_h
    w0 = hw % W + padding_w

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    dx_ptr += n * C * H * W
    dy_ptr += n * K * P * Q

    accumulator: tl.constexpr = tl.float64 if dy_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((POSITIONS, CHANNELS), accumulator)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + c, mask=c < C, other=0.0).to(accumulator)
    for m in range(MULTIPLIER):
        k = c * MULTIPLIER + m
        for tap in range(R * S):
            strided_p = h0 - tap // S * dilation_h
            strided_q = w0 - tap % S * dilation_w
            p = strided_p // stride_h
            q = strided_q // stride_w
            met = inside & (strided_p >= 0) & (p * stride_h == strided_p) & (p < P)
            met &= (strided_q >= 0) & (q * stride_w == strided_q) & (q < Q)
            dy = tl.load(dy_ptr + k * y_channel + (p * Q + q) * y_position, mask=met, other=0.0)
            weight = tl.load(w_ptr + k * (R * S) + tap, mask=c < C, other=0.0)
            total += dy.to(accumulator) * weight.to(accumulator)
    tl.store(dx_ptr + c * x_channel + hw * x_position, total.to(dx_ptr.dtype.element_ty), mask=inside)


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: PositionTile, bias: bool) -> Plan:
    """The launch for dy, w, bias (or None) and dx, dense in the layout."""
    arguments = sizes(problem)
    tiles = triton.cdiv(problem.c, tile.channels) * triton.cdiv(arguments["H"] * arguments["W"], tile.positions)
    tensors = {"dy": dtype, "w": dtype, "bias": dtype if bias else None, "dx": dtype}
    constant = constants(problem, layout, tile)
    return Plan((Launch(depthwise_dgrad, problem.n * tiles, tensors, arguments, constant, tile.warps),))
