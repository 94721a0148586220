"""Making ``auto`` prefer the native kernels, whatever the table for CPUs says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pytest

from convbound import functional
from convbound.choice import Choice, backends, cpu_table
from convbound.problem import PASSES, Pass

REASON = "a test says so"


@contextmanager
def native_preferred(passes: Collection[Pass] = PASSES) -> Iterator[None]:
    """``auto`` takes the native kernels for these passes of every problem, and torch for the others."""

    def look_up(problem: object, pass_: Pass, *case: object) -> Choice:
        return Choice("cpu" if pass_ in passes else "torch", REASON)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_table, "look_up", look_up)
        patch.setattr(cpu_table, "MEASURED_ISAS", (backends.CPU_ISA,))
        forget_plans()
        yield
    forget_plans()


def forget_plans() -> None:
    """Let the functions choose their backends anew."""
    functional._plans.clear()
