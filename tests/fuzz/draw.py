"""Random convolutions: small enough to be quick, and of every shape that an argument allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from convbound.problem import ConvProblem

T = TypeVar("T")

# How many problems have axes with fewer positions than a dilated filter covers.
NARROW = 0.25

# Sizes that kernels know: planes of models, vectors, warps, tiles.
_KNOWN_SIZES = (7, 8, 14, 16, 28, 32, 33, 56, 60, 64)
_CHANNELS = (1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 48, 64, 65, 72, 96)


def weighted(draw: Random, *choices: tuple[float, T]) -> T:
    """One of the values, as often as its weight says."""
    return draw.choices([value for _, value in choices], [weight for weight, _ in choices])[0]


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a problem."""

    input: int
    filter: int
    stride: int
    padding: tuple[int, int]
    dilation: int

    @property
    def output(self) -> int:
        """Positions of the output; not positive where the filter does not fit."""
        extent = self.dilation * (self.filter - 1) + 1
        return (self.input + sum(self.padding) - extent) // self.stride + 1


def size(draw: Random) -> int:
    """A spatial size."""
    kind = draw.random()
    if kind < 0.15:
        return draw.choice(_KNOWN_SIZES) + draw.choice((0, 0, 0, -1, 1))
    return draw.randint(1, weighted(draw, (45, 9), (30, 24), (15, 48), (6, 130), (2, 400)))


def padding(draw: Random, extent: int) -> int:
    """Zeros at one end, for a dilated filter that covers so many positions."""
    kind = draw.randrange(6)
    if kind == 0:
        return 0
    if kind == 1:
        return draw.randint(0, 2)
    if kind == 2:
        return draw.randint(0, extent - 1)
    if kind == 3:
        return draw.randint(extent, 2 * extent + 3)
    return (extent - 1) // 2


def axis(
    draw: Random,
    pairs: bool,
    filter: int | None = None,
    stride: int | None = None,
    dilation: int | None = None,
    narrow: bool = False,
) -> Axis:
    """An axis with an output; with `pairs`, the two ends may be padded differently, and the last one cropped.

    A narrow one has fewer positions than its dilated filter covers.
    """
    while True:
        r = filter or draw.randint(1, weighted(draw, (65, 5), (20, 9), (10, 16), (5, 51)))
        d = dilation or weighted(
            draw, (50, 1), (30, draw.randint(2, 4)), (8, draw.randint(5, 13)), (2, draw.randint(14, 60))
        )
        s = stride or weighted(draw, (50, 1), (25, 2), (20, draw.randint(3, 5)), (5, draw.randint(6, 12)))
        extent = d * (r - 1) + 1
        begin = end = padding(draw, extent)
        if pairs and draw.random() < 0.3:
            end = weighted(draw, (3, padding(draw, extent)), (1, 0), (1, -draw.randint(1, 4)))
        found = Axis(draw.randint(1, min(extent, 40)) if narrow else size(draw), r, s, (begin, end), d)
        if found.output >= 1:
            return found


def channels(draw: Random, depthwise: bool | None) -> tuple[int, int, int]:
    """Groups, and per group channels of the input and of the output."""
    if depthwise or (depthwise is None and draw.random() < 0.5):
        return draw.choice(_CHANNELS), 1, weighted(draw, (70, 1), (30, draw.randint(2, 5)))
    groups = weighted(draw, (40, 1), (50, draw.randint(2, 6)), (10, draw.randint(7, 33)))
    return groups, draw.choice(_CHANNELS), draw.choice(_CHANNELS)


def batch(draw: Random) -> int:
    """Images; none is tried for functions only."""
    return weighted(draw, (50, 1), (35, draw.randint(2, 3)), (12, draw.randint(4, 9)), (3, draw.randint(10, 40)))


def dimensions(draw: Random, most: int = 3) -> int:
    """1 to 3."""
    return weighted(draw, (30, 1), (50, 2), (20, min(3, most)))


def problem(
    draw: Random,
    ndim: int,
    pairs: bool = True,
    depthwise: bool | None = None,
    filter: int | None = None,
    stride: int | None = None,
) -> ConvProblem:
    """A problem of any size; filter and stride are of the last two axes, where they are given."""
    lead, narrow = max(0, ndim - 2), draw.random() < NARROW
    if stride is None and draw.random() < 0.5:  # most kernels want it everywhere, or nowhere
        stride = 1
    dilation = 1 if draw.random() < 0.5 else None
    axes = [axis(draw, pairs, stride=stride, dilation=dilation, narrow=narrow) for _ in range(lead)]
    axes += [axis(draw, pairs, filter, stride, dilation, narrow) for _ in range(ndim - lead)]
    groups, c, k = channels(draw, depthwise)
    return _with_axes(ConvProblem(batch(draw), groups * c, groups * k, (1,), (1,), groups=groups), axes)


def changed(draw: Random, start: ConvProblem) -> ConvProblem:
    """The problem with one to three of its numbers drawn anew or moved by one."""
    axes = [
        Axis(*numbers)
        for numbers in zip(start.input, start.filter, start.stride, start.padding, start.dilation, strict=True)
    ]
    n, groups, c, k = start.n, start.groups, start.c // start.groups, start.k // start.groups
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(9)
        at = draw.randrange(len(axes))
        old, new = axes[at], axis(draw, True, narrow=draw.random() < NARROW)
        if kind == 0:
            n = batch(draw)
        elif kind == 1:
            groups, c = (max(1, groups + draw.choice((-1, 1, 8))), c)
        elif kind == 2:
            k = draw.randint(1, 5) if c == 1 else draw.choice(_CHANNELS)
        elif kind == 3:
            axes[at] = replace(old, input=max(1, draw.choice((new.input, old.input - 1, old.input + 1))))
        elif kind == 4:
            axes[at] = replace(old, filter=max(1, draw.choice((new.filter, old.filter - 1, old.filter + 1))))
        elif kind == 5:
            axes[at] = replace(old, stride=draw.choice((new.stride, old.stride + 1)))
        elif kind == 6:
            axes[at] = replace(old, dilation=draw.choice((new.dilation, old.dilation + 1)))
        else:
            extent = old.dilation * (old.filter - 1) + 1
            begin = padding(draw, extent)
            end = begin if kind == 7 else draw.choice((padding(draw, extent), begin + 1, begin - 1, -1))
            axes[at] = replace(old, padding=(begin, end))
    if any(one.output < 1 for one in axes):
        return start
    return _with_axes(ConvProblem(n, groups * c, groups * k, (1,), (1,), groups=groups), axes)


def work(p: ConvProblem) -> int:
    """What a problem costs about: multiply-adds of a pass, and elements."""
    return p.flops // 2 + math.prod(p.x_shape) + math.prod(p.y_shape) + p.parameters


def _with_axes(start: ConvProblem, axes: Sequence[Axis]) -> ConvProblem:
    return replace(
        start,
        input=tuple(one.input for one in axes),
        filter=tuple(one.filter for one in axes),
        stride=tuple(one.stride for one in axes),
        padding=tuple(one.padding for one in axes),
        dilation=tuple(one.dilation for one in axes),
    )
