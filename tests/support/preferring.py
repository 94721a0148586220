"""Making ``auto`` prefer the native kernels, whatever the preference table says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pytest

from convbound import functional, preferences, selection
from convbound.problem import DTYPES, LAYOUTS, PASSES, Pass

REASON = "a test says so"


@contextmanager
def native_preferred(passes: Collection[Pass] = PASSES) -> Iterator[None]:
    """``auto`` takes the native kernels for these passes of every problem, and torch for the others."""
    rows = tuple(
        preferences.Preference("any", pass_, dtype, layout, lambda _: True, REASON, (selection.CPU_ISA,))
        for pass_ in passes
        for dtype in DTYPES
        for layout in LAYOUTS
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences, "CPU_PREFERENCES", rows)
        patch.setattr(preferences, "MEASURED_ISAS", (selection.CPU_ISA,))
        forget_plans()
        yield
    forget_plans()


def forget_plans() -> None:
    """Let the functions choose their backends anew."""
    functional._plan.cache_clear()
