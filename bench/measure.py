"""One case from tensors to rows: run every contender once and check it, then time those that passed."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import torch

from convbound.bench.cases import TORCH, Case, Contender, contenders, random_tensors
from convbound.bench.check import Reference, poisoned_outputs
from convbound.bench.roofs import Roofs
from convbound.bench.rows import STATUS_FAILED, Row
from convbound.bench.timer import Timer, interleave
from convbound.problem import DTYPE_NAMES, Layout

MEMORY, COMPUTE = "memory", "compute"


@dataclass
class Outcome:
    """What became of one contender: its error and first run, or why it has none, and later its samples in seconds."""

    contender: Contender
    first: float = 0.0
    error: float | None = None
    error_limit: float | None = None
    message: str = ""
    samples: tuple[float, ...] = ()


def measure_case(
    case: Case, backends: tuple[str, ...], layouts: tuple[Layout, ...], timer: Timer, roofs: Roofs, budget: float
) -> tuple[list[Row], float]:
    """Check and time a case.

    Returns
    -------
    list of Row, float
        One row per contender in the chosen layouts, torch's included, and the seconds that timing took.
    """
    tensors = random_tensors(case.problem, case.dtype)
    reference = Reference(case, tensors)
    outcomes = [_check(contender, reference, timer) for contender in contenders(case, tensors, [*backends], [*layouts])]
    torch_error = max((o.error for o in outcomes if o.contender.backend == TORCH and o.error is not None), default=0.0)
    for outcome in outcomes:
        if outcome.contender.backend != TORCH and outcome.error is not None:
            outcome.error_limit = reference.limit(torch_error)
            if outcome.error > outcome.error_limit:
                outcome.message = f"wrong result: error {outcome.error:.1e} is above {outcome.error_limit:.1e}"
    passed = [outcome for outcome in outcomes if not outcome.message]
    start = time.perf_counter()
    timed = interleave([o.contender.call for o in passed], timer, budget, [o.first for o in passed])
    seconds = time.perf_counter() - start
    for outcome, samples in zip(passed, timed, strict=True):
        outcome.samples = tuple(samples)
    return _rows(case, outcomes, layouts, roofs), seconds


def failed_case(case: Case, backends: tuple[str, ...], layouts: tuple[Layout, ...], error: Exception) -> list[Row]:
    """The rows of a case that could not even be set up, say for want of memory."""
    message = _one_line(error)
    rows = [_row(case, layout, backend) for layout in layouts for backend in (*backends, TORCH)]
    return [dataclasses.replace(row, status=STATUS_FAILED, message=message) for row in rows]


def renamed(rows: list[Row], case: Case) -> list[Row]:
    """The rows of an equal case under this case's name, for a layer that two models share."""
    layer = case.layer
    return [dataclasses.replace(row, model=layer.model, layer=layer.name, count=layer.count) for row in rows]


def _check(contender: Contender, reference: Reference, timer: Timer) -> Outcome:
    outcome = Outcome(contender)
    results: list[torch.Tensor] = []
    try:
        with poisoned_outputs():
            outcome.first = timer.sample(lambda: results.append(contender.call()))
        outcome.error = reference.error(results[0])
    except Exception as error:  # whatever a kernel raises is a result: the row is kept and says so
        outcome.message = _one_line(error)
    return outcome


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _rows(case: Case, outcomes: list[Outcome], layouts: tuple[Layout, ...], roofs: Roofs) -> list[Row]:
    medians = {
        o.contender.layout: float(np.median(o.samples)) for o in outcomes if o.contender.backend == TORCH and o.samples
    }
    rows = []
    for outcome in outcomes:
        if outcome.contender.layout not in layouts:
            continue
        row = _row(case, outcome.contender.layout, outcome.contender.backend)
        _fill(row, outcome, roofs)
        if outcome.samples and outcome.contender.backend != TORCH:
            seconds = float(np.median(outcome.samples))
            if outcome.contender.layout in medians:
                row.speedup_same_layout = medians[outcome.contender.layout] / seconds
            if medians:
                row.speedup_best_layout = min(medians.values()) / seconds
        rows.append(row)
    return rows


def _row(case: Case, layout: Layout, backend: str) -> Row:
    """A row that only says what is measured."""
    problem = case.problem
    return Row(
        model=case.layer.model,
        layer=case.layer.name,
        count=case.layer.count,
        op=f"conv{'_transpose' if case.layer.transposed else ''}{problem.ndim}d",
        family=case.family,
        problem=str(problem),
        pass_=case.pass_,
        role=case.role,
        dtype=DTYPE_NAMES[case.dtype],
        layout=layout,
        backend=backend,
        flops=problem.flops,
        bytes=problem.compulsory_bytes(case.dtype),
        intensity=problem.arithmetic_intensity(case.dtype),
    )


def _fill(row: Row, outcome: Outcome, roofs: Roofs) -> None:
    """Write into a row what became of its contender."""
    row.error, row.error_limit = outcome.error, outcome.error_limit
    row.bound = MEMORY if row.intensity < roofs.ridge(row.dtype) else COMPUTE
    if outcome.message:
        row.status, row.message = STATUS_FAILED, outcome.message
    if outcome.samples:
        p20, median, p80 = (float(s) for s in np.quantile(outcome.samples, (0.2, 0.5, 0.8)))
        row.samples = len(outcome.samples)
        row.median_ms, row.p20_ms, row.p80_ms = median * 1e3, p20 * 1e3, p80 * 1e3
        row.gbps, row.gflops = row.bytes / median / 1e9, row.flops / median / 1e9
        row.copy_share, row.peak_share = row.gbps / roofs.copy_gbps, row.gflops / roofs.peak_gflops[row.dtype]
        row.roof_share = row.copy_share if row.bound == MEMORY else row.peak_share
