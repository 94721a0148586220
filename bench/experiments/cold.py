"""The first call of a process, a call with a new shape each time, and the steady state."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from convbound.bench.experiments.experiment import (
    OURS,
    Experiment,
    Point,
    Points,
    Setting,
    Verdict,
    convolve,
    summed,
)
from convbound.bench.experiments.show import bars, legend
from convbound.bench.rivals import TORCH
from convbound.problem import DTYPE_NAMES, NAMED_DTYPES, ConvProblem
from convbound.roofs import Roofs

FIRST, NEW, STEADY = "first call", "new shape", "steady"
PROBLEMS = {"depthwise": "mb1g64ic64ih{}oc64kh3ph1", "dense": "mb1ic64ih{}oc64kh3ph1"}
SIZE = 28
# Processes for each of the two kinds and series; each takes seconds to start.
PROCESSES, MOST_SECONDS = 2, 120

_COMMAND = f"from {__name__} import child; child()"


def child() -> None:
    """What a process of its own runs: the three times of a convolution, in milliseconds, printed as JSON."""
    text, series, device, dtype = sys.argv[1:]

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def call(size: int) -> Callable[[], float]:
        problem = ConvProblem.parse(text.format(size))
        shapes = problem.x_shape, problem.w_shape
        x, w = (torch.randn(shape, device=device, dtype=NAMED_DTYPES[dtype]) for shape in shapes)

        def once() -> float:
            wait()
            start = time.perf_counter()
            convolve(problem, x, w, ours=series == OURS)
            wait()
            return (time.perf_counter() - start) * 1e3

        return once

    with torch.no_grad():
        torch.randn(64, 64, device=device) @ torch.randn(64, 64, device=device)  # threads, and a GPU's libraries
        steady = call(SIZE)
        first = steady()
        new = statistics.median(call(size)() for size in range(SIZE - 8, SIZE + 9) if size != SIZE)
        print(json.dumps([first, new, statistics.median(steady() for _ in range(100))]))


def _once(setting: Setting, text: str, series: str) -> list[float]:
    """The three times of one process, in milliseconds."""
    arguments = [text, series, setting.device.type, DTYPE_NAMES[setting.dtype]]
    found = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if found.returncode:
        raise RuntimeError(f"the process that makes a first call failed: {found.stderr.strip().splitlines()[-1:]}")
    times: list[float] = json.loads(found.stdout)
    return times


def _measured(setting: Setting, seconds: float) -> Points:
    points = Points()
    runs = {
        (name, series): [_once(setting, text, series) for _ in range(PROCESSES)]
        for name, text in PROBLEMS.items()
        for series in (TORCH, OURS)
    }
    for (name, series), times in runs.items():
        problem = ConvProblem.parse(PROBLEMS[name].format(SIZE))
        for x, (what, taken) in enumerate(zip((FIRST, NEW, STEADY), zip(*times, strict=True), strict=True)):
            point = summed(Point(f"{name} {series}", what, x), [problem], setting.dtype)
            spread = {"ms": sum(taken) / len(taken), "p20_ms": min(taken), "p80_ms": max(taken)}
            points.append(Point(**(vars(point) | spread)))
    return points


def _verdict(points: Points, roofs: Roofs) -> Verdict:
    texts, dear = [], []
    for name in PROBLEMS:
        for series in (OURS, TORCH):
            line = {what: points.one(series=f"{name} {series}", label=what).ms for what in (FIRST, NEW, STEADY)}
            dear.append(line[FIRST] > line[NEW] > line[STEADY])
            texts.append(
                f"{name}, {series}: {line[FIRST]:.2f} ms at first, {line[NEW]:.3f} with a new shape, "
                f"{line[STEADY]:.3f} in the steady state"
            )
    return Verdict(all(dear), f"{'; '.join(texts)}.")


def _draw(figure: Figure, points: Points, roofs: Roofs) -> None:
    axes = figure.add_subplot(yscale="log")
    bars(axes, points)
    legend(figure, axes)


EXPERIMENT = Experiment(
    name="cold",
    title="the first call",
    hypothesis="The first call of a process pays for what is set up once, a call with a new shape for what is kept by "
    "shape, and only then comes the time that benchmarks show.",
    groups=lambda setting: [],
    verdict=_verdict,
    draw=_draw,
    measured=_measured,
    rows=("series",),
    columns=(),
)
