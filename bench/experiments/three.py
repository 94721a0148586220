"""Three convolutions that the notes compare: dense, depthwise, and a dense one with as few multiply-adds."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from convbound.bench.experiments.experiment import (
    OURS,
    Experiment,
    Group,
    Point,
    Points,
    Setting,
    Subject,
    Verdict,
    ridge,
)
from convbound.bench.experiments.show import COLOURS, MARKERS, legend
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, Layout
from convbound.roofs import Roofs

DENSE, DEPTHWISE, NARROW = "dense 64x64x256", "depthwise 64x64x256", "dense 64x64x16"
PROBLEMS = {
    DENSE: "mb1ic256ih64oc256kh3ph1",
    DEPTHWISE: "mb1g256ic256ih64oc256kh3ph1",
    NARROW: "mb1ic16ih64oc16kh3ph1",
}
# The time ratio of dense to depthwise that the usual notes give, for one GPU of years ago.
NOTES = 10.0


def _subjects(setting: Setting, layout: Layout) -> list[Subject]:
    return [
        subject
        for i, (label, problem) in enumerate(PROBLEMS.items())
        for subject in setting.both(problem, Point("", label, i, layout=layout))
    ]


def _groups(setting: Setting) -> list[Group]:
    return [partial(_subjects, setting, layout) for layout in LAYOUTS]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    dense, depthwise, narrow = (points.where(label=label) for label in PROBLEMS)
    work = dense[0].multiply_adds / depthwise[0].multiply_adds
    found = {}
    for series in (OURS, TORCH):
        rows = zip(dense.where(series=series), depthwise.where(series=series), strict=True)
        found[series] = [one.ms / other.ms for one, other in rows]
    least, most = min(map(min, found.values())), max(map(max, found.values()))
    # The same comparison at equal multiply-adds.
    equal = [one.ms / other.ms for one, other in zip(depthwise, narrow, strict=True)]
    bytes_ = depthwise[0].bytes / narrow[0].bytes
    ranges = "; ".join(f"{series} {min(ratios):.3g} to {max(ratios):.3g} times" for series, ratios in found.items())
    best = max(depthwise.where(series=OURS), key=lambda p: p.gbps)
    holds = most < work / 1.5 and max(equal) > 1.5
    return Verdict(
        holds,
        f"The dense convolution has {work:.0f} times the multiply-adds of the depthwise one and takes {least:.3g} to "
        f"{most:.3g} times as long (by layout and caches: {ranges}); the notes say about {NOTES:.0f}. At equal "
        f"multiply-adds the depthwise one takes {min(equal):.2g} to {max(equal):.2g} times as long as the narrow dense "
        f"one; it moves {bytes_:.0f} times the bytes. The reason is intensity: {dense[0].intensity:.0f} FLOP/byte "
        f"against {depthwise[0].intensity:.2g}, with the ridge of this machine near {ridge(roofs):.1f}. "
        f"The depthwise one reaches {best.gbps:.0f} GB/s with {best.cache} caches; a copy reaches "
        f"{roofs.copy_gbps:.0f} from memory.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    axes = figure.add_subplot(xscale="log", yscale="log")
    for i, series in enumerate((OURS, TORCH)):
        for layout, fill in zip(LAYOUTS, ("none", COLOURS[i]), strict=True):
            chosen = points.where(series=series, layout=layout, cache="warm")
            x, y = [p.multiply_adds / 1e6 for p in chosen], [p.ms for p in chosen]
            axes.plot(x, y, MARKERS[i], color=COLOURS[i], markerfacecolor=fill, ms=9, label=f"{series} {layout}")
    best = {label: min(points.where(label=label, cache="warm"), key=lambda p: p.ms) for label in PROBLEMS}
    dense = best[DENSE]
    start = dense.ms / dense.multiply_adds
    low, high = (
        points.one(label=NARROW, series=OURS, layout="NCHW", cache="warm").multiply_adds / 60,
        dense.multiply_adds * 2,
    )
    axes.plot(
        [low / 1e6, high / 1e6],
        [low * start, high * start],
        ":",
        color="black",
        label="if time followed\nmultiply-adds",
    )
    for label, point in best.items():
        axes.annotate(
            f"{label}\n{point.multiply_adds / 1e6:,.0f} M multiply-adds, {point.bytes / 1e6:.2f} MB",
            (point.multiply_adds / 1e6, point.ms),
            xytext=(-12, 0),
            ha="right",
            va="center",
            textcoords="offset points",
            fontsize=9,
        )
    axes.set_xlabel("multiply-adds (millions)")
    axes.set_ylabel("ms, warm caches")
    axes.set_ylim(min(p.ms for p in best.values()) / 4, dense.ms * 3)
    axes.set_title(
        f"{dense.multiply_adds / best[DEPTHWISE].multiply_adds:.0f} times the multiply-adds, "
        f"{dense.ms / best[DEPTHWISE].ms:.0f} times the time"
    )
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="three",
    title="multiply-adds do not tell the time",
    hypothesis="A depthwise convolution has 256 times fewer multiply-adds than the dense one of its size, but it moves "
    "nearly as many bytes. Its time follows the bytes: it is far from 256 times faster, and slower than a dense "
    "convolution with 16 channels, which has as many multiply-adds as it has.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    caches=("warm", "cold"),
    rows=("label", "layout", "cache"),
    columns=("multiply_adds", "bytes", "intensity"),
)
