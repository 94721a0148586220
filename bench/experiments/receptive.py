"""Four ways to the same receptive field: one large filter, stacked 3x3, growing rates, and strides."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from convbound.bench.experiments.experiment import OURS, Experiment, Group, Point, Points, Setting, Subject, Verdict
from convbound.bench.experiments.show import bars, legend
from convbound.bench.rivals import TORCH
from convbound.problem import ConvProblem
from convbound.roofs import Roofs

REACHES = (7, 15, 31)
CHANNELS, SIZE = 64, 56
ONE, STACK, RATES, HOLES, STRIDES = "one filter", "3x3 stacked", "rates 1, 2, 4, ...", "one 3x3, rate", "stride 2"


def ways(batch: int, reach: int) -> dict[str, list[ConvProblem]]:
    """The convolutions of each way."""

    def layer(size: int, rest: str) -> ConvProblem:
        return ConvProblem.parse(f"mb{batch}g{CHANNELS}ic{CHANNELS}ih{size}oc{CHANNELS}{rest}")

    half = reach // 2
    doubled = range(half.bit_length())  # 3 = 1 + 2, 7 = 1 + 2 + 4, 15 = 1 + 2 + 4 + 8
    return {
        ONE: [layer(SIZE, f"kh{reach}ph{half}")],
        STACK: [layer(SIZE, "kh3ph1")] * half,
        RATES: [layer(SIZE, f"kh3ph{1 << i}dh{1 << i}") for i in doubled],
        HOLES: [layer(SIZE, f"kh3ph{half}dh{half}")],
        STRIDES: [layer(SIZE >> i, "kh3sh2ph1") for i in doubled],
    }


def reach_of(problems: list[ConvProblem]) -> int:
    """The receptive field of convolutions in a row: 1 + sum of (k - 1) * rate * product of the strides before."""
    field, jump = 1, 1
    for problem in problems:
        field += (problem.filter[0] - 1) * problem.dilation[0] * jump
        jump *= problem.stride[0]
    return field


def _subjects(setting: Setting, reach: int) -> list[Subject]:
    made = []
    for way, problems in ways(32 if setting.gpu else 2, reach).items():
        for series in (TORCH, OURS):
            facts: dict[str, float] = {"reach": reach_of(problems), "layers": len(problems)}
            point = Point(f"{way} {series}", f"reach {reach}", reach, facts=facts)
            made.append(setting.chain(problems, point, ours=series == OURS))
    return made


def _groups(setting: Setting) -> list[Group]:
    return [partial(_subjects, setting, reach) for reach in REACHES]


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    texts, better = [], []
    for reach in REACHES:
        row = {way: points.one(series=f"{way} {OURS}", x=reach) for way in (ONE, STACK, RATES, HOLES, STRIDES)}
        one, stack = row[ONE], row[STACK]
        better.append(one.ms < stack.ms)
        fastest = min(row, key=lambda way: row[way].ms)
        texts.append(
            f"{reach}: one filter {one.ms:.2f} ms, stacked 3x3 {stack.ms:.2f} ms with "
            f"{one.multiply_adds / stack.multiply_adds:.1f} times fewer multiply-adds and "
            f"{stack.bytes / one.bytes:.1f} times the bytes, rates {row[RATES].ms:.2f} ms, one 3x3 with holes "
            f"{row[HOLES].ms:.2f} ms, strides {row[STRIDES].ms:.2f} ms; the fastest is {fastest}"
        )
    return Verdict(better[0], f"With convbound, reach {'. Reach '.join(texts)}.")


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    axes = figure.add_subplot(yscale="log")
    mine = Points(p for p in points if p.series.endswith(OURS))
    bars(axes, mine)
    axes.set_title(f"depthwise, {CHANNELS} channels at {SIZE}x{SIZE}, with convbound")
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="receptive",
    title="ways to a receptive field",
    hypothesis="Three 3x3 see as far as one 7x7 with 27 of its 49 multiply-adds, and so the notes prefer them. But a "
    "depthwise convolution is bound by bytes, and three layers move three times as many: one 7x7 is faster.",
    groups=_groups,
    verdict=_verdict,
    draw=_draw,
    rows=("label", "series"),
    columns=("parameters", "multiply_adds", "bytes"),
)
