"""What stands around a convolution: folded into it, run as one, or avoided."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from convbound.bench.experiments.experiment import (
    CLEAR,
    OURS,
    Experiment,
    Group,
    Point,
    Points,
    Setting,
    Subject,
    Verdict,
    convolve,
    summed,
)
from convbound.bench.experiments.show import bars, legend
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, ConvProblem, Layout
from convbound.roofs import Roofs

APART, FUSED = "apart", "fused"
VERTICAL, HORIZONTAL, CONCATENATION = "conv + BN + ReLU", "three 1x1 of one input", "concat, then 1x1"
CHANNELS, SIZE = 64, 56


def _pair(
    setting: Setting,
    label: str,
    layout: Layout,
    series: str,
    problems: list[ConvProblem],
    fused: list[ConvProblem],
    tensors: tuple[Tensor, ...],
    run: Callable[..., Tensor],
    run_fused: Callable[..., Tensor],
) -> list[Subject]:
    """Both ways to one result."""
    made = []
    for way, of, one in ((APART, problems, run), (FUSED, fused, run_fused)):
        point = summed(Point(f"{way} {series}", label, 0, layout=layout), of, setting.dtype)
        made.append(Subject(point, tensors, one, f"{label} {series}"))
    return made


def _vertical(setting: Setting, layout: Layout, series: str) -> list[Subject]:
    problem = ConvProblem.parse(f"mb{_batch(setting)}g{CHANNELS}ic{CHANNELS}ih{SIZE}oc{CHANNELS}kh3ph1")
    conv = partial(convolve, problem, ours=series == OURS)
    x, w = (setting.random(*shape, layout=layout) for shape in (problem.x_shape, problem.w_shape))
    mean, weight, bias = (setting.random(CHANNELS) for _ in range(3))
    variance = setting.random(CHANNELS).abs() + 1
    scale = weight / (variance + 1e-5).sqrt()
    folded, shift = w * scale[:, None, None, None], bias - mean * scale

    def apart(x: Tensor, w: Tensor, *_: Tensor) -> Tensor:
        return F.relu(F.batch_norm(conv(x, w), mean, variance, weight, bias, eps=1e-5))

    def fused(x: Tensor, w: Tensor, folded: Tensor, shift: Tensor) -> Tensor:
        return F.relu(conv(x, folded, shift))

    return _pair(setting, VERTICAL, layout, series, [problem], [problem], (x, w, folded, shift), apart, fused)


def _horizontal(setting: Setting, layout: Layout, series: str) -> list[Subject]:
    batch = _batch(setting)
    third = ConvProblem.parse(f"mb{batch}ic{CHANNELS}ih{SIZE}oc{CHANNELS // 2}kh1")
    whole = ConvProblem.parse(f"mb{batch}ic{CHANNELS}ih{SIZE}oc{3 * CHANNELS // 2}kh1")
    x = setting.random(*third.x_shape, layout=layout)
    filters = [setting.random(*third.w_shape, layout=layout) for _ in range(3)]
    ours = series == OURS

    def apart(x: Tensor, *filters: Tensor) -> Tensor:
        first, *_ = [convolve(third, x, w, ours=ours) for w in filters[:3]]
        return first

    def fused(x: Tensor, *filters: Tensor) -> Tensor:
        return convolve(whole, x, filters[3], ours=ours).narrow(1, 0, CHANNELS // 2)

    tensors = (x, *filters, torch.cat(filters))
    return _pair(setting, HORIZONTAL, layout, series, [third] * 3, [whole], tensors, apart, fused)


def _concatenation(setting: Setting, layout: Layout, series: str) -> list[Subject]:
    batch = _batch(setting)
    half = ConvProblem.parse(f"mb{batch}ic{CHANNELS}ih{SIZE}oc{CHANNELS}kh1")
    whole = ConvProblem.parse(f"mb{batch}ic{2 * CHANNELS}ih{SIZE}oc{CHANNELS}kh1")
    a, b = (setting.random(*half.x_shape, layout=layout) for _ in range(2))
    first, second = (setting.random(*half.w_shape, layout=layout) for _ in range(2))
    ours = series == OURS

    def apart(a: Tensor, b: Tensor, first: Tensor, second: Tensor, both: Tensor) -> Tensor:
        return convolve(whole, torch.cat([a, b], 1), both, ours=ours)

    def fused(a: Tensor, b: Tensor, first: Tensor, second: Tensor, both: Tensor) -> Tensor:
        return convolve(half, a, first, ours=ours).add_(convolve(half, b, second, ours=ours))

    tensors = (a, b, first, second, torch.cat([first, second], 1))
    return _pair(setting, CONCATENATION, layout, series, [whole], [half] * 2, tensors, apart, fused)


def _batch(setting: Setting) -> int:
    return 32 if setting.gpu else 4


def _subjects(setting: Setting, layout: Layout, part: Callable[..., list[Subject]]) -> list[Subject]:
    return [one for series in (TORCH, OURS) for one in part(setting, layout, series)]


def _groups(setting: Setting) -> list[Group]:
    parts = (_vertical, _horizontal, _concatenation)
    return [partial(_subjects, setting, layout, part) for part in parts for layout in LAYOUTS]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    texts, gains = [], {}
    for label in points.values("label"):
        found = {
            (series, layout): points.one(series=f"{APART} {series}", label=label, layout=layout).ms
            / points.one(series=f"{FUSED} {series}", label=label, layout=layout).ms
            for series in (OURS, TORCH)
            for layout in LAYOUTS
        }
        gains[label] = (found[OURS, "NCHW"] * found[OURS, "NHWC"]) ** 0.5
        texts.append(f"{label}: " + ", ".join(f"{s} {layout} {gain:.2f}" for (s, layout), gain in found.items()))
    return Verdict(
        all(gain > CLEAR for gain in gains.values()),
        f"Time apart over time fused, or with the copy avoided. {'; '.join(texts)}. Judged by the mean of both layouts "
        f"with convbound, which has to exceed {CLEAR}.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    for axes, layout in zip(figure.subplots(1, 2, sharey=True), LAYOUTS, strict=True):
        bars(axes, points.where(layout=layout))
        axes.set_title(layout)
        axes.tick_params(axis="x", labelsize=8)
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="fusing",
    title="fold, merge, avoid",
    hypothesis="Every pass over an image costs its bytes. Folding BatchNorm into the filter saves one (vertical "
    "fusion), one 1x1 with all filters reads its input once where three read it three times (horizontal fusion), and "
    "two 1x1 that are added need no concatenation.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("label", "series"),
    columns=(),
)
