"""One case from tensors to rows: run every contender once and check it, then time those that passed."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import torch

from convbound.bench.cases import Case, Contender, contenders, random_tensors
from convbound.bench.check import Reference, poisoned_outputs
from convbound.bench.plan import Options
from convbound.bench.rivals import RIVALS
from convbound.bench.rows import STATUS_FAILED, Row
from convbound.devices import Device
from convbound.failures import failure
from convbound.problem import DTYPE_NAMES, ConvProblem, Layout
from convbound.roofs import Roofs
from convbound.timing import Prepared, Timer, interleave, quantiles

MEMORY, COMPUTE, EITHER = "memory", "compute", "either"
NOT_RUN = "not run: the device was lost before"


@dataclass
class Outcome:
    """What became of one contender: its error and first run, or why it has none, and later its samples in seconds."""

    contender: Contender
    first: float = 0.0
    error: float | None = None
    error_limit: float | None = None
    message: str = ""
    timing: str = ""
    samples: tuple[float, ...] = ()

    @property
    def rival(self) -> bool:
        """Whether it is one of torch's."""
        return self.contender.backend in RIVALS


def measure_case(
    case: Case, options: Options, device: Device, timer: Timer, roofs: Roofs, budget: float
) -> tuple[list[Row], float]:
    """Check and time a case.

    Returns
    -------
    list of Row, float
        One row per contender in the chosen layouts, torch's included, and the seconds that timing took.
    """
    tensors = random_tensors(case.problem, case.dtype, device.place)
    reference = Reference(case, tensors)
    outcomes: list[Outcome] = []
    lost = False
    for contender in contenders(case, tensors, options.backends, options.layouts, options.rivals):
        outcomes.append(Outcome(contender, message=NOT_RUN) if lost else _check(contender, case, reference, timer))
        lost = lost or bool(outcomes[-1].message and device.lost())
    torch_error = max((o.error for o in outcomes if o.rival and o.error is not None), default=0.0)
    for outcome in outcomes:
        if not outcome.rival and outcome.error is not None:
            outcome.error_limit = reference.limit(torch_error)
            if outcome.error > outcome.error_limit:
                outcome.message = f"wrong result: error {outcome.error:.1e} is above {outcome.error_limit:.1e}"
    del reference  # its fp64 tensors are the largest ones
    start = time.perf_counter()
    if not lost:
        _time([outcome for outcome in outcomes if not outcome.message], timer, budget)
    seconds = time.perf_counter() - start
    return _rows(case, outcomes, options, roofs), seconds


def failed_case(case: Case, options: Options, error: Exception) -> list[Row]:
    """The rows of a case that could not even be set up, say for want of memory."""
    message = failure(error, case.problem, case.dtype)
    backends = (*options.backends, *options.rivals)
    rows = [_row(case, layout, backend, options.device) for layout in options.layouts for backend in backends]
    return [dataclasses.replace(row, status=STATUS_FAILED, message=message) for row in rows]


def renamed(rows: list[Row], case: Case) -> list[Row]:
    """The rows of an equal case under this case's name, for a layer that two models share."""
    layer = case.layer
    return [dataclasses.replace(row, model=layer.model, layer=layer.name, count=layer.count) for row in rows]


def _check(contender: Contender, case: Case, reference: Reference, timer: Timer) -> Outcome:
    outcome = Outcome(contender)
    results: list[torch.Tensor] = []
    try:
        with poisoned_outputs():
            outcome.first = timer.sample(lambda: results.append(contender.call()))
        outcome.error = reference.error(results.pop(0))
        results.clear()
        if not timer.first_run_counts:
            # The first of these may choose algorithms or compile once more, now that outputs are not poisoned.
            outcome.first = min(timer.sample(contender.call) for _ in range(2))
    except Exception as error:  # whatever a kernel raises is a result: the row is kept and says so
        outcome.message = failure(error, case.problem, case.dtype)
    return outcome


def _time(passed: list[Outcome], timer: Timer, budget: float) -> None:
    """Sample all that passed the check."""
    prepared: list[Prepared] = [timer.prepare(o.contender.calls, o.first) for o in passed]
    first = [o.first * p.calls for o, p in zip(passed, prepared, strict=True)]
    timed = interleave([p.run for p in prepared], timer, budget, first)
    for outcome, ready, samples in zip(passed, prepared, timed, strict=True):
        outcome.timing = ready.timing
        outcome.samples = tuple(seconds / ready.calls for seconds in samples)


def _rows(case: Case, outcomes: list[Outcome], options: Options, roofs: Roofs) -> list[Row]:
    best: dict[Layout, float] = {}  # torch's, by layout
    for outcome in outcomes:
        if outcome.rival and outcome.samples:
            layout, seconds = outcome.contender.layout, quantiles(outcome.samples)[1]
            best[layout] = min(best.get(layout, seconds), seconds)
    rows = []
    for outcome in outcomes:
        contender = outcome.contender
        if contender.layout not in options.layouts:
            continue
        row = _row(case, contender.layout, contender.backend, options.device)
        row.kernel = contender.kernel()
        _fill(row, outcome)
        judge(row, roofs)
        if outcome.samples and not outcome.rival:
            seconds = quantiles(outcome.samples)[1]
            if contender.layout in best:
                row.speedup_same_layout = best[contender.layout] / seconds
            if best:
                row.speedup_best_layout = min(best.values()) / seconds
        rows.append(row)
    return rows


def _row(case: Case, layout: Layout, backend: str, device: str) -> Row:
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
        device=device,
        flops=problem.flops,
        bytes=problem.compulsory_bytes(case.dtype),
        intensity=problem.arithmetic_intensity(case.dtype),
        threads=torch.get_num_threads(),
    )


def _fill(row: Row, outcome: Outcome) -> None:
    """Write into a row what became of its contender."""
    row.error, row.error_limit, row.timing = outcome.error, outcome.error_limit, outcome.timing
    if outcome.message:
        row.status, row.message = STATUS_FAILED, outcome.message
    if outcome.samples:
        p20, median, p80 = quantiles(outcome.samples)
        row.samples = len(outcome.samples)
        row.median_ms, row.p20_ms, row.p80_ms = median * 1e3, p20 * 1e3, p80 * 1e3
        row.gbps, row.gflops = row.bytes / median / 1e9, row.flops / median / 1e9


def judge(row: Row, roofs: Roofs) -> None:
    """Write into a row what binds it and its shares of the roofs; at the end of a run these are known better."""
    depthwise = ConvProblem.parse(row.problem).depthwise
    least, most = roofs.ridge_spread(row.dtype, depthwise=depthwise)
    row.bound = COMPUTE if row.intensity >= most else MEMORY if row.intensity <= least else EITHER
    if row.gbps is not None and row.gflops is not None:
        row.copy_share = row.gbps / roofs.copy_gbps
        row.peak_share = row.gflops / roofs.peak(row.dtype, depthwise=depthwise)
        # The lower roof is the one that binds, and the share of it the larger one.
        row.roof_share = max(row.copy_share, row.peak_share)
