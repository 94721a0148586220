"""Runs the checks one after another, from one of them on, and writes down each before and after it ran.

A kernel that goes wrong on a GPU may leave the process without one, or end it; ``supervisor`` then starts another.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import torch

from gpu_check.behaviour import behaviour_checks
from gpu_check.check import Check
from gpu_check.rows import op_checks, row_checks, triton_checks
from gpu_check.target import Target, find_target

EXIT_LOST = 3


def all_checks(target: Target) -> Iterator[Check]:
    """Every check of a target, in the order in which they run."""
    yield from row_checks(target)
    yield from triton_checks(target)
    yield from op_checks(target)
    yield from behaviour_checks(target)


def selected(target: Target, only: str) -> list[Check]:
    """The checks whose names match a regular expression."""
    return [check for check in all_checks(target) if re.search(only, check.name)]


def run_checks(checks: list[Check], start: int, log: TextIO) -> int:
    """Run the checks from number `start` on; returns the exit status, `EXIT_LOST` where the device was lost."""
    for index, check in enumerate(checks[start:], start):
        begun = time.perf_counter()
        record = {"index": index, "name": check.name, "total": len(checks)}
        _write(log, record | {"event": "start"})
        error = "" if check.skip else _run(check)
        seconds = round(time.perf_counter() - begun, 3)
        _write(log, record | {"event": "end", "error": error, "skip": check.skip, "seconds": seconds})
        if error and _lost():
            return EXIT_LOST
    return 0


def _run(check: Check) -> str:
    try:
        check.run()
    except Exception as error:  # whatever a kernel raises is what the report is for
        return f"{type(error).__name__}: {error}".strip()
    return ""


def _lost() -> bool:
    """Whether an error stays with this process: then every later check would report it again."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _write(log: TextIO, record: dict[str, object]) -> None:
    log.write(json.dumps(record) + "\n")
    log.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_check.worker")
    parser.add_argument("--target", choices=("gpu", "emulator"), required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    with args.log.open("a", encoding="utf-8") as log:
        return run_checks(selected(find_target(args.target), args.only), args.start, log)


if __name__ == "__main__":
    sys.exit(main())
