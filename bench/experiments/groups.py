"""From depthwise to dense: the number of channels per group, at constant bytes and at constant FLOPs."""

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
from convbound.bench.experiments.show import COLOURS, legend
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, PASSES, Layout, Pass
from convbound.roofs import Roofs

BYTES, FLOPS = "constant bytes", "constant FLOPs"
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128)
# Channels at constant bytes; channels times channels per group at constant FLOPs.
CHANNELS, PRODUCT = 128, 1024


def _subjects(setting: Setting, sweep: str, width: int, layout: Layout, pass_: Pass) -> list[Subject]:
    channels = CHANNELS if sweep == BYTES else PRODUCT // width
    batch = 32 if setting.gpu else 2
    problem = f"mb{batch}g{channels // width}ic{channels}ih28oc{channels}kh3ph1"
    return setting.both(problem, Point("", f"{sweep}: {width}", width, layout=layout, pass_=pass_))


def _groups(setting: Setting) -> list[Group]:
    return [
        partial(_subjects, setting, sweep, width, layout, pass_)
        for sweep in (BYTES, FLOPS)
        for width in WIDTHS
        if sweep == BYTES or width * width <= PRODUCT
        for layout in LAYOUTS
        for pass_ in PASSES
    ]


def _best(points: Points, sweep: str) -> list[Point]:
    """Of each width the fastest fprop, whoever ran it."""
    chosen = Points(p for p in points.where(pass_="fprop") if p.label.startswith(sweep))
    return [min(chosen.where(x=x), key=lambda p: p.ms) for x in chosen.values("x")]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    meet = ridge(roofs)
    by_bytes, by_flops = _best(points, BYTES), _best(points, FLOPS)
    below = [p for p in by_bytes if p.intensity <= meet] or by_bytes[:1]
    above = [p for p in by_bytes if p.intensity > meet] or by_bytes[-1:]
    free = below[-1].ms / below[0].ms
    work, dear = above[-1].multiply_adds / above[0].multiply_adds, above[-1].ms / above[0].ms
    fewer, faster = by_flops[0].bytes / by_flops[-1].bytes, by_flops[0].ms / by_flops[-1].ms
    return Verdict(
        free < 1.5 and dear > work / 3,
        f"The roofs meet at {meet:.1f} FLOP/byte, between {below[-1].x:.0f} and {above[0].x:.0f} channels per group. "
        f"At constant bytes, fprop by whatever is fastest: below the ridge {below[-1].x / below[0].x:.0f} times the "
        f"arithmetic takes {free:.2f} times as long; above it {work:.0f} times the arithmetic takes {dear:.1f} times "
        f"as long. At constant FLOPs the depthwise end moves {fewer:.1f} times the bytes of the dense end and takes "
        f"{faster:.1f} times as long.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    grid = figure.subplots(2, len(PASSES), sharex=True, sharey="row")
    for row, sweep in enumerate((BYTES, FLOPS)):
        for axes, pass_ in zip(grid[row], PASSES, strict=True):
            swept = Points(p for p in points.where(pass_=pass_) if p.label.startswith(sweep))
            for i, series in enumerate((OURS, TORCH)):
                for layout, style in zip(LAYOUTS, ("-", ":"), strict=True):
                    line = swept.where(series=series, layout=layout)
                    label = f"{series} {layout}" if not row and pass_ == "fprop" else None
                    axes.plot(
                        [p.x for p in line],
                        [p.ms for p in line],
                        style,
                        marker="os"[i],
                        ms=4,
                        color=COLOURS[i],
                        label=label,
                    )
            over = [p.x for p in swept if p.intensity > ridge(roofs)]
            if over:
                first = not row and pass_ == "fprop"
                axes.axvline(
                    min(over) / 2**0.5, color="black", linewidth=0.8, linestyle="--", label="ridge" if first else None
                )
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(WIDTHS, map(str, WIDTHS), fontsize=8)
            axes.minorticks_off()
            axes.grid(True, linewidth=0.4, alpha=0.6)
            if not row:
                axes.set_title(pass_)
        grid[row][0].set_ylabel(f"ms, {sweep}")
    figure.supxlabel("channels per group", fontsize=10)
    legend(figure, grid[0][0])


EXPERIMENT = Experiment(
    name="groups",
    title="from depthwise to dense",
    hypothesis="With the bytes held constant, more channels per group cost nothing until the arithmetic fills the "
    "time of the bytes (the ridge), and from there on the time grows with it. With the FLOPs held constant, the "
    "depthwise end is the slowest, for it moves the most bytes.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("label", "pass_"),
    columns=(),
)
