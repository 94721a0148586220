"""Operands whose results a floating-point kernel can only get exactly right or wrong.

Integers small enough that every partial sum, in whatever order, is an integer that the accumulator holds exactly. The
one rounding left is that to the result's dtype, so the right result is the fp64 result rounded once. They are as large
as that allows, so that a product or a sum in anything narrower shows: tf32 in fp32, fp32 in fp64, and half precision,
which cannot count as far as all-positive ones add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from convbound.layout import to_layout
from convbound.problem import ConvProblem, Pass

Sign = Literal["signed", "positive"]

# The largest sum: below 65504 for fp16's sake, else what the accumulator (fp32, for fp64 fp64) holds exactly.
_LARGEST_SUM = {torch.float16: 60_000, torch.bfloat16: 2**24, torch.float32: 2**24, torch.float64: 2**50}
# The integers up to here are all numbers of the dtype.
_LARGEST_VALUE = {torch.float16: 2**11, torch.bfloat16: 2**8, torch.float32: 2**24, torch.float64: 2**53}
# Integers of 13 bits, which tf32 rounds off.
_TF32_CANNOT = 2**13 - 1


@dataclass(frozen=True)
class Operands:
    """The tensors of a problem: each pass reads two of x, w and y (that is, dy) and perhaps a bias."""

    x: Tensor
    w: Tensor
    y: Tensor
    bias: Tensor | None  # (k,) for fprop, (c,) for dgrad

    def map(self, change: Callable[[Tensor], Tensor]) -> Operands:
        """The same change made to all tensors."""
        return Operands(*(None if t is None else change(t) for t in (self.x, self.w, self.y, self.bias)))

    def without_bias(self) -> Operands:
        """The same without bias."""
        return replace(self, bias=None)


def terms(problem: ConvProblem, pass_: Pass) -> int:
    """How many products one output sums at most."""
    if pass_ == "wgrad":
        return max(1, problem.n * math.prod(problem.output))
    channels = problem.c if pass_ == "fprop" else problem.k
    return channels // problem.groups * math.prod(problem.filter)


def integers(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, sign: Sign = "signed", *, narrow: bool = False, seed: int = 0
) -> Operands:
    """Integer operands of a pass, with a bias, as large as exactness allows.

    Narrow ones are so small that the dtype itself could accumulate them: for code that does so, as ATen in fp16.
    """
    generator = torch.Generator().manual_seed(seed)
    largest_sum = (_LARGEST_VALUE if narrow else _LARGEST_SUM)[dtype]
    product = max(1, largest_sum // (terms(problem, pass_) + 1))
    one = other = min(_LARGEST_VALUE[dtype], math.isqrt(product))
    if dtype == torch.float32 and product >= 4 * _TF32_CANNOT:
        one, other = _TF32_CANNOT, product // _TF32_CANNOT
    if sign == "positive":
        one, other = other, one

    def draw(shape: tuple[int, ...], largest: int) -> Tensor:
        smallest = -largest if sign == "signed" else (largest + 1) // 2
        return torch.randint(smallest, largest + 1, shape, generator=generator, dtype=torch.int64).to(dtype)

    # Each pass multiplies two of the three, and one of each size.
    return Operands(
        x=draw(problem.x_shape, one),
        w=draw(problem.w_shape, other),
        y=draw(problem.y_shape, other if pass_ == "wgrad" else one),
        bias=draw((problem.c if pass_ == "dgrad" else problem.k,), min(_LARGEST_VALUE[dtype], product)),
    )


def reals(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, seed: int = 0) -> Operands:
    """Operands from a normal distribution, rounded to the dtype."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    bias = draw((problem.c if pass_ == "dgrad" else problem.k,))
    return Operands(draw(problem.x_shape), draw(problem.w_shape), draw(problem.y_shape), bias)


def amid_nan(tensor: Tensor, channels_last: bool, offset: int = 65) -> Tensor:
    """The tensor, dense in the layout, as a view at an odd offset of a buffer that is NaN everywhere else.

    What a kernel reads beside the tensor and lets into a result then shows; and nothing is better aligned than its
    elements are, unless `offset` is even (torch aligns a buffer to 64 bytes).
    """
    dense = to_layout(tensor, channels_last and tensor.dim() > 1)
    buffer = torch.full((tensor.numel() + 130,), torch.nan, dtype=tensor.dtype, device=tensor.device)
    return torch.as_strided(buffer, dense.shape, dense.stride(), offset).copy_(dense)
