"""Tensors between pages that nobody may touch, in memory full of NaN.

An access beyond the end of such a tensor, or before its beginning, ends the process; what is read on the other side is
NaN and shows in the results, and what is written there is found afterwards.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor

Place = Literal["begin", "odd", "end", "aligned end"]
View = Literal["dense", "channels_last", "permuted", "sliced", "expanded", "ambiguous"]
PLACES: tuple[Place, ...] = ("begin", "odd", "end", "aligned end")
VIEWS: tuple[View, ...] = ("dense", "channels_last", "permuted", "sliced", "expanded", "ambiguous")

_ALIGNMENT = 64
_UNTOUCHED = 0xFF  # as bytes: NaN in every floating-point type
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@dataclass(frozen=True)
class Guarded:
    """A tensor, and the memory around it."""

    tensor: Tensor
    memory: Tensor  # bytes
    begin: int
    end: int

    @property
    def touched(self) -> bool:
        """Whether a byte beside the tensor has changed."""
        return bool((self.memory[: self.begin] != _UNTOUCHED).any() or (self.memory[self.end :] != _UNTOUCHED).any())


def empty(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, place: Place) -> Guarded:
    """A tensor of NaN with these strides.

    It begins where its page does, or an element later, or ends where its page does, or at most 63 bytes before.
    """
    span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if math.prod(shape) else 0
    used = span * dtype.itemsize
    size = max(1, -(-(used + dtype.itemsize) // mmap.PAGESIZE)) * mmap.PAGESIZE
    whole = mmap.mmap(-1, size + 2 * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    for guard in (address, address + mmap.PAGESIZE + size):
        if _libc.mprotect(guard, mmap.PAGESIZE, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    memory = torch.frombuffer(whole, dtype=torch.uint8, offset=mmap.PAGESIZE, count=size).fill_(_UNTOUCHED)
    end = size - used
    begin = {"begin": 0, "odd": dtype.itemsize, "end": end, "aligned end": end // _ALIGNMENT * _ALIGNMENT}[place]
    tensor = torch.as_strided(memory.view(dtype), tuple(shape), tuple(stride), begin // dtype.itemsize)
    return Guarded(tensor, memory, begin, begin + used)


def strides(shape: Sequence[int], view: View, draw: Random) -> list[int]:
    """Strides of a view of its kind. An expanded one has zeros among them."""
    order = list(range(len(shape)))  # from the outermost dimension to the innermost
    if len(shape) > 2 and (view == "channels_last" or (view == "ambiguous" and draw.random() < 0.5)):
        order = [0, *range(2, len(shape)), 1]
    elif view == "permuted":
        draw.shuffle(order)
    found, step = [0] * len(shape), draw.randint(1, 3) if view == "sliced" else 1
    for dim in reversed(order):
        found[dim] = step
        step *= max(1, shape[dim])
        if view == "sliced":
            step += draw.randint(0, 3)
    for dim, size in enumerate(shape):
        if (view == "expanded" and draw.random() < 0.5) or (view == "ambiguous" and size == 1 and draw.random() < 0.7):
            found[dim] = 0 if view == "expanded" else draw.choice((0, 1, 2, 7, step))
    return found


def place(values: Tensor, view: View, where: Place, draw: Random) -> Tensor:
    """A copy of the values as such a view; an expanded one repeats the first along some dimensions."""
    stride = strides(values.shape, view, draw)
    guarded = empty(values.shape, stride, values.dtype, where)
    written, source = guarded.tensor, values
    for dim, (size, step) in enumerate(zip(values.shape, stride, strict=True)):
        if step == 0 and size > 1:
            written, source = written.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    written.copy_(source)
    return guarded.tensor
