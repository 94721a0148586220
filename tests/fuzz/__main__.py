"""Fuzz convbound: random convolutions through its functions and through every row of its kernel tables.

A case is named by its target, a seed and a number, as in `simt-rows:7:123`: --case runs it again. A case that fails is
made as small as it gets, and printed as a test. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing.connection
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

# As Triton reads it, when a kernel is decorated: before convbound is imported, here and in the workers.
os.environ.setdefault("TRITON_INTERPRET", "1")

from fuzz.shrink import shrink
from fuzz.targets import Target, targets
from fuzz.workers import Fault, Job, Worker

EXIT_OK, EXIT_FOUND = 0, 1
_SAME_KIND = 3  # faults of one kind and label that are shown; more are counted


@dataclass
class Found:
    """What a run has come to."""

    runs: Counter[str] = field(default_factory=Counter)
    by_target: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[Target, Fault]] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz FUZZ=", description=__doc__)
    known = targets()
    backends = list(dict.fromkeys(target.backend for target in known.values()))
    parser.add_argument("--seconds", type=float, help="how long (default: 60, unless --rounds are given)")
    parser.add_argument("--rounds", type=int, help="so many rounds of cases, however long they take")
    parser.add_argument("--seed", help="of the cases (default: a new one)")
    parser.add_argument("--backend", nargs="+", choices=backends, help="only these backends")
    parser.add_argument("--level", choices=("functions", "rows"), help="only public functions, or only rows of tables")
    parser.add_argument("--row", metavar="TEXT", help="only rows whose label contains this, such as 'wgrad fp32 NHWC'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per CPU)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write how often each row was run, as JSON")
    parser.add_argument("--case", metavar="TARGET:SEED:NUMBER", help="only this case")
    args = parser.parse_args(arguments)
    if args.case:
        return _again(parser, args.case, known)
    chosen = [
        target
        for target in known.values()
        if (not args.backend or target.backend in args.backend)
        and (not args.level or target.name.endswith("-rows") == (args.level == "rows"))
        and (not args.row or target.name.endswith("-rows"))
    ]
    seed = args.seed or f"{time.time_ns() % 10**9}"
    if args.seconds is None and args.rounds is None:
        args.seconds = 60.0
    print(f"seed {seed}: {', '.join(target.name for target in chosen)}", flush=True)
    found = _run(chosen, seed, args.seconds, args.rounds, max(1, args.jobs), args.row)
    return _report(found, seed, args.report)


def _run(
    chosen: list[Target], seed: str, seconds: float | None, rounds: int | None, jobs: int, row: str | None
) -> Found:
    """Keep workers busy until time or rounds are over."""
    found, begun = Found(), time.monotonic()
    end = None if seconds is None else begun + seconds
    waiting = _jobs(chosen, seed, rounds, row)
    workers = [Worker() for _ in range(jobs)]
    busy: dict[int, tuple[Worker, Target]] = {}
    shown = begun
    try:
        for at, worker in enumerate(workers):
            if (following := next(waiting, None)) is not None:
                worker.start(following[1])
                busy[at] = worker, following[0]
        while busy:
            ready = multiprocessing.connection.wait([worker.connection for worker, _ in busy.values()], timeout=1.0)
            for at, (worker, target) in list(busy.items()):
                if worker.connection not in ready and not worker.overdue:
                    continue
                job = worker.job
                done = worker.finish()
                found.runs.update(done.runs)
                found.by_target[target.name] += sum(done.runs.values())
                found.faults += [(target, fault) for fault in done.faults]
                over = end is not None and time.monotonic() > end
                following = None
                if done.numbers and not over and job is not None:
                    following = target, Job(target.name, seed, done.numbers)
                elif not over:
                    following = next(waiting, None)
                if following is None:
                    del busy[at]
                else:
                    worker.start(following[1])
                    busy[at] = worker, following[0]
            if time.monotonic() > shown + 10 or (found.faults and time.monotonic() > shown + 2):
                shown = time.monotonic()
                counts = ", ".join(f"{name} {number}" for name, number in found.by_target.items())
                print(f"{shown - begun:6.0f} s  {counts}; {len(found.faults)} faults", flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        for worker in workers:
            worker.stop()
    print(f"{time.monotonic() - begun:6.0f} s")
    return found


def _jobs(chosen: list[Target], seed: str, rounds: int | None, row: str | None) -> Iterator[tuple[Target, Job]]:
    """A batch of each target in turn."""
    next_number = Counter[str]()
    for _ in range(rounds) if rounds is not None else count():
        for target in chosen:
            begin = next_number[target.name]
            next_number[target.name] += target.per_round
            numbers: Sequence[int] = range(begin, begin + target.per_round)
            if row is not None:
                numbers = _numbers_of(target, row, begin, target.per_round)
                if not numbers:
                    continue
            yield target, Job(target.name, seed, numbers)


def _numbers_of(target: Target, row: str, begin: int, many: int) -> list[int]:
    """Numbers of cases that run certain rows."""
    from fuzz.rows import rows

    labels = list(rows(target.backend))
    wanted = [at for at, label in enumerate(labels) if row in label]
    turns = (at + turn * len(labels) for turn in count(begin) for at in wanted)
    return [next(turns) for _ in range(many)] if wanted else []


def _again(parser: argparse.ArgumentParser, text: str, known: dict[str, Target]) -> int:
    try:
        name, seed, number = text.split(":")
        target, at = known[name], int(number)
    except (ValueError, KeyError):
        parser.error(f"--case {text!r} must be TARGET:SEED:NUMBER with a target of {', '.join(known)}")
    worker = Worker()
    done = worker.run(Job(target.name, seed, [at]))
    print(target.case(seed, at))
    found = Found(Counter(done.runs), Counter(), [(target, fault) for fault in done.faults])
    worker.stop()
    return _report(found, seed, None)


def _report(found: Found, seed: str, file: Path | None) -> int:
    """Counts, and the faults as small as they get."""
    for name, number in found.by_target.items():
        labels = {label: runs for label, runs in found.runs.items() if label.startswith(_prefix(name))}
        least = min(labels.items(), key=lambda item: item[1], default=("-", 0))
        of = "rows" if name.endswith("-rows") else "functions and dtypes"
        print(f"  {name:12} {number:8} cases over {len(labels)} {of}, at least {least[1]} each")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"seed": seed, "runs": dict(sorted(found.runs.items()))}, indent=1) + "\n")
        print(f"written: {file}")
    if not found.faults:
        print("no fault found")
        return EXIT_OK
    print(f"{len(found.faults)} faults:")
    shown: Counter[tuple[str, str]] = Counter()
    for target, fault in found.faults:
        kind = (fault.case.labels[0], fault.kind)
        shown[kind] += 1
        if shown[kind] > _SAME_KIND or sum(shown.values()) > 60:
            continue
        _show(target, fault, seed, small=shown[kind] == 1)
    for (label, kind), number in shown.items():
        print(f"{number} x {kind} in {label}")
    return EXIT_FOUND


def _show(target: Target, fault: Fault, seed: str, small: bool) -> None:
    print(f"\n{target.name}:{seed}:{fault.number}  {fault.kind}: {fault.text}\n  {fault.case}", flush=True)
    if not small:
        return
    worker = Worker()
    last = fault

    def fails(case: object) -> bool:
        nonlocal last
        done = worker.run(Job(case=case))
        if done.faults and done.faults[0].kind == fault.kind:
            last = done.faults[0]
            return True
        return False

    smallest = shrink(fault.case, fails)
    worker.stop()
    print(
        "the smallest case that fails so, as a test:\n\n"
        f"def test_{target.name.replace('-', '_')}_{fault.number}():\n"
        f"    # {last.kind}: {last.text}\n"
        f"    {smallest}.check()\n",
        flush=True,
    )


def _prefix(target: str) -> str:
    return f"{target.removesuffix('-rows')} row:" if target.endswith("-rows") else f"{target}:"


if __name__ == "__main__":
    sys.exit(main())
