"""Filters from 3x3 to 31x31: from which size on arithmetic binds a depthwise convolution."""

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
from convbound.bench.experiments.show import legend, lines, ticks
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, Layout
from convbound.roofs import Roofs

SIZES = (3, 5, 7, 9, 13, 17, 21, 31)
SQUARE, PAIR = "kxk", "1xk + kx1"


def _subjects(setting: Setting, size: int, layout: Layout) -> list[Subject]:
    batch, pad = 32 if setting.gpu else 2, size // 2
    plane = f"mb{batch}g64ic64ih56oc64"
    point = Point(SQUARE, f"{size}x{size}", size, layout=layout)
    pair = [f"{plane}kh1kw{size}ph0pw{pad}", f"{plane}kh{size}kw1ph{pad}pw0"]
    chains = [
        setting.chain(pair, Point(f"{PAIR} {name}", point.label, size, layout=layout), ours=name == OURS, equal=PAIR)
        for name in (TORCH, OURS)
    ]
    weights = chains[0].tensors  # both of the same tensors, for their results to be compared
    chains[1] = Subject(chains[1].point, weights, chains[1].run, PAIR)
    return [*setting.both(f"{plane}kh{size}ph{pad}", point), *chains]


def _groups(setting: Setting) -> list[Group]:
    return [partial(_subjects, setting, size, layout) for size in SIZES for layout in LAYOUTS]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    mine = points.where(series=f"{SQUARE} {OURS}")
    best = [min(mine.where(x=x), key=lambda p: p.ms) for x in mine.values("x")]
    meet = ridge(roofs)
    dear = [p for p in best if p.ms > 1.5 * best[0].ms]
    over = [p for p in best if p.intensity > meet]
    first, predicted = (found[0].label if found else "no size" for found in (dear, over))
    large = best[-1]
    pair = min(points.where(series=f"{PAIR} {OURS}", x=large.x), key=lambda p: p.ms)
    slow = min(points.where(series=f"{SQUARE} {TORCH}", x=large.x), key=lambda p: p.ms)
    work = large.multiply_adds / best[0].multiply_adds
    return Verdict(
        bool(dear and over) and abs(SIZES.index(int(dear[0].x)) - SIZES.index(int(over[0].x))) <= 1,
        f"The roofs meet at {meet:.1f} FLOP/byte, which {predicted} is the first to exceed; {first} is the first to "
        f"take 1.5 times as long as 3x3. {large.label} has {work:.0f} times the multiply-adds of 3x3 and takes "
        f"{large.ms / best[0].ms:.1f} times as long, at {large.gflops:.0f} GFLOP/s; torch takes "
        f"{slow.ms / large.ms:.1f} times as long as that. As 1x31 and 31x1 it takes {pair.ms / large.ms:.2f} times as "
        f"long, with {large.multiply_adds / pair.multiply_adds:.1f} times fewer multiply-adds.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    for axes, layout in zip(figure.subplots(1, 2, sharey=True), LAYOUTS, strict=True):
        axes.set(xscale="log", yscale="log", title=layout, xlabel="filter")
        lines(axes, points.where(layout=layout))
        over = [p.x for p in points if p.series.startswith(SQUARE) and p.intensity > ridge(roofs)]
        if over:
            axes.axvline(min(over), color="black", linewidth=0.8, linestyle=":", label="beyond the ridge")
        ticks(axes, points)
        axes.grid(True, linewidth=0.4, alpha=0.6)
        axes.set_ylabel("ms")
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="filters",
    title="larger filters, and where arithmetic takes over",
    hypothesis="A depthwise convolution moves the same bytes whatever its filter, so a larger filter costs nothing "
    "until its intensity (k*k/4 FLOP/byte in fp32) passes the ridge; from there on the time grows with the taps. Two "
    "passes, 1xk and kx1, have 2k taps for k*k, and twice the bytes.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    columns=("multiply_adds",),
)
