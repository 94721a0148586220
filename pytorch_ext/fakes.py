"""What the ops return, as shapes and strides only: for torch.compile, FakeTensor and meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convbound.problem import output_size


def empty_dense(like: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    """An uninitialised tensor, dense in the layout, with dtype and device of `like`."""
    if not channels_last:
        return like.new_empty(shape)
    if len(shape) == 3:
        n, c, length = shape
        return like.new_empty((n, length, c)).transpose(1, 2)
    order = [0, *range(2, len(shape)), 1]
    dense = like.new_empty([shape[axis] for axis in order])
    return dense.permute([order.index(axis) for axis in range(len(shape))])


def _fprop(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels_last: bool,
) -> Tensor:
    spatial = [
        output_size(i, r, s, (begin, end), d)
        for i, r, s, begin, end, d in zip(
            x.shape[2:], w.shape[2:], stride, padding[::2], padding[1::2], dilation, strict=True
        )
    ]
    return empty_dense(x, [x.shape[0], w.shape[0], *spatial], channels_last)


def _dgrad(
    dy: Tensor,
    w: Tensor,
    bias: Tensor | None,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels_last: bool,
) -> Tensor:
    return empty_dense(dy, [dy.shape[0], w.shape[1] * groups, *input_size], channels_last)


def _wgrad(
    dy: Tensor,
    x: Tensor,
    filter_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bias_grad: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    dw = empty_dense(x, [dy.shape[1], x.shape[1] // groups, *filter_size], channels_last)
    return dw, x.new_empty([dy.shape[1] if bias_grad else 0])


FAKES: dict[str, Callable[..., Any]] = {"fprop": _fprop, "dgrad": _dgrad, "wgrad": _wgrad}


def register(backend: str) -> None:
    """Give the three ops of a backend their fakes; the ops have to be loaded."""
    for name, fake in FAKES.items():
        torch.library.register_fake(f"convbound::{backend}_{name}", fake)
