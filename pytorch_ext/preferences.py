"""What ``backend="auto"`` prefers on a CPU: one row per case in which a native kernel was measured faster than torch.

Each row carries its reason and its evidence, a committed result file that a test holds against the row. Whatever no
row names goes to torch, and so does everything on an instruction set that was not measured. The conditions look at what
stays constant while a model runs (dtype, layout, groups, filter, stride, dilation), not at batch or image size, so that
compiled code does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from convbound.problem import ConvProblem, Layout, Pass

MEASURED_ISAS = ("avx2", "avx512")


@dataclass(frozen=True)
class Preference:
    """Prefer the native kernel for one pass of the problems that `applies` accepts."""

    kernel: str
    pass_: Pass
    dtype: torch.dtype
    layouts: tuple[Layout, ...]
    applies: Callable[[ConvProblem], bool]
    reason: str
    evidence: str = "bench/results/cpu.json"


CPU_PREFERENCES: tuple[Preference, ...] = ()


def preferred(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout) -> Preference | None:
    """The first row that speaks for a native kernel, or None: torch."""
    for row in CPU_PREFERENCES:
        if row.pass_ == pass_ and row.dtype == dtype and layout in row.layouts and row.applies(problem):
            return row
    return None
