"""A run: case by case, with every row on disk before the next case begins, and the roofs measured in between."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from convbound.bench import provenance
from convbound.bench.cases import Case
from convbound.bench.measure import failed_case, judge, measure_case, renamed
from convbound.bench.overhead import MODEL as HOST
from convbound.bench.overhead import measure_overhead
from convbound.bench.plan import MOST_SECONDS, ROOF_REPEATS, Budget, Options, cases, progress_total
from convbound.bench.progress import Progress
from convbound.bench.rows import Result, Row, RowWriter, write_rows
from convbound.choice import cpu_table
from convbound.choice.backends import CPU_ISA
from convbound.devices import Device, find_device
from convbound.problem import DTYPE_NAMES, NAMED_DTYPES, ConvProblem
from convbound.roofs import Roofs, measure_roofs, median_roofs

INTERRUPTED = "interrupted"
# What `auto` takes shall be as fast as torch, but for noise.
LEAST_SPEEDUP = 0.97
_LEAST_DOUBTFUL_MS = 0.1


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
    roofs = RoofMeter(device, options.dtypes)
    with torch.no_grad(), progress:
        progress.total(progress_total(chosen) + options.overhead)
        progress.step("measuring this machine's roofs")
        try:
            roofs.measure()
        except KeyboardInterrupt:
            result.ended = INTERRUPTED
            return result
        result.roofs = dataclasses.asdict(roofs.found)
        writer = RowWriter(folder, result)
        try:
            for rows in _measurements(options, chosen, device, roofs, progress, started):
                writer.append(rows)
                result.rows.extend(rows)
                if any(not row.ok for row in rows) and (why := device.lost()):
                    raise DeviceLost(f"the device was lost: {why}")
            result.complete = True
            progress.step("measuring this machine's roofs again")
            roofs.measure()
            progress.step("done")
        except KeyboardInterrupt:
            result.ended = "" if result.complete else INTERRUPTED
        except DeviceLost as lost:
            result.ended = str(lost)
        finally:
            writer.close()
        result.roofs = dataclasses.asdict(roofs.found)
        for row in result.rows:
            if row.model != HOST:
                judge(row, roofs.found)
        write_rows(folder, result)
    return result


class RoofMeter:
    """The roofs of a run: measured as often as it is asked to, and their medians so far."""

    def __init__(self, device: Device, dtypes: Sequence[torch.dtype]) -> None:
        self._device, self._dtypes = device, dtypes
        self._measured: list[Roofs] = []
        self.seconds = 0.0

    def measure(self) -> None:
        """Measure once more; where that fails in the middle of a run, what was measured before stands."""
        start = time.perf_counter()
        try:
            self._measured.append(measure_roofs(self._device, self._dtypes))
        except RuntimeError:  # such as a lack of memory, or a lost device, which the next row will tell of
            if not self._measured:
                raise
        self.seconds = time.perf_counter() - start

    @property
    def found(self) -> Roofs:
        """The medians, with the spread."""
        return median_roofs(self._measured)


def _measurements(
    options: Options, chosen: list[Case], device: Device, roofs: RoofMeter, progress: Progress, started: float
) -> Iterator[list[Row]]:
    """The rows of the host overhead and of each case, as they are measured."""
    if options.overhead:
        progress.step("host overhead per call")
        yield measure_overhead(options.backends, device)
        progress.advance()
    timer = device.timer(cold=options.cold)
    count = progress_total(chosen)
    budget = Budget(options.target_seconds, count, started, roofs.seconds)
    # Before these cases, besides at the start and the end.
    pauses = {count * part // (ROOF_REPEATS - 1) for part in range(1, ROOF_REPEATS - 1)} - {0}
    measured: dict[Any, list[Row]] = {}
    for case in chosen:
        if case.key in measured:
            yield renamed(measured[case.key], case)
            continue
        if len(measured) in pauses:
            progress.step("measuring this machine's roofs again")
            roofs.measure()
        progress.step(str(case))
        start = time.perf_counter()
        try:
            rows, timed = measure_case(case, options, device, timer, roofs.found, budget.share())
            if any(map(_is_doubtful, rows)):
                progress.step(f"{case} again")
                rows, more = measure_case(case, options, device, timer, roofs.found, MOST_SECONDS)
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
    problem, dtype = ConvProblem.parse(row.problem), NAMED_DTYPES[row.dtype]
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
