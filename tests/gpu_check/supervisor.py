"""Runs all checks in as many processes as it takes: where one ends early, that is a failure, and the next goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A check takes milliseconds, seconds where something is compiled first: after this long its kernel hangs. A process
# may take as long to start.
STALLED_SECONDS = START_SECONDS = 300.0
# Every lost process costs a start; where this many were lost, the rest would hardly say more.
MAX_PROCESSES = 40
_TAIL = 2000


@dataclass
class Outcome:
    """What became of the checks: how many of each kind passed, failed and were skipped, and the failures."""

    passed: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)  # by reason
    failures: list[dict[str, str]] = field(default_factory=list)
    processes: int = 0
    seconds: float = 0.0
    complete: bool = False


def run_all(target: str, only: str) -> Outcome:
    """Run the checks whose names match, and say what became of them."""
    outcome, start, total = Outcome(), 0, 1
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        while start < total and outcome.processes < MAX_PROCESSES:
            outcome.processes += 1
            log = Path(folder) / f"{outcome.processes}.jsonl"
            ending = _run_worker(target, only, start, log)
            records = _read(log)
            for record in records:
                if record["event"] == "end":
                    _count(outcome, record)
            if not records:
                outcome.failures.append({"name": "worker", "error": f"it ran no check: {ending or 'none matches'}"})
                break
            last, total = records[-1], records[-1]["total"]
            if last["event"] == "start":
                outcome.failures.append({"name": last["name"], "error": ending or "its process ended"})
            start = last["index"] + 1
    outcome.complete = start >= total
    outcome.seconds = time.perf_counter() - begun
    return outcome


def _run_worker(target: str, only: str, start: int, log: Path) -> str:
    """Run a worker to its end; returns how it ended where that was no good end."""
    command = [sys.executable, "-m", "gpu_check.worker", "--target", target, "--log", str(log)]
    command += ["--start", str(start), "--only", only]
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        stalled = _wait(process, log)
        output.seek(0)
        tail = output.read()[-_TAIL:].strip()
    if stalled:
        return f"no end after {STALLED_SECONDS:.0f} s: it was killed\n{tail}".strip()
    return f"its process ended with status {process.returncode}\n{tail}".strip() if process.returncode else ""


def _wait(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait for the worker; kill it, and return True, when it stops writing its log."""
    size, since = -1, time.monotonic()
    while True:
        try:
            process.wait(timeout=0.5)
            return False
        except subprocess.TimeoutExpired:
            now = log.stat().st_size if log.exists() else 0
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > (STALLED_SECONDS if size else START_SECONDS):
                process.kill()
                process.wait()
                return True


def _read(log: Path) -> list[dict[str, Any]]:
    """The records of a log; a line that was cut off by the end of its process is left out."""
    records = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _count(outcome: Outcome, record: dict[str, Any]) -> None:
    if record["skip"]:
        outcome.skipped[record["skip"]] = outcome.skipped.get(record["skip"], 0) + 1
    elif record["error"]:
        outcome.failures.append({"name": record["name"], "error": record["error"]})
    else:
        kind = record["name"].partition(" ")[0]
        outcome.passed[kind] = outcome.passed.get(kind, 0) + 1
