"""What a run measures: the layers, passes and dtypes that were asked for, and how long it may take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from convbound.bench.cases import Case
from convbound.bench.tables import Layer, Suite, Tier, load_suites
from convbound.problem import ConvProblem, Layout, Pass

AD_HOC = "problem"
# Seconds that a whole run aims at, by tier; None: each case gets its full share.
TARGET_SECONDS: dict[Tier, float | None] = {"quick": 42.0, "default": 145.0, "full": None}
# Shares of one case: below the least, medians mean nothing; above the most, they no longer move.
LEAST_SECONDS, MOST_SECONDS = 0.1, 1.2
# How often the roofs are measured: at the start, at the end, and between cases at even distances.
ROOF_REPEATS = 4
# For writing the report at the end, and for checking a case before anything of it was measured.
_RESERVE_SECONDS, _FIRST_CHECK_SECONDS = 4.0, 0.3


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line, checked and with its defaults filled in.

    `suites` are those of `layers/`, by name; `models` are a user's own, recorded.
    """

    tier: Tier
    suites: tuple[str, ...]
    problems: tuple[ConvProblem, ...]
    transposed: bool
    passes: tuple[Pass, ...]
    layouts: tuple[Layout, ...]
    dtypes: tuple[torch.dtype, ...]
    device: str
    backends: tuple[str, ...]
    rivals: tuple[str, ...]
    batch: int | None
    target_seconds: float | None
    cold: bool
    overhead: bool
    models: tuple[Suite, ...] = ()


def layers(options: Options) -> list[Layer]:
    """The layers of a run, at the batch they run at."""
    chosen = [
        layer
        for name, suite in load_suites().items()
        if name in options.suites
        for layer in suite.at_batch(options.batch, options.device).select(options.tier)
    ]
    recorded = [layer for suite in options.models for layer in suite.layers]
    ad_hoc = [
        Layer(AD_HOC, problem.origin or str(problem), 1, options.transposed, "quick", problem)
        for problem in options.problems
    ]
    return [*chosen, *recorded, *ad_hoc]


def cases(options: Options) -> list[Case]:
    """Every case of a run, layer by layer."""
    return [
        Case(layer, pass_, dtype) for dtype in options.dtypes for layer in layers(options) for pass_ in options.passes
    ]


class Budget:
    """Shares what is left of a run's time among the cases that are left.

    Parameters
    ----------
    target_seconds
        What the run aims at; None for the full share in each case.
    count
        Cases to be measured.
    started
        When the run began, on the clock of ``time.perf_counter``.
    behind
        Seconds that are needed behind the last case.
    """

    def __init__(self, target_seconds: float | None, count: int, started: float, behind: float = 0.0) -> None:
        self._end = None if target_seconds is None else started + target_seconds - _RESERVE_SECONDS - behind
        self._left = count
        self._checks: list[float] = []

    def share(self) -> float:
        """Seconds of timing for the next case, all its contenders together."""
        if self._end is None:
            return MOST_SECONDS
        # The median, for a few very slow checks say nothing about those to come.
        check = statistics.median(self._checks) if self._checks else _FIRST_CHECK_SECONDS
        share = (self._end - time.perf_counter()) / max(self._left, 1) - check
        return min(max(share, LEAST_SECONDS), MOST_SECONDS)

    def spent(self, total: float, timed: float) -> None:
        """Record a finished case: its seconds in all, and those of its timing."""
        self._left -= 1
        self._checks.append(max(total - timed, 0.0))


def progress_total(chosen: Sequence[Case]) -> int:
    """How many different measurements the cases need."""
    return len({case.key for case in chosen})
