"""The layer that the notes begin with: 512 groups of one channel, by a loop over groups, by torch and by convbound."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from convbound.bench.experiments.experiment import OURS, Experiment, Group, Point, Points, Setting, Subject, Verdict
from convbound.bench.experiments.show import bars, legend
from convbound.bench.rivals import TORCH
from convbound.problem import LAYOUTS, ConvProblem
from convbound.roofs import Roofs

CHANNELS, BATCH, CALLS = 512, 128, 100
# A CPU gets this part of the batch.
CPU_SHARE = 16
LOOP = "loop over groups"
# Seconds for 100 calls in the notes: a loop over groups, and what a grouped kernel needs.
NOTES = 4.0, 1.0


def _loop(x: Tensor, w: Tensor) -> Tensor:
    return torch.cat([F.conv2d(x[:, i : i + 1], w[i : i + 1], padding=1) for i in range(CHANNELS)], 1)


def _subjects(setting: Setting) -> list[Subject]:
    batch = BATCH if setting.gpu else BATCH // CPU_SHARE
    problem = ConvProblem.parse(f"mb{batch}g{CHANNELS}ic{CHANNELS}ih32oc{CHANNELS}kh3ph1")
    made = []
    for layout in LAYOUTS:
        both = setting.both(problem, Point("", "one call", 0, layout=layout))
        x, w, _ = both[0].tensors
        point = dataclasses.replace(both[0].point, series=LOOP, kernel="")
        made += [Subject(point, (x, w), _loop, both[0].equal), *both]
    facts = {"share of the batch": batch / BATCH}
    return [dataclasses.replace(one, point=dataclasses.replace(one.point, facts=facts)) for one in made]


def _groups(setting: Setting) -> list[Group]:
    return [lambda: _subjects(setting)]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    share = points[0].facts["share of the batch"]
    best = {series: min(points.where(series=series), key=lambda p: p.ms) for series in (LOOP, TORCH, OURS)}
    seconds = {series: point.ms * CALLS / share / 1e3 for series, point in best.items()}
    over_torch, over_ours = best[LOOP].ms / best[TORCH].ms, best[LOOP].ms / best[OURS].ms
    least = NOTES[0] / NOTES[1]
    scale = "" if share == 1 else f" (measured with 1/{1 / share:.0f} of the batch, and multiplied)"
    return Verdict(
        over_ours >= least,
        f"{CALLS} calls at batch {BATCH} take {seconds[LOOP]:.3g} s by the loop, {seconds[TORCH]:.3g} s by torch, "
        f"{seconds[OURS]:.3g} s by convbound, each in its better layout{scale}. The loop takes {over_torch:.3g} times "
        f"as long as torch and {over_ours:.3g} times as long as convbound; the notes claim more than {least:.0f}.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    axes = figure.add_subplot()
    bars(axes, Points(dataclasses.replace(p, label=p.layout) for p in points))
    axes.set_title(f"one call, {points[0].problem}")
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="headline",
    title="512 groups, one call or 512",
    hypothesis=f"A 3x3 convolution of {BATCH} images of 32x32 with {CHANNELS} channels in {CHANNELS} groups: {CALLS} "
    "calls take more than 4 seconds by a loop over the groups, says the claim, and about 1 second by a kernel that "
    "knows groups.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("series",),
)
