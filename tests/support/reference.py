"""The three passes from their equations, in fp64 and tap by tap: independent of torch's convolutions and of ours.

With x padded, tap r of the filter meets position p * stride + r * dilation of x for output p. The positions that one
tap meets form a strided slice, so a pass is one small product per tap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from convbound.problem import ConvProblem

Index = tuple[slice | int, ...]


def _taps(p: ConvProblem) -> Iterator[tuple[Index, Index]]:
    """For each tap, where it lies in the filter and which slice of the padded input it meets."""
    for tap in itertools.product(*(range(r) for r in p.filter)):
        met = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, o, s, d in zip(tap, p.output, p.stride, p.dilation, strict=True)
        )
        yield (..., *tap), (..., *met)  # type: ignore[misc]


def _pad(x: Tensor, p: ConvProblem, sign: int = 1) -> Tensor:
    """x with its zeros written out, negative padding cropped; with sign -1 the way back."""
    amounts = [sign * amount for pair in reversed(p.padding) for amount in pair]
    # In two steps, for what is cropped may be more than x: zeros of the other end too.
    padded = F.pad(x, [max(amount, 0) for amount in amounts])
    return F.pad(padded, [min(amount, 0) for amount in amounts])


def _split(tensor: Tensor, p: ConvProblem, axis: int) -> Tensor:
    """The channels of an axis as (groups, channels per group), in fp64."""
    return tensor.double().unflatten(axis, (p.groups, -1))


def fprop(x: Tensor, w: Tensor, bias: Tensor | None, p: ConvProblem) -> Tensor:
    """y[n,k,p] = bias[k] + sum over c/g,r of x[n,c,p * stride + r * dilation - padding] * w[k,c,r]."""
    padded, filters = _split(_pad(x.double(), p), p, 1), _split(w, p, 0)
    y = torch.zeros(p.n, p.groups, p.k // p.groups, *p.output, dtype=torch.float64)
    for tap, met in _taps(p):
        y += torch.einsum("ngc...,gkc->ngk...", padded[met], filters[tap])
    return _add_bias(y.flatten(1, 2), bias)


def dgrad(dy: Tensor, w: Tensor, bias: Tensor | None, p: ConvProblem) -> Tensor:
    """dx[n,c,h] = bias[c] + sum over k/g,r of dy[n,k,p] * w[k,c,r], where h = p * stride + r * dilation - padding."""
    gradient, filters = _split(dy, p, 1), _split(w, p, 0)
    dx = _split(_pad(torch.zeros(p.x_shape, dtype=torch.float64), p), p, 1)
    for tap, met in _taps(p):
        dx[met] += torch.einsum("ngk...,gkc->ngc...", gradient, filters[tap])
    return _add_bias(_pad(dx.flatten(1, 2), p, sign=-1), bias)


def wgrad(dy: Tensor, x: Tensor, p: ConvProblem) -> tuple[Tensor, Tensor]:
    """dw[k,c,r] = sum over n,p of dy[n,k,p] * x[n,c,p * stride + r * dilation - padding]; dbias[k] = sum of dy."""
    gradient, padded = _split(dy, p, 1), _split(_pad(x.double(), p), p, 1)
    dw = torch.zeros(p.groups, p.k // p.groups, p.c // p.groups, *p.filter, dtype=torch.float64)
    for tap, met in _taps(p):
        dw[tap] = torch.einsum("ngk...,ngc...->gkc", gradient, padded[met])
    return dw.flatten(0, 1), dy.double().sum([0, *range(2, dy.dim())])


def _add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.double().reshape(-1, *[1] * (y.dim() - 2))
