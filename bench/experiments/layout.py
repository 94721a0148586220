"""What a call's time is made of: the convolution, copies to the other layout and back, the bias."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure

from convbound.bench.cases import dense
from convbound.bench.experiments.experiment import (
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
from convbound.problem import LAYOUTS, ConvProblem
from convbound.roofs import Roofs

PROBLEMS = {
    "depthwise 3x3": "g64ic64ih56oc64kh3ph1",
    "depthwise 7x7": "g64ic64ih56oc64kh7ph3",
    "8 groups": "g8ic64ih56oc64kh3ph1",
    "dense 3x3": "ic64ih56oc64kh3ph1",
}
PLAIN, OTHER, THERE, BACK = "NCHW", "NHWC", "copy to NHWC", "copy back"
ADDED, INSIDE = "bias added after", "bias inside"


def _subjects(setting: Setting, label: str, series: str) -> list[Subject]:
    problem = ConvProblem.parse(f"mb{32 if setting.gpu else 4}{PROBLEMS[label]}")
    conv = partial(convolve, problem, ours=series == OURS)
    tensors = {
        layout: [setting.random(*s, layout=layout) for s in (problem.x_shape, problem.w_shape)] for layout in LAYOUTS
    }
    bias = setting.random(problem.k)
    nchw, nhwc = tensors["NCHW"], tensors["NHWC"]
    known = summed(Point(series, label, 0), [problem], setting.dtype)

    def subject(part: str, operands: list[torch.Tensor], run: Callable[..., torch.Tensor]) -> Subject:
        point = Point(f"{series}: {part}", label, 0, multiply_adds=known.multiply_adds, bytes=known.bytes)
        return Subject(point, tuple(operands), run)

    return [
        subject(PLAIN, nchw, conv),
        subject(OTHER, nhwc, conv),
        subject(THERE, nchw[:1], lambda x: dense(x, "NHWC")),
        subject(BACK, nhwc[:1], lambda x: dense(x, "NCHW")),
        subject(ADDED, [*nchw, bias], lambda x, w, b: conv(x, w).add_(b[:, None, None])),
        subject(INSIDE, [*nchw, bias], conv),
    ]


def _groups(setting: Setting) -> list[Group]:
    return [partial(_subjects, setting, label, series) for label in PROBLEMS for series in (OURS, TORCH)]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    texts, dearer, inside = [], [], []
    for label in PROBLEMS:
        for series in (OURS, TORCH):
            ms = {p.series.partition(": ")[2]: p.ms for p in points.where(label=label) if p.series.startswith(series)}
            copies = ms[THERE] + ms[BACK]
            dearer.append(copies + ms[OTHER] > ms[PLAIN])
            inside.append(ms[INSIDE] < ms[ADDED])
            texts.append(
                f"{label}, {series}: NCHW {ms[PLAIN]:.2f} ms; by NHWC {ms[OTHER]:.2f} + copies {copies:.2f}; bias "
                f"inside +{max(ms[INSIDE] - ms[PLAIN], 0):.2f}, after +{max(ms[ADDED] - ms[PLAIN], 0):.2f}"
            )
    rows = len(dearer)
    return Verdict(
        sum(dearer) > rows / 2 and sum(inside) > rows / 2,
        f"A copy to NHWC and back costs more than it gains in {sum(dearer)} of {rows} rows, and a bias inside the call "
        f"less than one added after it in {sum(inside)}. {'. '.join(texts)}.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    for axes, series in zip(figure.subplots(1, 2, sharey=True), (OURS, TORCH), strict=True):
        axes.set_yscale("log")
        mine = [p for p in points if p.series.startswith(series)]
        bars(axes, Points(dataclasses.replace(p, series=p.series.partition(": ")[2]) for p in mine))
        axes.set_title(series)
        axes.tick_params(axis="x", labelsize=8)
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="layout",
    title="what a call is made of",
    hypothesis="A layout copy moves as many bytes as a depthwise convolution does. Where a tensor has the layout that "
    "a kernel does not like, two copies cost more than the slower kernel does; and a bias that the kernel adds is "
    "nearly free, while one that is added afterwards costs another pass over the image.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("label", "series"),
    columns=(),
)
