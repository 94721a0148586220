"""A dense 3x3 against depthwise and pointwise: the promised saving, and the measured one."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from convbound.bench.experiments.experiment import OURS, Experiment, Group, Point, Points, Setting, Subject, Verdict
from convbound.bench.experiments.show import COLOURS, legend, ticks
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, Layout
from convbound.roofs import Roofs

CHANNELS = (32, 64, 128, 256)
DENSE, SEPARABLE = "dense 3x3", "depthwise + pointwise"
# The formula may be off by this much.
NEAR = 1.5


def promise(channels: int, filter: int = 3) -> float:
    """The part of the dense multiply-adds that remains: 1/K + 1/k^2 (Howard et al., MobileNets, 2017, section 3.1)."""
    return 1 / channels + 1 / filter**2


def _subjects(setting: Setting, channels: int, layout: Layout) -> list[Subject]:
    batch = 32 if setting.gpu else 1
    plane = f"mb{batch}ic{channels}ih56oc{channels}"
    label = f"{channels} channels"
    made = []
    for series in (TORCH, OURS):
        for way, problems in (
            (DENSE, [f"{plane}kh3ph1"]),
            (SEPARABLE, [f"mb{batch}g{channels}ic{channels}ih56oc{channels}kh3ph1", f"{plane}kh1"]),
        ):
            point = Point(f"{way} {series}", label, channels, layout=layout, facts={"promised": promise(channels)})
            made.append(setting.chain(problems, point, ours=series == OURS))
    return made


def _groups(setting: Setting) -> list[Group]:
    return [partial(_subjects, setting, channels, layout) for channels in CHANNELS for layout in LAYOUTS]


def _shares(points: Points, series: str) -> list[float]:
    """The separable one's time as a part of the dense one's, each in its better layout, by channels."""
    return [
        min(p.ms for p in points.where(series=f"{SEPARABLE} {series}", x=x))
        / min(p.ms for p in points.where(series=f"{DENSE} {series}", x=x))
        for x in points.values("x")
    ]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    promised = [promise(int(x)) for x in points.values("x")]
    mine, theirs = _shares(points, OURS), _shares(points, TORCH)
    rows = zip(points.values("x"), promised, mine, theirs, strict=True)
    texts = [f"{x:.0f} channels: promised {p:.3f}, convbound {m:.3f}, torch {t:.3f}" for x, p, m, t in rows]
    return Verdict(
        all(m < NEAR * p for m, p in zip(mine, promised, strict=True)),
        f"The part of the dense time that the separable one takes: {'; '.join(texts)}. Its multiply-adds are as few as "
        "promised, but it moves the image twice and is bound by bytes, while the dense one runs at the peak.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    axes = figure.add_subplot(xscale="log", yscale="log", ylabel="part of the dense convolution's time")
    x = points.values("x")
    axes.plot(x, [promise(int(c)) for c in x], "k:", label="promised: 1/K + 1/k²")
    for i, series in enumerate((OURS, TORCH)):
        axes.plot(x, _shares(points, series), marker="os"[i], color=COLOURS[i], label=series)
    ticks(axes, points)
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="separable",
    title="depthwise separable: promised and measured",
    hypothesis="Replacing a dense 3x3 by a depthwise 3x3 and a pointwise 1x1 leaves 1/K + 1/9 of the multiply-adds for "
    "K output channels, and so, the notes say, of the time.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("label", "series"),
)
