"""depthwise_rows_wgrad: depthwise wgrad with all sums of a filter, and a window of rows of dy, in registers.

    dw[k, r, s] = sum over n, p, q of dy[n, k, p, q] * x[n, k // multiplier, h, w]
    dbias[k]    = sum over n, p, q of dy[n, k, p, q]
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

It walks down the rows as depthwise_rows does, with the roles changed: x[h] meets tap r at row p = (h + padding_h - r *
dilation_h) / stride_h of dy, so the last ceil(R / stride_h) rows of dy are kept in registers, and so are the R * S
sums of each lane. A program owns COLUMNS x CHANNELS lanes and walks over `units` strips of images, one after
the other; only then are the lanes of each sum added up, and written to the program's own place in `partials`
[chunk][tap][K], in fp32 (fp64 for double). partial_sums adds the chunks in a fixed order: no atomics, and the result is
bitwise repeatable.

Cost per position. L1: S loads of x and one of dy. Arithmetic: R * S FMA, S + 1 conversions, S masks. L2: dy once, x
once and the halo, (R - 1) / rows and (S - 1) / COLUMNS, if L1 keeps what a program loads: strips are cut, and as many
walked over, as its share of L1 holds (strips.py). Adding up the lanes takes R * S reductions per program, some 20
instructions each, after a walk of 32 positions per thread in 16 bits; a longer one would leave x to L2, S times. The
workspace is R * S numbers per channel and chunk, written and read once: at 3x3 3 % of x and dy, at 7x7 16 %. Where it
would be many times x and dy, for a filter far larger than its output, programs walk over more strips.

A filter of more than 49 taps is cut into parts of R x S taps, and a program has the sums of one: 5 parts of 13x3 for
13x13, 32 of 16x2 for 31x31. A part is the wgrad of a smaller filter with another padding. Parts are tall, for a row
of x costs S loads; FMA are 44 % of the inner loop of 13x3 on sm_90. Each part reads x and dy once more, but those of a
chunk are neighbours in the grid, so that L2 serves them: counted 5 to 6 times the compulsory bytes at 13x13 and 28x28,
22 times at 31x31, and an SM does 128 FMA in the time in which L2 sends 64 bytes.

The tile. As in depthwise_rows; the larger the filter, the fewer channels per thread, for each takes R * S registers.
"""

# Tuples in Triton know concatenation, but no unpacking.
# ruff: noqa: RUF005
# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbound.kernels import partial_sums, strips
from convbound.kernels.depthwise_rows import MOST_TAPS
from convbound.kernels.launch import Launch, Plan
from convbound.kernels.tile import sizes
from convbound.problem import ConvProblem, Layout

MOST_REGISTERS = 56  # for sums of a part and the window, as at 7x7
MOST_WINDOW = 28  # rows of dy
# In multiples of the compulsory bytes: layers stay far below, but not few outputs under a large filter.
MOST_WORKSPACE = 4


@triton.jit
def depthwise_rows_wgrad(
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
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    rows,
    units,
    elements,
    FILTER_R: tl.constexpr,
    FILTER_S: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIAS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Programs are numbered parts of the filter first, then channels, then chunks; units columns first, then classes,
    # strips of rows, and images.
    parts_s: tl.constexpr = (FILTER_S + S - 1) // S
    parts: tl.constexpr = (FILTER_R + R - 1) // R * parts_s
    part = tl.program_id(0) % parts
    first_r = part // parts_s * R
    first_s = part % parts_s * S
    padding_h -= first_r * dilation_h
    padding_w -= first_s * dilation_w
    program = tl.program_id(0) // parts
    channel_tiles = tl.cdiv(K, CHANNELS)
    k = (program % channel_tiles * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    chunk = program // channel_tiles
    column_tiles = tl.cdiv(Q, COLUMNS)
    classes = min(dilation_h, P)
    strips = tl.cdiv(tl.cdiv(P, classes), rows)
    window_rows: tl.constexpr = (R + STRIDE_H - 1) // STRIDE_H

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)

    accumulator: tl.constexpr = partials_ptr.dtype.element_ty
    zeros = tl.zeros((COLUMNS, CHANNELS), accumulator)
    sums = (zeros,) * (R * S)
    bias_sum = zeros
    for unit in range(chunk * units, min((chunk + 1) * units, column_tiles * classes * strips * N)):
        q = (unit % column_tiles * COLUMNS + tl.arange(0, COLUMNS))[:, None]
        rest = unit // column_tiles
        first_p = rest % classes + rest // classes % strips * rows * dilation_h
        n = (rest // classes // strips).to(tl.int64)
        inside = (q < Q) & (k < K)
        w = q * stride_w - padding_w
        x_ptrs = x_ptr + n * C * H * W + (k // MULTIPLIER * x_channel + w * x_position)
        dy_ptrs = dy_ptr + n * K * P * Q + (k * y_channel + q * y_position)

        # window[j] is row u - j of dy, zero outside of the strip.
        window = (zeros,) * window_rows
        # A part has registers to spare, and moving its window costs as many instructions as it has rows.
        for u in tl.range(rows + window_rows - 1, loop_unroll_factor=2 if parts > 1 else 1):
            p = first_p + u * dilation_h
            dy = tl.load(dy_ptrs + p * Q * y_position, mask=inside & (u < rows) & (p < P), other=0.0).to(accumulator)
            window = (dy,) + window[: window_rows - 1]
            if BIAS:
                bias_sum += dy
            for v in tl.static_range(STRIDE_H):
                h = p * STRIDE_H + v - padding_h
                row_inside = (h >= 0) & (h < H) & (u * STRIDE_H + v < (rows - 1) * STRIDE_H + R)
                for s in tl.static_range(S):
                    column = w + s * dilation_w
                    in_image = inside & row_inside & (column >= 0) & (column < W)
                    offset = (h * W + s * dilation_w) * x_position
                    x = tl.load(x_ptrs + offset, mask=in_image, other=0.0).to(accumulator)
                    added = ()
                    for tap in tl.static_range(R * S):
                        if tap % S == s and tap // S % STRIDE_H == v:
                            added = added + (sums[tap] + x * window[tap // S // STRIDE_H],)
                        else:
                            added = added + (sums[tap],)
                    sums = added

    partials_ptr += chunk.to(tl.int64) * elements
    k = program % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)
    for tap in tl.static_range(R * S):
        r = first_r + tap // S
        s = first_s + tap % S
        written = (k < K) & (r < FILTER_R) & (s < FILTER_S)
        tl.store(partials_ptr + (r * FILTER_S + s) * K + k, tl.sum(sums[tap], axis=0), mask=written)
    if BIAS:
        tl.store(partials_ptr + (elements - K) + k, tl.sum(bias_sum, axis=0), mask=(k < K) & (part == 0))


def part(r: int, s: int, stride_h: int) -> tuple[int, int]:
    """Rows and columns of a part of the filter: all of it up to 49 taps, else what takes least time.

    That is, for each lane and position of dy, FMA, 5 instructions for each load, and what 16 FMA take to come from L2.
    """
    if r * s <= MOST_TAPS:
        return r, s

    def seconds(rows: int, columns: int) -> int:
        parts = triton.cdiv(r, rows) * triton.cdiv(s, columns)
        return int(parts * (rows * columns + 5 * (columns * stride_h + 1) + 16))

    heights = [triton.cdiv(r, triton.cdiv(r, most)) for most in range(1, MOST_WINDOW + 1)]
    widths = [MOST_REGISTERS // rows - 1 for rows in heights]
    sizes = [(rows, triton.cdiv(s, triton.cdiv(s, most))) for rows, most in zip(heights, widths, strict=True)]
    return min(sizes, key=lambda size: seconds(*size))


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: strips.StripTile, bias: bool) -> Plan:
    """The launches for dy, x, dw and dbias (or None), dense in the layout, with the workspace between them."""
    arguments = {"N": problem.n, **sizes(problem)}
    filter_r, filter_s = (1, *problem.filter)[-2:]
    r, s = part(filter_r, filter_s, arguments["stride_h"])
    parts = triton.cdiv(filter_r, r) * triton.cdiv(filter_s, s)
    cut = strips.cut(arguments, r, s, tile, layout, dtype, wgrad=True)
    channel_tiles = triton.cdiv(problem.k, cut.channels)
    partials = torch.float64 if dtype == torch.float64 else torch.float32
    biases = problem.k if bias else 0
    elements = problem.parameters + biases
    most_chunks = max(1, MOST_WORKSPACE * problem.compulsory_bytes(dtype) // (elements * partials.itemsize))
    units = max(cut.per_program, triton.cdiv(cut.of_a_plane * problem.n, most_chunks))
    chunks = triton.cdiv(cut.of_a_plane * problem.n, units)
    stride_h = arguments.pop("stride_h")
    first = Launch(
        depthwise_rows_wgrad,
        chunks * channel_tiles * parts,
        {"dy": dtype, "x": dtype, "partials": partials},
        arguments | {"rows": cut.rows, "units": units, "elements": elements},
        {
            "FILTER_R": filter_r,
            "FILTER_S": filter_s,
            "R": r,
            "S": s,
            "STRIDE_H": stride_h,
            "MULTIPLIER": problem.k // problem.c,
            "CHANNELS_LAST": layout == "NHWC",
            "BIAS": bias,
            "COLUMNS": cut.columns,
            "CHANNELS": cut.channels,
        },
        cut.warps,
        resident=max(1, 16 // cut.warps),
        registers=cut.registers,
    )
    second = partial_sums.launch(dtype, partials, chunks, problem.parameters, biases, taps=filter_r * filter_s)
    return Plan((first, second), {"partials": (chunks * elements, partials)})
