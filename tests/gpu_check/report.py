"""The report: one JSON file with everything, and its summary in a few lines."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import convbound.__main__ as about
from convbound.bench import provenance
from convbound.bench.rows import Row, read_result
from convbound.bench.summary import ours, summary_lines
from gpu_check.sanitizers import Report
from gpu_check.supervisor import Outcome

SCHEMA = 1
_TAIL = 4000
_SHOWN_FAILURES, _SHOWN_CHARACTERS = 20, 300


@dataclass
class Bench:
    """What became of the benchmark: its exit status, the end of its output, and its result file as it is."""

    status: int
    output: str
    result: dict[str, Any] | None = None
    rows: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it ran to its end and no row failed."""
        return self.status == 0


@dataclass
class Findings:
    """Everything that was found; what was not run is None or empty."""

    machine: dict[str, Any]
    checks: Outcome | None = None
    sanitizer: str = ""
    sanitizers: list[Report] = field(default_factory=list)
    bench: Bench | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that ran is right; a missing compute-sanitizer is no failure, and the report says so."""
        checks = self.checks is None or (self.checks.complete and not self.checks.failures)
        return checks and all(each.ok for each in self.sanitizers) and (self.bench is None or self.bench.ok)


def machine(target: str) -> dict[str, Any]:
    """Machine, versions and how convbound was built."""
    device = "cuda" if target == "gpu" else "cpu"
    return provenance.describe(device) | {"about": about.report().splitlines()}


def read_bench(folder: Path, status: int, output: str) -> Bench:
    """What a run of the benchmark left, whole or not."""
    bench = Bench(status, output[-_TAIL:])
    for name in ("result.json", "rows.jsonl"):
        if bench.result is None and (folder / name).exists():
            try:
                result = read_result(folder / name)
            except (OSError, ValueError) as error:  # the report of all other checks is worth more than this file
                bench.output += f"\n{error}"
                continue
            bench.rows = result.rows
            bench.result = result.header() | {"rows": [row.record() for row in result.rows]}
    return bench


def write(found: Findings, path: Path) -> None:
    """Write the report, atomically: it is written after each step, so that no end of the run can lose one."""
    bench = None
    if found.bench is not None:
        bench = {"status": found.bench.status, "output": found.bench.output, "result": found.bench.result}
    report = {
        "schema": SCHEMA,
        "ok": found.ok,
        "machine": found.machine,
        "checks": None if found.checks is None else dataclasses.asdict(found.checks),
        "sanitizer": found.sanitizer,
        "sanitizers": [dataclasses.asdict(each) for each in found.sanitizers],
        "bench": bench,
    }
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def summary(found: Findings) -> list[str]:
    """The report for the terminal."""
    lines = [f"machine: {found.machine.get('gpu') or found.machine['cpu']}, torch {found.machine['torch']}"]
    if found.checks is not None:
        lines += _checks(found.checks)
    if found.sanitizers:
        lines.append("compute-sanitizer: " + ", ".join(f"{each.tool} {each.status}" for each in found.sanitizers))
    elif found.sanitizer:
        lines.append(found.sanitizer)
    if found.bench is not None:
        failed = [row for row in found.bench.rows if not row.ok]
        lines.append(f"benchmark: status {found.bench.status}, {len(found.bench.rows)} rows, {len(failed)} failed")
        lines += [
            f"  FAILED {row.backend} {row.model}:{row.layer} {row.pass_} {row.layout} [{row.problem}]: {row.message}"
            for row in failed[:_SHOWN_FAILURES]
        ]
        lines += [f"  {line}" for line in (summary_lines(found.bench.rows) if ours(found.bench.rows) else ())]
    return lines


def _checks(outcome: Outcome) -> list[str]:
    passed = ", ".join(f"{count} {kind}" for kind, count in outcome.passed.items()) or "none"
    lines = [f"checks: passed {passed}; failed {len(outcome.failures)}; {outcome.seconds:.0f} s"]
    if not outcome.complete:
        lines.append(f"  not all of them were run: {outcome.processes} processes were lost")
    lines += [f"  skipped {count}: {reason}" for reason, count in outcome.skipped.items()]
    for failure in outcome.failures[:_SHOWN_FAILURES]:
        error = " ".join(failure["error"].split())
        lines.append(f"  FAILED {failure['name']}: {error[:_SHOWN_CHARACTERS]}")
    if len(outcome.failures) > _SHOWN_FAILURES:
        lines.append(f"  and {len(outcome.failures) - _SHOWN_FAILURES} more, all of them in the file")
    return lines
