"""Upsampling by two: a transposed convolution, zero insertion and a convolution, resizing and a convolution."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import convbound
from convbound.bench.experiments.experiment import (
    OURS,
    Experiment,
    Group,
    Point,
    Points,
    Setting,
    Subject,
    Verdict,
    summed,
)
from convbound.bench.experiments.show import bars, legend
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, ConvProblem, Layout
from convbound.roofs import Roofs

ZEROS, RESIZE = "zeros inserted, torch", "resized, torch"
# Names and groups of 64 channels: 4x4 filters, stride 2, from 32x32 to 64x64.
LAYERS = {"dense": 1, "depthwise": 64}
CHANNELS, SIZE = 64, 32


def zero_insertion(x: Tensor, w: Tensor, groups: int) -> Tensor:
    """A transposed 4x4 convolution of stride 2 and padding 1 by an image of zeros between the pixels.

    `w` is the filter as ``F.conv2d`` wants it: its taps reversed, and in and out exchanged.
    """
    n, c, height, width = x.shape
    spread = x.new_zeros((n, c, 2 * height - 1, 2 * width - 1))
    spread[..., ::2, ::2] = x
    return F.conv2d(spread, w, padding=2, groups=groups)


def _subjects(setting: Setting, name: str, layout: Layout) -> list[Subject]:
    groups, batch = LAYERS[name], 32 if setting.gpu else 2
    head = f"mb{batch}g{groups}ic{CHANNELS}ih{{}}oc{CHANNELS}"
    # As the convolution that the layer transposes.
    problem = ConvProblem.parse(head.format(2 * SIZE) + "kh4sh2ph1")
    inserted = ConvProblem.parse(head.format(2 * SIZE - 1) + "kh4ph2")
    resized = ConvProblem.parse(head.format(2 * SIZE) + "kh3ph1")
    x = setting.random(*problem.y_shape, layout=layout)
    w = setting.random(*problem.w_shape, layout=layout)
    # (in, out / groups, ...) as conv_transpose has it, to (out, in / groups, ...).
    per = CHANNELS // groups
    exchanged = w.view(groups, per, per, 4, 4).transpose(1, 2).reshape(w.shape)
    reversed_ = exchanged.flip(-1, -2)
    small = setting.random(*resized.w_shape, layout=layout)

    def point(series: str, of: ConvProblem) -> Point:
        return summed(Point(series, name, 0, layout=layout), [of], setting.dtype)

    forward = dataclasses.replace(point(OURS, problem), problem=str(problem), pass_="fprop")
    return [
        Subject(forward, (x, w), partial(convbound.conv_transpose2d, stride=2, padding=1, groups=groups), name),
        Subject(point(TORCH, problem), (x, w), partial(F.conv_transpose2d, stride=2, padding=1, groups=groups), name),
        Subject(point(ZEROS, inserted), (x, reversed_), lambda x, w: zero_insertion(x, w, groups), name),
        Subject(
            point(RESIZE, resized),
            (x, small),
            lambda x, w: F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, padding=1, groups=groups),
        ),
    ]


def _groups(setting: Setting) -> list[Group]:
    return [partial(_subjects, setting, name, layout) for name in LAYERS for layout in LAYOUTS]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    texts, holds = [], True
    for name in LAYERS:
        best = {s: min(points.where(series=s, label=name), key=lambda p: p.ms) for s in (OURS, TORCH, ZEROS, RESIZE)}
        work = best[ZEROS].multiply_adds / best[OURS].multiply_adds
        holds &= best[ZEROS].ms > 1.2 * best[OURS].ms
        texts.append(
            f"{name}: zero insertion has {work:.1f} times the multiply-adds and takes "
            f"{best[ZEROS].ms / best[OURS].ms:.2f} times as long as the transposed convolution with convbound "
            f"({best[ZEROS].ms / best[TORCH].ms:.2f} times as long as with torch); resizing and a 3x3 takes "
            f"{best[RESIZE].ms / best[OURS].ms:.2f} times as long"
        )
    return Verdict(holds, f"Each in its better layout, {'; '.join(texts)}.")


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    for axes, layout in zip(figure.subplots(1, 2, sharey=True), LAYOUTS, strict=True):
        axes.set(yscale="log", title=layout)
        bars(axes, points.where(layout=layout))
        axes.grid(True, linewidth=0.4, alpha=0.6)
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="transposed",
    title="a transposed convolution and its substitutes",
    hypothesis="A transposed convolution of stride 2 is often explained as a convolution over an image with zeros "
    "between its pixels. Three of four products of that convolution are with a zero. A kernel that leaves them out has "
    "a quarter of the work, and should be faster.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("label", "series"),
)
