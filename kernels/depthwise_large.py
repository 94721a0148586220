"""depthwise_large: depthwise fprop, and dgrad of stride 1, with a filter too large for registers.

    y[n, k, p, q] = bias[k] + sum over r, s of x[n, k // multiplier, h, w] * w[k, r, s]
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

dgrad is the same with the filter turned round, as in depthwise_rows: FLIP and SOURCES.

What stays in registers are the sums of ROWS rows of outputs, and a block of at most 16 taps of a column s of the
filter. A program walks down the rows of x that these meet: row i meets tap i - j of output row j. So it loads ROWS +
TAPS - 1 rows and TAPS taps for ROWS * TAPS FMA, and goes on to the next column, and then to the next block. Which rows
meet which taps is known to the compiler: there are no products with zeros in place of taps, and an infinity in x
reaches no output but those whose taps meet it. Rows outside of the image are skipped, GROUP at a time, for they are
half of all where an image is no larger than its filter. With a stride in H blocks have taps that are equal modulo
stride_h; with a dilation in H a program owns a class of rows, as in depthwise_rows. One of the two is 1; in W both are
free.

Cost per output. L1: R * S * (1 / ROWS + 1 / TAPS) loads of x, and R * S / ROWS of the filter; depthwise_rows would need
all taps in registers. Arithmetic: R * S FMA, for fp32 52 % of the inner loop of 13x13 at 28x28 and 55 % at 31x31 on
sm_90; the rest are loads, their addresses and masks. L2: x once, plus the halo of (R - 1) / rows within the image, if
L1 holds what a program loads; y once; the filter once for each program. Counted, in multiples of the compulsory bytes,
for fp32 in NCHW: 1.06 for 13x13 at 28x28, 1.37 for 31x31 at 56x56. An SM does 128 FMA in the time in which L2 sends 64
bytes: a halo is cheap where each value meets hundreds of taps.

NCHW: a thread takes one column of up to 28 rows. NHWC: a thread of fp16 takes two channels and up to 14 rows. The taps
of neighbouring channels are R * S elements apart in memory, so filter_by_taps first writes the filter as
[SOURCES][R][S][K], which reads and writes it once more: fp16 of one image at 28x28 counts 1.22 with 13x13, and 1.86
with 31x31, whose filter is larger than its image. Where a filter is wider than high, NHWC walks along the columns, and
not down the rows: SWAPPED, for its two axes are alike. NCHW cannot, and has few FMA per load where R is small.

The tile. NCHW as in depthwise_rows; a program has at most 28 rows. NHWC: 16 channels are a sector of fp16, times 64
columns; narrower images take more channels. 16 warps of that many registers have an SM's L1 to themselves: of 31x31 at
56x56 a program loads 77 KB of x and 31 KB of the filter.
"""

# Tuples in Triton know concatenation, but no unpacking.
# ruff: noqa: RUF005
# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbound.kernels.depthwise_rows import MOST_STRIDE, as_dgrad
from convbound.kernels.launch import Launch, Plan
from convbound.kernels.strips import StripTile
from convbound.kernels.tile import sizes
from convbound.problem import ConvProblem, Layout

MOST_SUMS = 28  # of a thread
MOST_TAPS = 16  # of a channel, in registers
GROUP = 4  # rows that are skipped together
# What a thread has registers for besides its sums and taps; a test finds as many in each compiled kernel.
OTHER_REGISTERS = 32


@triton.jit
def filter_by_taps(w_ptr, filter_ptr, K, taps, SOURCES: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr):
    """From [K * SOURCES][taps] to [SOURCES][taps][K]."""
    channel_tiles = tl.cdiv(K, CHANNELS)
    k = tl.program_id(0) % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    tap = tl.program_id(0) // channel_tiles * TAPS + tl.arange(0, TAPS)[None, :]
    inside = (k < K) & (tap < taps)
    for source in tl.static_range(SOURCES):
        values = tl.load(w_ptr + (k * SOURCES + source) * taps + tap, mask=inside, other=0.0)
        tl.store(filter_ptr + (source * taps + tap) * K + k, values, mask=inside)


@triton.jit
def walk_down(
    sums,
    tap_ptrs,
    next_tap,
    taps_inside,
    x_ptrs,
    next_row,
    x_inside,
    h,
    next_h,
    H,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Add the products of TAPS taps of a column of the filter, and of the ROWS + TAPS - 1 rows of x that they meet."""
    taps = ()
    for _ in tl.static_range(TAPS):
        taps = taps + (tl.load(tap_ptrs, mask=taps_inside, other=0.0).to(sums[0].dtype),)
        tap_ptrs += next_tap
    for begin in tl.static_range(0, ROWS + TAPS - 1, GROUP):
        if (h < H) & (h + (GROUP - 1) * next_h >= 0):
            for i in tl.static_range(begin, min(begin + GROUP, ROWS + TAPS - 1)):
                # Rows above the image are large numbers without a sign.
                row_inside = (h + (i - begin) * next_h).to(tl.uint32) < tl.cast(H, tl.uint32)
                x = tl.load(x_ptrs + (i - begin) * next_row, mask=x_inside & row_inside, other=0.0).to(sums[0].dtype)
                added = ()
                for j in tl.static_range(ROWS):
                    total = sums[j]
                    if i - j >= 0 and i - j < TAPS:
                        total += x * taps[i - j]
                    added = added + (total,)
                sums = added
        h += GROUP * next_h
        x_ptrs += GROUP * next_row
    return sums


@triton.jit
def depthwise_large(
    x_ptr,
    filter_ptr,
    bias_ptr,
    y_ptr,
    C,
    H,
    W,
    K,
    P,
    Q,
    S,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    rows,
    R: tl.constexpr,
    STRIDE_H: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SOURCES: tl.constexpr,
    FLIP: tl.constexpr,
    SWAPPED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    WALKS: tl.constexpr,
    GROUP: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Programs are numbered columns first, then classes of rows, strips of rows, channels and images.
    column_tiles = tl.cdiv(Q, COLUMNS)
    classes = min(dilation_h, P)
    strips = tl.cdiv(tl.cdiv(P, classes), rows)
    channel_tiles = tl.cdiv(K, CHANNELS)
    q = (tl.program_id(0) % column_tiles * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    rest = tl.program_id(0) // column_tiles
    class_p = rest % classes
    strip = rest // classes % strips
    rest = rest // classes // strips
    k = (rest % channel_tiles * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    n = (rest // channel_tiles).to(tl.int64)

    # Memory steps between neighbours along the channels, the columns and the rows.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    x_column, x_row = (H * x_position, x_position) if SWAPPED else (x_position, W * x_position)
    y_column, y_row = (P * y_position, y_position) if SWAPPED else (y_position, Q * y_position)
    tap_s, tap_r = (R, 1) if SWAPPED else (1, S)
    w_filter, w_source, w_tap = (1, R * S * K, K) if CHANNELS_LAST else (SOURCES * R * S, R * S, 1)
    x_ptr += n * C * H * W
    y_ptr += n * K * P * Q

    accumulator: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    start = tl.zeros((COLUMNS, CHANNELS), accumulator)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + k, mask=k < K, other=0.0).to(accumulator)
    inside = (q < Q) & (k < K)
    column = q * stride_w - padding_w
    offsets = k // MULTIPLIER * SOURCES * x_channel + column * x_column
    filters = filter_ptr + k * w_filter

    for first in range(strip * rows, min((strip + 1) * rows, tl.cdiv(P, classes)), ROWS):
        first_p = class_p + first * dilation_h
        sums = (start,) * ROWS
        for walk in tl.static_range(len(WALKS)):
            for step in range(WALKS[walk][1] * SOURCES * S):
                column_of_taps = step // S
                s = step - column_of_taps * S
                source = column_of_taps % SOURCES
                r = WALKS[walk][0] + column_of_taps // SOURCES * (WALKS[walk][2] * STRIDE_H)
                tap = r * tap_r + s * tap_s
                next_tap = STRIDE_H * tap_r * w_tap
                if FLIP:
                    tap, next_tap = R * S - 1 - tap, -next_tap
                h = first_p * STRIDE_H + r * dilation_h - padding_h
                next_h = STRIDE_H * dilation_h
                shift = s * dilation_w
                sums = walk_down(
                    sums,
                    filters + (source * w_source + tap * w_tap),
                    next_tap,
                    k < K,
                    x_ptr + (offsets + source * x_channel + shift * x_column + h * x_row),
                    next_h * x_row,
                    inside & (column + shift >= 0) & (column + shift < W),
                    h,
                    next_h,
                    H,
                    ROWS,
                    WALKS[walk][2],
                    GROUP,
                )
        y_ptrs = y_ptr + k * y_channel + q * y_column
        for j in tl.static_range(ROWS):
            p = first_p + j * dilation_h
            tl.store(y_ptrs + p * y_row, sums[j].to(y_ptr.dtype.element_ty), mask=inside & (p < P))


def swapped(problem: ConvProblem) -> bool:
    """Whether in NHWC the kernel walks along the columns of an image, for its filter has more of them than rows."""
    r, s = (1, *problem.filter)[-2:]
    return s > r


def serves(problem: ConvProblem, swaps: bool) -> bool:
    """Whether rows can be walked down, or columns by a kernel that swaps the axes."""
    axis = -1 if swaps and swapped(problem) else -2
    stride, dilation = (1, *problem.stride)[axis], (1, *problem.dilation)[axis]
    return (dilation == 1 or stride == 1) and stride <= MOST_STRIDE


def plan_fprop(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: StripTile, bias: bool) -> Plan:
    """The launches for x, w, bias (or None) and y, dense in the layout, and in NHWC with the filter between them."""
    constants = {"MULTIPLIER": problem.k // problem.c, "SOURCES": 1, "FLIP": False}
    return _plan(problem, sizes(problem), constants, dtype, layout, tile, bias, names={})


def plan_dgrad(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: StripTile, bias: bool) -> Plan:
    """The same for dy, w, bias (or None) and dx; the stride is 1."""
    constants = {"MULTIPLIER": 1, "SOURCES": problem.k // problem.c, "FLIP": True}
    return _plan(problem, as_dgrad(problem), constants, dtype, layout, tile, bias, names={"x": "dy", "y": "dx"})


def _plan(
    problem: ConvProblem,
    arguments: dict[str, int],
    constants: dict[str, int | bool],
    dtype: torch.dtype,
    layout: Layout,
    tile: StripTile,
    bias: bool,
    names: dict[str, str],
) -> Plan:
    r, s = (1, *problem.filter)[-2:]
    swap = layout == "NHWC" and swapped(problem)
    if swap:
        r, s = s, r
        arguments = {_other_axis(name): size for name, size in arguments.items()}

    # Lanes, as few as there are columns and channels; in NHWC wider types take as many channels as are as many bytes.
    channels = max(1, tile.channels * 2 // dtype.itemsize) if layout == "NHWC" else tile.channels
    lanes = tile.columns * channels
    a_thread = max(1, lanes // (32 * tile.warps))
    columns = min(tile.columns, int(triton.next_power_of_2(arguments["Q"])))
    channels = min(lanes // columns, int(triton.next_power_of_2(arguments["K"])))
    warps = min(tile.warps, max(1, columns * channels // (32 * a_thread)))

    classes = min(arguments["dilation_h"], arguments["P"])
    of_a_class = triton.cdiv(arguments["P"], classes)
    rows = triton.cdiv(of_a_class, triton.cdiv(of_a_class, tile.rows))
    in_registers = triton.cdiv(rows, triton.cdiv(rows, max(1, MOST_SUMS // a_thread)))
    parts = triton.cdiv(arguments["Q"], columns) * classes * triton.cdiv(of_a_class, rows)
    stride_h = arguments.pop("stride_h")
    walks = _walks(r, stride_h)
    main = Launch(
        depthwise_large,
        parts * triton.cdiv(arguments["K"], channels) * problem.n,
        {"x": dtype, "filter": dtype, "bias": dtype if bias else None, "y": dtype},
        arguments | {"S": s, "rows": rows},
        constants
        | {
            "R": r,
            "STRIDE_H": stride_h,
            "SWAPPED": swap,
            "CHANNELS_LAST": layout == "NHWC",
            "ROWS": in_registers,
            "WALKS": walks,
            "GROUP": GROUP,
            "COLUMNS": columns,
            "CHANNELS": channels,
        },
        warps,
        resident=max(1, 16 // warps),
        registers=a_thread * (in_registers + walks[0][2]) + OTHER_REGISTERS,
    )
    if layout == "NCHW":
        return Plan((main,), names=names | {"filter": "w"})
    turn = Launch(
        filter_by_taps,
        triton.cdiv(arguments["K"], 32) * triton.cdiv(r * s, 64),
        {"w": dtype, "filter": dtype},
        {"K": arguments["K"], "taps": r * s},
        {"SOURCES": constants["SOURCES"], "TAPS": 64, "CHANNELS": 32},
        warps=4,
    )
    return Plan((turn, main), {"filter": (problem.parameters, dtype)}, names)


def _walks(r: int, stride_h: int) -> tuple[tuple[int, int, int], ...]:
    """Blocks of taps that are alike, for each phase of a stride: the first tap, how many blocks, of how many taps."""
    walks = []
    for phase in range(min(stride_h, r)):
        taps = len(range(phase, r, stride_h))
        block = triton.cdiv(taps, triton.cdiv(taps, MOST_TAPS))
        walks.append((phase, taps // block, block))
        if taps % block:
            walks.append((phase + taps // block * block * stride_h, 1, taps % block))
    return tuple(walks)


def _other_axis(name: str) -> str:
    """W of H, padding_w of padding_h, and so on; C and K are of no axis."""
    return name[:-1] + name[-1].translate(str.maketrans("HWPQhw", "WHQPwh"))
