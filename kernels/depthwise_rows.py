"""depthwise_rows: depthwise fprop, and dgrad of stride 1, with a window of rows in registers.

    y[n, k, p, q] = bias[k] + sum over r, s of x[n, k // multiplier, h, w] * w[k, r, s]
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

dgrad of stride 1 is the same with the filter turned round, padding_h' = dilation_h * (R - 1) - padding_h, and a sum
over the multiplier's filters of a channel: FLIP and SOURCES.

A program owns ROWS rows of outputs, COLUMNS positions wide, of CHANNELS channels, and walks down the rows of x. Each
row is loaded S times, once for each column of the filter, and meets all rows of the filter at once: x[h] belongs to tap
r of output row p = (h + padding_h - r * dilation_h) / stride_h, so the sums of the next ceil(R / stride_h) output rows
are kept in registers, the oldest is stored when its last row has been seen, and the window moves on. Triton has no
shuffles that would hand a neighbour's column over; a value is loaded S times, and all but the first of these loads hit
L1. With dilation the rows that a window sees are dilation_h apart: a program owns a class of rows, p modulo dilation_h,
so the halo is R - 1 rows and not (R - 1) * dilation_h. Classes of one plane share sectors in NCHW, and columns: where
the planes of a program fit into its share of L1 it walks over all classes, and x comes once from L2 at any dilation. In
H either the stride or the dilation is 1; in W both are free.

Cost per output. L1: S loads of x, instead of R * S. Arithmetic: R * S FMA, S conversions, S masks. L2: x once, plus
(R - 1) / ROWS for the halo, which at 16 rows is 1.13 for 3x3 and 1.38 for 7x7; y once. NCHW: a thread takes one column,
for a shifted row is aligned to no more than an element. NHWC: a thread takes neighbouring channels, always aligned, by
vectors. The filter is loaded once, before the rows, and stays in registers, R * S for each channel of a thread.

The tile. NCHW: COLUMNS cover a row of the image where they can; narrower images put several channels into one program,
so that no thread is idle and the planes, contiguous, share sectors. NHWC: 32 channels are 64 bytes of fp16, two whole
sectors; a thread has 4 of them up to 3x3, 2 up to 5x5, 1 up to 7x7, so that filter and window stay in registers. One
dimension: there are no rows, so columns make the tile, and its halo is small only if they are many.
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
from convbound.kernels.tile import exchanged, sizes
from convbound.problem import ConvProblem, Layout

MOST_TAPS = 49  # in registers
MOST_STRIDE = 4  # whose rows are unrolled


@triton.jit
def depthwise_rows(
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
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    rows,
    units,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SOURCES: tl.constexpr,
    FLIP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Programs are numbered parts of a plane first, then channels and images. A part is so many units, and units are
    # numbered columns first, then classes of rows and strips of rows.
    column_tiles = tl.cdiv(Q, COLUMNS)
    classes = min(dilation_h, P)
    all_units = column_tiles * classes * tl.cdiv(tl.cdiv(P, classes), rows)
    channel_tiles = tl.cdiv(K, CHANNELS)
    parts = tl.cdiv(all_units, units)
    part = tl.program_id(0) % parts
    rest = tl.program_id(0) // parts
    k = (rest % channel_tiles * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    n = (rest // channel_tiles).to(tl.int64)
    window_rows: tl.constexpr = (R + STRIDE_H - 1) // STRIDE_H

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    x_ptr += n * C * H * W
    y_ptr += n * K * P * Q

    accumulator: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    start = tl.zeros((COLUMNS, CHANNELS), accumulator)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + k, mask=k < K, other=0.0).to(accumulator)
    weights = ()
    for source in tl.static_range(SOURCES):
        for tap in tl.static_range(R * S):
            place = (R * S - 1 - tap) if FLIP else tap
            weight = tl.load(w_ptr + (k * SOURCES + source) * (R * S) + place, mask=k < K, other=0.0)
            weights = weights + (weight.to(accumulator),)

    for unit in range(part * units, min((part + 1) * units, all_units)):
        q = (unit % column_tiles * COLUMNS + tl.arange(0, COLUMNS))[:, None]
        first_p = unit // column_tiles % classes + unit // column_tiles // classes * rows * dilation_h
        inside = (q < Q) & (k < K)
        w = q * stride_w - padding_w
        x_ptrs = x_ptr + (k // MULTIPLIER * SOURCES * x_channel + w * x_position)
        y_ptrs = y_ptr + (k * y_channel + q * y_position)
        # window[j] is the sum of output row u - j.
        window = (start,) * window_rows
        for u in range(rows + window_rows - 1):
            window = (start,) + window[: window_rows - 1]
            for v in tl.static_range(STRIDE_H):
                h = (first_p + u * dilation_h) * STRIDE_H + v - padding_h
                row_inside = (h >= 0) & (h < H) & (u * STRIDE_H + v < (rows - 1) * STRIDE_H + R)
                for s in tl.static_range(S):
                    column = w + s * dilation_w
                    in_image = inside & row_inside & (column >= 0) & (column < W)
                    for source in tl.static_range(SOURCES):
                        offset = (h * W + s * dilation_w) * x_position + source * x_channel
                        x = tl.load(x_ptrs + offset, mask=in_image, other=0.0).to(accumulator)
                        sums = ()
                        for j in tl.static_range(window_rows):
                            if v + j * STRIDE_H < R:
                                sums = sums + (window[j] + x * weights[(source * R + v + j * STRIDE_H) * S + s],)
                            else:
                                sums = sums + (window[j],)
                        window = sums
            p = first_p + (u - window_rows + 1) * dilation_h
            written = inside & (u >= window_rows - 1) & (p < P)
            result = window[window_rows - 1].to(y_ptr.dtype.element_ty)
            tl.store(y_ptrs + p * Q * y_position, result, mask=written)


def serves_fprop(problem: ConvProblem) -> bool:
    """Whether the window and the filter fit into registers, and rows can be walked down."""
    stride, dilation = (1, *problem.stride)[-2], (1, *problem.dilation)[-2]
    return math.prod(problem.filter) <= MOST_TAPS and (dilation == 1 or stride == 1) and stride <= MOST_STRIDE


def serves_dgrad(problem: ConvProblem) -> bool:
    """The same for dgrad, which sums over the multiplier."""
    return math.prod(problem.filter) * (problem.k // problem.c) <= MOST_TAPS


def plan_fprop(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: strips.StripTile, bias: bool) -> Plan:
    """The launch for x, w, bias (or None) and y, dense in the layout."""
    tensors = {"x": dtype, "w": dtype, "bias": dtype if bias else None, "y": dtype}
    constants = {"MULTIPLIER": problem.k // problem.c, "SOURCES": 1, "FLIP": False}
    return Plan((_launch(problem, sizes(problem), constants, tensors, layout, tile),))


def plan_dgrad(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: strips.StripTile, bias: bool) -> Plan:
    """The launch for dy, w, bias (or None) and dx, dense in the layout; the stride is 1."""
    tensors = {"x": dtype, "w": dtype, "bias": dtype if bias else None, "y": dtype}
    constants = {"MULTIPLIER": 1, "SOURCES": problem.k // problem.c, "FLIP": True}
    launch = _launch(problem, as_dgrad(problem), constants, tensors, layout, tile)
    return Plan((launch,), names={"x": "dy", "y": "dx"})


def as_dgrad(problem: ConvProblem) -> dict[str, int]:
    """The sizes of the convolution of dy, with the filter turned round, that is the dgrad of stride 1."""
    arguments = exchanged(sizes(problem))
    for axis, size in zip("hw", (1, *problem.filter)[-2:], strict=True):
        arguments[f"padding_{axis}"] = arguments[f"dilation_{axis}"] * (size - 1) - arguments[f"padding_{axis}"]
    return arguments


def _launch(
    problem: ConvProblem,
    arguments: dict[str, int],
    constants: dict[str, int | bool],
    tensors: dict[str, torch.dtype | None],
    layout: Layout,
    tile: strips.StripTile,
) -> Launch:
    r, s = (1, *problem.filter)[-2:]
    cut = strips.cut(arguments, r, s, tile, layout, tensors["y"] or torch.float32, wgrad=False)
    stride_h = arguments.pop("stride_h")
    parts = triton.cdiv(cut.of_a_plane, cut.per_program)
    return Launch(
        depthwise_rows,
        parts * triton.cdiv(arguments["K"], cut.channels) * problem.n,
        tensors,
        arguments | {"rows": cut.rows, "units": cut.per_program},
        constants
        | {
            "R": r,
            "S": s,
            "STRIDE_H": stride_h,
            "CHANNELS_LAST": layout == "NHWC",
            "COLUMNS": cut.columns,
            "CHANNELS": cut.channels,
        },
        cut.warps,
        resident=max(1, 16 // cut.warps),
        registers=cut.registers,
    )
