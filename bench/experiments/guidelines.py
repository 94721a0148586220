"""The four guidelines of ShuffleNetV2 (Ma et al., ECCV 2018, arXiv:1807.11164, section 2), each at constant FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

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
from convbound.bench.experiments.show import COLOURS, legend
from convbound.bench.rivals import TORCH
from convbound.problem import ConvProblem
from convbound.roofs import Roofs

SIZE, BLOCKS = 56, 10
# Batches per second on the paper's GPU, tables 1 to 4, in the first of their sizes.
RATIOS = {(128, 128): 1480, (90, 180): 1296, (52, 312): 876, (36, 432): 748}
GROUPS = {(1, 128): 2451, (2, 180): 1725, (4, 256): 1026, (8, 360): 634}
FRAGMENTS = {"1": 2446, "2 in series": 1790, "4 in series": 752, "2 in parallel": 1537, "4 in parallel": 691}
FRAGMENT_CHANNELS = {"1": 128, "2": 90, "4": 64}
ELEMENTWISE = {"ReLU and shortcut": 2427, "ReLU": 2647, "shortcut": 2672, "neither": 2842}
BOTTLENECK = 32
PAPER = "paper: time"


def memory_access(size: int, c1: int, c2: int, groups: int = 1) -> int:
    """Elements that a 1x1 convolution of a size x size image accesses: hw(c1 + c2) + c1 c2 / g (equation 1 there).

    With the multiply-adds B = hw c1 c2 / g it is at least 2 sqrt(hw B) + B / hw for g = 1, where c1 = c2 reaches it;
    and hw c1 + B g / c1 + B / hw, which grows with g.
    """
    return size * size * (c1 + c2) + c1 * c2 // groups


def _pointwise(c1: int, c2: int, batch: int, groups: int = 1) -> ConvProblem:
    return ConvProblem.parse(f"mb{batch}g{groups}ic{c1}ih{SIZE}oc{c2}kh1")


def _batch(setting: Setting) -> int:
    return 8 if setting.gpu else 1


def _channels(setting: Setting) -> list[Subject]:
    """G1: blocks of two 1x1, c1 to c2 and back."""
    made = []
    for (c1, c2), speed in RATIOS.items():
        block = [_pointwise(c1, c2, _batch(setting)), _pointwise(c2, c1, _batch(setting))]
        access = BLOCKS * (memory_access(SIZE, c1, c2) + memory_access(SIZE, c2, c1))
        facts = {"elements": access, PAPER: RATIOS[128, 128] / speed}
        for series in (TORCH, OURS):
            point = Point(series, f"G1 {c1}:{c2}", c2 / c1, facts=facts)
            made.append(setting.chain(block * BLOCKS, point, ours=series == OURS))
    return made


def _grouped(setting: Setting) -> list[Subject]:
    """G2: grouped 1x1 in a row."""
    made = []
    for (groups, c), speed in GROUPS.items():
        access = BLOCKS * memory_access(SIZE, c, c, groups)
        facts = {"elements": access, PAPER: GROUPS[1, 128] / speed}
        for series in (TORCH, OURS):
            point = Point(series, f"G2 g={groups}, {c} channels", groups, facts=facts)
            row = [_pointwise(c, c, _batch(setting), groups)] * BLOCKS
            made.append(setting.chain(row, point, ours=series == OURS))
    return made


def _fragmented(setting: Setting) -> list[Subject]:
    """G3: blocks of 1, 2 or 4 convolutions, in series, or side by side and then added."""
    made = []
    for x, (name, speed) in enumerate(FRAGMENTS.items()):
        count, parallel = int(name[0]), "parallel" in name
        channels = FRAGMENT_CHANNELS[name[0]]
        problem = _pointwise(channels, channels, _batch(setting))
        filters = [setting.random(*problem.w_shape) for _ in range(BLOCKS * count)]
        facts = {"elements": BLOCKS * count * memory_access(SIZE, channels, channels), PAPER: FRAGMENTS["1"] / speed}
        for series in (TORCH, OURS):
            one = partial(convolve, problem, ours=series == OURS)

            def run(
                x: Tensor,
                *filters: Tensor,
                one: Callable[..., Tensor] = one,
                count: int = count,
                apart: bool = parallel,
            ) -> Tensor:
                for i in range(0, len(filters), count):
                    block = filters[i : i + count]
                    if apart:
                        x = reduce(torch.add, [one(x, w) for w in block])
                    else:
                        for w in block:
                            x = one(x, w)
                return x

            point = Point(series, f"G3 {name}", x, facts=facts)
            known = summed(point, [problem] * (BLOCKS * count), setting.dtype)
            made.append(Subject(known, (setting.random(*problem.x_shape), *filters), run))
    return made


def _elementwise(setting: Setting) -> list[Subject]:
    """G4: ResNet's bottleneck with and without what stands between its convolutions."""
    batch, wide = _batch(setting), 4 * BOTTLENECK
    inner = ConvProblem.parse(f"mb{batch}ic{BOTTLENECK}ih{SIZE}oc{BOTTLENECK}kh3ph1")
    block = [_pointwise(wide, BOTTLENECK, batch), inner, _pointwise(BOTTLENECK, wide, batch)]
    filters = [setting.random(*problem.w_shape) for problem in block] * BLOCKS
    made = []
    for x, (name, speed) in enumerate(ELEMENTWISE.items()):
        relu, shortcut = "ReLU" in name, "shortcut" in name
        for series in (TORCH, OURS):

            def run(
                x: Tensor, *filters: Tensor, ours: bool = series == OURS, relu: bool = relu, shortcut: bool = shortcut
            ) -> Tensor:
                for i in range(0, len(filters), len(block)):
                    y = x
                    for problem, w in zip(block, filters[i:], strict=False):
                        y = convolve(problem, y, w, ours=ours)
                        y = F.relu(y) if relu else y
                    x = x + y if shortcut else y
                return x

            facts = {PAPER: ELEMENTWISE["neither"] / speed}
            point = Point(series, f"G4 {name}", x, facts=facts)
            known = summed(point, block * BLOCKS, setting.dtype)
            made.append(Subject(known, (setting.random(*block[0].x_shape), *filters), run))
    return made


def _groups(setting: Setting) -> list[Group]:
    return [partial(part, setting) for part in (_channels, _grouped, _fragmented, _elementwise)]


# The best case of each guideline, and the one that it warns of.
_EXTREMES = {
    "G1": ("128:128", "36:432", "unequal channels, 1:12"),
    "G2": ("g=1, 128 channels", "g=8, 360 channels", "8 groups"),
    "G3": ("1", "4 in parallel", "4 parallel branches"),
    "G4": ("neither", "ReLU and shortcut", "ReLU and shortcut"),
}


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    texts, seen = [], []
    for name, (best, worst, words) in _EXTREMES.items():
        costs = {}
        for series in (OURS, TORCH):
            pair = (points.one(series=series, label=f"{name} {label}") for label in (worst, best))
            slow, fast = pair
            costs[series] = slow.ms / fast.ms
        seen.append(min(costs.values()) > CLEAR)
        there = (
            points.where(label=f"{name} {worst}")[0].facts[PAPER] / points.where(label=f"{name} {best}")[0].facts[PAPER]
        )
        texts.append(
            f"{name}, {words}: {costs[OURS]:.2f} times (torch {costs[TORCH]:.2f}; the paper's GPU {there:.2f})"
        )
    found = ", ".join(name for name, holds in zip(_EXTREMES, seen, strict=True) if not holds)
    missing = f" Not seen here: {found}." if found else ""
    return Verdict(all(seen), f"What each guideline warns of costs, at equal FLOPs: {'; '.join(texts)}.{missing}")


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    for axes, name in zip(figure.subplots(2, 2).flat, _EXTREMES, strict=True):
        for i, series in enumerate((OURS, TORCH)):
            line = Points(p for p in points.where(series=series) if p.label.startswith(name))
            first = line.one(label=f"{name} {_EXTREMES[name][0]}").ms
            places = [j + 0.25 * i for j in range(len(line))]
            axes.bar(places, [p.ms / first for p in line], 0.25, color=COLOURS[i], label=series)
        papers = [p.facts[PAPER] for p in line]
        axes.bar([j + 0.5 for j in range(len(line))], papers, 0.25, color="#bbbbbb", label="the paper's GPU")
        axes.set_xticks([j + 0.25 for j in range(len(line))], [p.label[3:].partition(",")[0] for p in line], fontsize=7)
        axes.set_title(name, fontsize=10)
        axes.axhline(1, color="black", linewidth=0.6)
    figure.supylabel("time over the best case", fontsize=10)
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="guidelines",
    title="the four guidelines of ShuffleNetV2",
    hypothesis="At equal FLOPs, (G1) unequal channel widths, (G2) groups, (G3) fragments and (G4) element-wise "
    "operations cost time (Ma et al., 2018). G1 and G2 follow from the elements that a 1x1 convolution accesses, "
    "hw(c1 + c2) + c1 c2 / g. Ten blocks in a row at 56x56, as in the paper; its times are relative to its own best "
    "case, on its GPU.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
)
