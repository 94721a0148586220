"""FLOPs against time and bytes against time, over the layers of the models: which of them predicts time?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from convbound.bench.experiments.experiment import OURS, Experiment, Group, Point, Points, Setting, Subject, Verdict
from convbound.bench.experiments.show import COLOURS, MARKERS
from convbound.bench.rivals import TORCH
from convbound.bench.tables import Layer, load_models, usual_models
from convbound.problem import LAYOUTS, ConvProblem, Pass
from convbound.roofs import Roofs

# By so much R² has to be better to count.
_MARGIN = 0.02


def _subjects(setting: Setting, layer: Layer) -> list[Subject]:
    label = f"{layer.model}:{layer.name}"
    forward: Pass = "dgrad" if layer.transposed else "fprop"
    return [
        subject
        for layout in LAYOUTS
        for subject in setting.both(
            layer.problem, Point("", label, 0, layout=layout, pass_=forward), transposed=layer.transposed
        )
    ]


def _groups(setting: Setting) -> list[Group]:
    layers = [
        layer
        for name in usual_models()
        for layer in load_models()[name].at_batch(None, setting.device.type).select("default")
    ]
    return [partial(_subjects, setting, layer) for layer in layers]


def roofline_ms(point: Point, roofs: Roofs) -> float:
    """The longer of the time of the bytes and of the arithmetic: the roofline model (Williams et al., 2009)."""
    peak = roofs.peak(next(iter(roofs.peak_gflops)), depthwise=ConvProblem.parse(point.problem).depthwise)
    return max(point.bytes / roofs.copy_gbps, 2 * point.multiply_adds / peak) / 1e6


def r_squared(predictor: Sequence[float], times: Sequence[float]) -> float:
    """The part of the variance of log(time) that a line in log(predictor) explains: the square of the correlation."""
    return float(np.corrcoef(np.log(predictor), np.log(times))[0, 1] ** 2)


def _fastest(points: Points, series: str) -> list[Point]:
    """Of every layer its faster layout."""
    chosen = points.where(series=series)
    return [min(chosen.where(label=label), key=lambda p: p.ms) for label in chosen.values("label")]


def _explained(points: Points, series: str, roofs: Roofs) -> tuple[float, float, float]:
    chosen = _fastest(points, series)
    times = [p.ms for p in chosen]
    columns = [p.multiply_adds for p in chosen], [p.bytes for p in chosen], [roofline_ms(p, roofs) for p in chosen]
    flops, bytes_, model = (r_squared(column, times) for column in columns)
    return flops, bytes_, model


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    found = {series: _explained(points, series, roofs) for series in (TORCH, OURS)}
    texts = [f"{s}: FLOPs {f:.2f}, bytes {b:.2f}, roofline {r:.2f}" for s, (f, b, r) in found.items()]
    mine = _fastest(points, OURS)
    off = math.exp(float(np.mean([math.log(p.ms / roofline_ms(p, roofs)) for p in mine])))
    flops, bytes_, model = found[OURS]
    depthwise = Points(p for p in points if ConvProblem.parse(p.problem).depthwise)
    alone = _explained(depthwise, OURS, roofs)
    return Verdict(
        model > max(flops, bytes_) + _MARGIN,
        f"R² of the logarithms over {len(mine)} layers, each in its better layout: {'; '.join(texts)}. With convbound "
        f"a layer takes {off:.2f} times what the roofline says, by the geometric mean. Among the depthwise layers "
        f"alone FLOPs have {alone[0]:.2f}, bytes {alone[1]:.2f}, the roofline {alone[2]:.2f}.",
    )


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    axes = figure.subplots(1, 3, sharey=True)
    names = ("million multiply-adds", "MB", "ms by the roofline")
    for i, series in enumerate((OURS, TORCH)):
        chosen = _fastest(points, series)
        columns = (
            [p.multiply_adds / 1e6 for p in chosen],
            [p.bytes / 1e6 for p in chosen],
            [roofline_ms(p, roofs) for p in chosen],
        )
        for panel, column, explained in zip(axes, columns, _explained(points, series, roofs), strict=True):
            label = f"{series}, R² {explained:.2f}"
            panel.plot(column, [p.ms for p in chosen], MARKERS[i], color=COLOURS[i], ms=5, alpha=0.8, label=label)
    for panel, name in zip(axes, names, strict=True):
        panel.set(xscale="log", yscale="log", xlabel=name)
        panel.grid(True, linewidth=0.4, alpha=0.6)
        panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.16))
    axes[0].set_ylabel("ms")
    low, high = axes[2].get_xlim()
    axes[2].plot([low, high], [low, high], "k:", linewidth=1)


EXPERIMENT = Experiment(
    name="scatter",
    title="what predicts time",
    hypothesis="FLOPs do not predict the time of a convolution, and bytes do it no better for the layers that "
    "arithmetic binds. The roofline, the longer of the two times, predicts both kinds. Forward passes of the "
    "layers of this benchmark's models.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("label", "pass_"),
)
