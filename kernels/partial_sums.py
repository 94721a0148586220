"""The second half of every wgrad: the partial sums of all chunks, added in an order that depends on the problem alone.

    result[e] = sum over chunks of partials[chunk][e]

`partials` [chunk][element] holds dw, then, where it is wanted, dbias, in fp32 (fp64 for double). dw lies there in its
order in memory, or, where TAPS is not 1, as [TAPS][K], while its order in memory is [K][TAPS]. A program owns ELEMENTS
elements and adds CHUNKS chunks at a time: lane l takes chunks l, l + CHUNKS, …, and the lanes are added up at the end.
Each partial sum is read once, by 16 bytes; no atomics, so results are bitwise repeatable.

The tile: 2048 numbers at a time, of few chunks many elements, of many chunks fewer, so that no loop is long.
"""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbound.kernels.launch import Launch

NUMBERS = 2048  # that a program loads at once


@triton.jit
def partial_sums(
    partials_ptr,
    dw_ptr,
    dbias_ptr,
    chunks,
    dw_elements,
    elements,
    TAPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    element = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    lane = tl.arange(0, CHUNKS)[:, None]
    total = tl.zeros((CHUNKS, ELEMENTS), partials_ptr.dtype.element_ty)
    for first in range(0, chunks, CHUNKS):
        chunk = (first + lane).to(tl.int64)
        inside = (chunk < chunks) & (element < elements)[None, :]
        total += tl.load(partials_ptr + chunk * elements + element[None, :], mask=inside, other=0.0)
    result = tl.sum(total, axis=0).to(dw_ptr.dtype.element_ty)
    filters = dw_elements // TAPS
    place = element % filters * TAPS + element // filters if TAPS > 1 else element
    tl.store(dw_ptr + place, result, mask=element < dw_elements)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + (element - dw_elements), result, mask=(element >= dw_elements) & (element < elements))


def launch(dtype: torch.dtype, partials: torch.dtype, chunks: int, dw_elements: int, biases: int, taps: int) -> Launch:
    """The launch for partials, dw and dbias, which has no elements where it is not wanted.

    `taps` is 1 where partials have the order of dw in memory, and that of a filter where taps are the outer order.
    """
    elements = dw_elements + biases
    block = 16 if chunks <= 64 else 64
    return Launch(
        partial_sums,
        triton.cdiv(elements, NUMBERS // block),
        {"partials": partials, "dw": dtype, "dbias": dtype if biases else None},
        {"chunks": chunks, "dw_elements": dw_elements, "elements": elements},
        {"TAPS": taps, "CHUNKS": block, "ELEMENTS": NUMBERS // block},
        warps=4,
    )
