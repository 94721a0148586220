"""A run: measure the roofs, then case by case, with every row on disk before the next case begins."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from convbound.bench import provenance
from convbound.bench.cases import Case
from convbound.bench.measure import failed_case, measure_case, renamed
from convbound.bench.overhead import measure_overhead
from convbound.bench.plan import MOST_SECONDS, Budget, Options, cases, progress_total
from convbound.bench.progress import Progress
from convbound.bench.rows import Result, Row, RowWriter
from convbound.choice import cpu_table
from convbound.choice.backends import CPU_ISA
from convbound.devices import Device, find_device
from convbound.problem import DTYPE_NAMES, ConvProblem
from convbound.roofs import Roofs, measure_roofs

INTERRUPTED = "interrupted"
# What `auto` takes shall be as fast as torch, but for noise.
LEAST_SPEEDUP = 0.97
_LEAST_DOUBTFUL_MS = 0.1
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class DeviceLost(Exception):  # noqa: N818
    """A kernel has left the device unusable for the rest of this process."""


def run(options: Options, folder: Path, progress: Progress, started: float) -> Result:
    """Measure everything that the options ask for.

    An interrupt (Ctrl-C) or the loss of the device ends the run early and is no error: the result has what was
    measured, is not ``complete``, and says why.
    """
    device = find_device(options.device)
    settings = device.start()
    result = Result(provenance.describe(device.type) | settings, {}, _described(options))
    chosen = cases(options)
    with torch.no_grad(), progress:
        progress.total(progress_total(chosen) + options.overhead)
        progress.step("measuring this machine's roofs")
        try:
            roofs = measure_roofs(device, options.dtypes)
        except KeyboardInterrupt:
            result.ended = INTERRUPTED
            return result
        result.roofs = dataclasses.asdict(roofs)
        writer = RowWriter(folder, result)
        try:
            for rows in _measurements(options, chosen, device, roofs, progress, started):
                writer.append(rows)
                result.rows.extend(rows)
                if any(not row.ok for row in rows) and (why := device.lost()):
                    raise DeviceLost(f"the device was lost: {why}")
            result.complete = True
            progress.step("done")
        except KeyboardInterrupt:
            result.ended = INTERRUPTED
        except DeviceLost as lost:
            result.ended = str(lost)
        finally:
            writer.close()
    return result


def _measurements(
    options: Options, chosen: list[Case], device: Device, roofs: Roofs, progress: Progress, started: float
) -> Iterator[list[Row]]:
    """The rows of the host overhead and of each case, as they are measured."""
    if options.overhead:
        progress.step("host overhead per call")
        yield measure_overhead(options.backends, device)
        progress.advance()
    timer = device.timer(cold=options.cold)
    budget = Budget(options.target_seconds, progress_total(chosen), started)
    measured: dict[Any, list[Row]] = {}
    for case in chosen:
        if case.key in measured:
            yield renamed(measured[case.key], case)
            continue
        progress.step(str(case))
        start = time.perf_counter()
        try:
            rows, timed = measure_case(case, options, device, timer, roofs, budget.share())
            if any(map(_is_doubtful, rows)):
                progress.step(f"{case} again")
                rows, more = measure_case(case, options, device, timer, roofs, MOST_SECONDS)
                timed += more
        except Exception as error:  # one case that cannot be set up is no reason to lose the others
            rows, timed = failed_case(case, options, error), 0.0
        budget.spent(time.perf_counter() - start, timed)
        for row in rows:
            row.cache = "cold" if options.cold else "warm"
        measured[case.key] = rows
        yield rows
        progress.advance()
        device.release()


def _is_doubtful(row: Row) -> bool:
    """Whether ``auto`` would take this kernel, and it looks slower than torch: it is measured again then."""
    if not row.ok or row.backend != "cpu" or (row.median_ms or 0.0) < _LEAST_DOUBTFUL_MS:
        return False
    problem, dtype = ConvProblem.parse(row.problem), _DTYPES[row.dtype]
    slow = row.speedup_same_layout is not None and row.speedup_same_layout < LEAST_SPEEDUP
    taken = cpu_table.look_up(problem, row.pass_, dtype, row.layout, CPU_ISA)  # type: ignore[arg-type]
    return slow and taken.backend == "cpu"


def _described(options: Options) -> dict[str, Any]:
    """The options as plain JSON."""
    values = dataclasses.asdict(options)
    values["problems"] = [str(problem) for problem in options.problems]
    values["models"] = [suite.name for suite in options.models]
    values["dtypes"] = [DTYPE_NAMES[dtype] for dtype in options.dtypes]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
