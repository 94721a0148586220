"""A run: measure the roofs, then case by case, with every row on disk before the next case begins."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from convbound.bench import machine
from convbound.bench.cases import Case
from convbound.bench.measure import failed_case, measure_case, renamed
from convbound.bench.overhead import measure_overhead
from convbound.bench.plan import Budget, Options, cases, progress_total
from convbound.bench.roofs import Roofs, measure_roofs
from convbound.bench.rows import Result, Row, RowWriter
from convbound.bench.timer import CpuTimer, keep_freed_pages
from convbound.problem import DTYPE_NAMES


def run(options: Options, folder: Path, console: Console, started: float) -> Result:
    """Measure everything that the options ask for.

    An interrupt (Ctrl-C) ends the run early and is no error: the result has what was measured and is not ``complete``.
    """
    result = Result(machine.describe() | {"pages_kept": keep_freed_pages()}, {}, _described(options))
    chosen = cases(options)
    with torch.no_grad(), _progress(console) as progress:
        task = progress.add_task("measuring this machine's roofs", total=progress_total(chosen) + options.overhead)
        try:
            roofs = measure_roofs(options.dtypes)
        except KeyboardInterrupt:
            return result
        result.roofs = dataclasses.asdict(roofs)
        writer = RowWriter(folder, result)
        try:
            for rows in _measurements(options, chosen, roofs, progress, task, started):
                writer.append(rows)
                result.rows.extend(rows)
            result.complete = True
            progress.update(task, description="done")
        except KeyboardInterrupt:
            progress.update(task, description="interrupted")
        finally:
            writer.close()
    return result


def _measurements(
    options: Options, chosen: list[Case], roofs: Roofs, progress: Progress, task: Any, started: float
) -> Any:
    """The rows of the host overhead and of each case, as they are measured."""
    if options.overhead:
        progress.update(task, description="host overhead per call")
        yield measure_overhead(options.backends, CpuTimer(cold=False, cache_bytes=0))
        progress.advance(task)
    timer = CpuTimer(cold=options.cold, cache_bytes=machine.last_level_cache_bytes())
    budget = Budget(options.target_seconds, progress_total(chosen), started)
    measured: dict[Any, list[Row]] = {}
    for case in chosen:
        if case.key in measured:
            yield renamed(measured[case.key], case)
            continue
        progress.update(task, description=str(case))
        start = time.perf_counter()
        try:
            rows, timed = measure_case(case, options.backends, options.layouts, timer, roofs, budget.share())
        except Exception as error:  # one case that cannot be set up is no reason to lose the others
            rows, timed = failed_case(case, options.backends, options.layouts, error), 0.0
        budget.spent(time.perf_counter() - start, timed)
        for row in rows:
            row.cache = "cold" if options.cold else "warm"
        measured[case.key] = rows
        yield rows
        progress.advance(task)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", table_column=None),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    )


def _described(options: Options) -> dict[str, Any]:
    """The options as plain JSON."""
    values = dataclasses.asdict(options)
    values["problems"] = [str(problem) for problem in options.problems]
    values["dtypes"] = [DTYPE_NAMES[dtype] for dtype in options.dtypes]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
