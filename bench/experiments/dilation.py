"""Dilation rates at equal FLOPs and bytes."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from convbound.bench.experiments.experiment import OURS, Experiment, Group, Point, Points, Setting, Subject, Verdict
from convbound.bench.experiments.show import legend, lines, ticks
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, Layout
from convbound.roofs import Roofs

RATES = (1, 2, 3, 4, 6, 12, 18, 24, 36)
# What counts as equal, for a measurement is not exact.
EVEN = 1.5


def _subjects(setting: Setting, rate: int, layout: Layout) -> list[Subject]:
    batch = 32 if setting.gpu else 2
    problem = f"mb{batch}g128ic128ih65oc128kh3ph{rate}dh{rate}"
    return setting.both(problem, Point("", str(rate), rate, layout=layout))


def _groups(setting: Setting) -> list[Group]:
    return [partial(_subjects, setting, rate, layout) for rate in RATES for layout in LAYOUTS]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    texts, worst = [], {}
    for series in (OURS, TORCH):
        for layout in LAYOUTS:
            line = points.where(series=series, layout=layout)
            plain = line.one(label="1")
            slow = max(line, key=lambda p: p.ms)
            worst[series, layout] = slow.ms / plain.ms
            texts.append(f"{series} {layout} {slow.ms / plain.ms:.2f} times (rate {slow.label})")
    return Verdict(
        max(worst[OURS, layout] for layout in LAYOUTS) < EVEN,
        f"The slowest rate over rate 1: {', '.join(texts)}. Taps that meet padding are counted as work; at rate 36 "
        "most of them do.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="rate", ylabel="ms")
    lines(axes, points, ("series", "layout"))
    ticks(axes, points)
    axes.set_title("depthwise 3x3, 128 channels at 65x65")
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="dilation",
    title="dilation is free, if the kernel is made for it",
    hypothesis="A dilated 3x3 has the FLOPs and the bytes of a plain one at every rate, so it should take the same "
    "time. Where it takes longer, the kernel is at fault and not the operation.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    columns=(),
)
