"""grouped_wgrad: the gradient of the filter as an implicit GEMM, its long sum split into chunks (split-K).

    dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] * x[n, c, h, w], c over the channels of k's group
    dbias[k]       = sum over n, p, q of dy[n, k, p, q]
    with h = p * stride_h + r * dilation_h - padding_h, and w alike

Rows of the product are the filters of a pack of groups, columns its taps times its channels, depth the outputs (n, p,
q) of all images. A filter is small and the sum long, so the sum is what has to be split: a program owns ROWS x COLUMNS
elements of dw and a chunk of `steps` * DEPTH outputs, and writes its partial sum, in fp32 (fp64 for double), to its own
place in `partials` [chunk][element of dw]. partial_sums adds the chunks in a fixed order: no atomics, and the result is
bitwise repeatable. Chunks are as many as make some PROGRAMS programs, whatever the GPU, so that results are the same on
all of them.

Data movement. A block of columns covers several taps of few channels, or a part of the channels of one tap; for
each one a chunk of dy and x is loaded again. Blocks of columns are neighbours in the grid, so L2 serves all loads but
the first. dbias is added up by the first block of columns, which reads its chunk of dy once more. Partial sums are
written and read once. NHWC: dy, x and partials move by 16 bytes. NCHW: dy is contiguous along the image, x too but for
the shift of its tap, so it moves by single elements.

The tile. 64 or 128 filters times 64 or 128 columns in registers, a depth of 64 outputs: as in grouped_fprop.
"""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl

from convbound.kernels import partial_sums
from convbound.kernels.implicit_gemm import ProductTile, accumulator, block, packed_groups, precision
from convbound.kernels.launch import Launch, Plan
from convbound.kernels.tile import sizes
from convbound.problem import ConvProblem, Layout

# Two for each SM of a large GPU.
PROGRAMS = 264


@triton.jit
def grouped_wgrad(
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
    group_c,
    group_k,
    steps,
    elements,
    R: tl.constexpr,
    S: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BIAS: tl.constexpr,
    PACK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    # Programs are numbered columns first, then rows, packs and chunks.
    pack_c = PACK * group_c
    column_blocks = tl.cdiv(R * S * pack_c, COLUMNS)
    row_blocks = tl.cdiv(PACK * group_k, ROWS)
    packs = tl.cdiv(K // group_k, PACK)
    rest = tl.program_id(0) // column_blocks
    column = tl.program_id(0) % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    row = rest % row_blocks * ROWS + tl.arange(0, ROWS)
    pack = rest // row_blocks % packs
    chunk = rest // row_blocks // packs

    k = pack * (PACK * group_k) + row
    row_inside = (row < PACK * group_k) & (k < K)
    tap = column // pack_c
    c = pack * pack_c + column % pack_c
    column_inside = (tap < R * S) & (c < C)

    # Memory steps between neighbours along the channels and along the positions.
    x_channel, x_position = (1, C) if CHANNELS_LAST else (H * W, 1)
    y_channel, y_position = (1, K) if CHANNELS_LAST else (P * Q, 1)
    w_channel, w_tap = (1, group_c) if CHANNELS_LAST else (R * S, 1)

    shift_h = (tap // S * dilation_h - padding_h)[None, :]
    shift_w = (tap % S * dilation_w - padding_w)[None, :]
    begin = chunk * steps * DEPTH
    total = tl.zeros((ROWS, COLUMNS), ACCUMULATOR)
    for step in range(steps):
        position = begin + step * DEPTH + tl.arange(0, DEPTH)
        n = (position // (P * Q)).to(tl.int64)
        pq = position % (P * Q)
        dy_offset = n[None, :] * K * P * Q + (k[:, None] * y_channel + pq[None, :] * y_position)
        dy_inside = row_inside[:, None] & (position < N * P * Q)[None, :]
        dy = tl.load(dy_ptr + dy_offset, mask=dy_inside, other=0.0)

        h = (pq // Q * stride_h)[:, None] + shift_h
        w = (pq % Q * stride_w)[:, None] + shift_w
        x_offset = n[:, None] * C * H * W + (c[None, :] * x_channel + (h * W + w) * x_position)
        in_image = (h >= 0) & (h < H) & (w >= 0) & (w < W)
        in_image &= (position < N * P * Q)[:, None] & column_inside[None, :]
        x = tl.load(x_ptr + x_offset, mask=in_image, other=0.0)
        total = tl.dot(dy, x, total, input_precision=PRECISION, out_dtype=ACCUMULATOR)

    partials_ptr += chunk.to(tl.int64) * elements
    group_channel = column % pack_c % group_c if PACK > 1 else column % pack_c
    element = (k * (group_c * R * S))[:, None] + (group_channel * w_channel + tap * w_tap)[None, :]
    same_group = (row // group_k)[:, None] == (column % pack_c // group_c)[None, :]
    tl.store(partials_ptr + element, total, mask=row_inside[:, None] & column_inside[None, :] & same_group)

    if BIAS and tl.program_id(0) % column_blocks == 0:
        bias_total = tl.zeros((ROWS,), ACCUMULATOR)
        for step in range(steps):
            position = begin + step * DEPTH + tl.arange(0, DEPTH)
            n = (position // (P * Q)).to(tl.int64)
            dy_offset = n[None, :] * K * P * Q + (k[:, None] * y_channel + (position % (P * Q))[None, :] * y_position)
            dy_inside = row_inside[:, None] & (position < N * P * Q)[None, :]
            bias_total += tl.sum(tl.load(dy_ptr + dy_offset, mask=dy_inside, other=0.0).to(ACCUMULATOR), axis=1)
        tl.store(partials_ptr + (elements - K) + k, bias_total, mask=row_inside)


@dataclass(frozen=True)
class SplitTile(ProductTile):
    """A product whose depth is split into chunks, of at least so many `steps` each."""

    steps: int = field(kw_only=True)


def plan(problem: ConvProblem, dtype: torch.dtype, layout: Layout, tile: SplitTile, bias: bool) -> Plan:
    """The launches for dy, x, dw and dbias (or None), dense in the layout, with the workspace between them."""
    arguments = {"N": problem.n, **sizes(problem)}
    group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
    pack = packed_groups(problem, group_k, tile.rows)
    r, s = (1, *problem.filter)[-2:]
    rows, columns = block(tile.rows, pack * group_k), block(tile.columns, r * s * pack * group_c)
    blocks = (
        triton.cdiv(problem.groups, pack)
        * triton.cdiv(pack * group_k, rows)
        * triton.cdiv(r * s * pack * group_c, columns)
    )
    all_steps = triton.cdiv(problem.n * arguments["P"] * arguments["Q"], tile.depth)
    steps = max(tile.steps, all_steps // max(1, PROGRAMS // blocks))
    chunks = triton.cdiv(all_steps, steps)
    partials = torch.float64 if dtype == torch.float64 else torch.float32
    biases = problem.k if bias else 0
    elements = problem.parameters + biases
    first = Launch(
        grouped_wgrad,
        chunks * blocks,
        {"dy": dtype, "x": dtype, "partials": partials},
        arguments | {"group_c": group_c, "group_k": group_k, "steps": steps, "elements": elements},
        {
            "R": r,
            "S": s,
            "CHANNELS_LAST": layout == "NHWC",
            "BIAS": bias,
            "PACK": pack,
            "ROWS": rows,
            "COLUMNS": columns,
            "DEPTH": tile.depth,
            "PRECISION": precision(dtype),
            "ACCUMULATOR": accumulator(dtype),
        },
        tile.warps,
        tile.stages,
        resident=1,
    )
    second = partial_sums.launch(dtype, partials, chunks, problem.parameters, biases, taps=1)
    return Plan((first, second), {"partials": (chunks * elements, partials)})
