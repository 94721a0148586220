"""The Triton kernels, one row each, with the columns of the CUDA registry: what explain, tests and benchmark read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from convbound.kernels import depthwise_dgrad, depthwise_fprop, depthwise_wgrad
from convbound.kernels.launch import Plan
from convbound.kernels.limits import unsupported
from convbound.kernels.tile import Tile
from convbound.problem import DTYPES, ConvProblem, Family, Layout, Pass

Planner = Callable[[ConvProblem, torch.dtype, Layout, Tile, bool], Plan]


@dataclass(frozen=True)
class Kernel:
    """One row. A filter or stride of None means any; `least_arch` is a compute capability such as 80.

    `naive` rows are version 0, for readers and for what nothing faster covers: ``backend="auto"`` never takes them.
    """

    name: str
    family: Family
    pass_: Pass
    layout: Layout
    filter: tuple[int, int] | None
    stride: tuple[int, int] | None
    tile: Tile
    dtypes: tuple[torch.dtype, ...]
    least_arch: int
    naive: bool
    planner: Planner

    def plan(self, problem: ConvProblem, dtype: torch.dtype, bias: bool) -> Plan:
        """The launches for a problem; `bias` tells whether there is one, or in wgrad whether its gradient is wanted."""
        return self.planner(problem, dtype, self.layout, self.tile, bias)

    def serves(
        self, problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, arch: int | None = None
    ) -> bool:
        """Whether this row can do the pass of a problem, on an architecture such as 90 (None: any)."""
        return (
            (self.pass_, self.layout) == (pass_, layout)
            and dtype in self.dtypes
            and (arch is None or arch >= self.least_arch)
            and self.filter in (None, (1, *problem.filter)[-2:])
            and self.stride in (None, (1, *problem.stride)[-2:])
            and unsupported(problem, pass_, dtype) is None
        )


def _naive(pass_: Pass, layout: Layout, tile: Tile, planner: Planner) -> Kernel:
    name = f"depthwise_{pass_}_naive_{layout.lower()}"
    return Kernel(name, "depthwise", pass_, layout, None, None, tile, DTYPES, 80, True, planner)


# The preferred first: select takes the first row that serves.
KERNELS: tuple[Kernel, ...] = (
    _naive("fprop", "NCHW", Tile(128, 1, warps=4), depthwise_fprop.plan),
    _naive("fprop", "NHWC", Tile(32, 32, warps=4), depthwise_fprop.plan),
    _naive("dgrad", "NCHW", Tile(128, 1, warps=4), depthwise_dgrad.plan),
    _naive("dgrad", "NHWC", Tile(32, 32, warps=4), depthwise_dgrad.plan),
    _naive("wgrad", "NCHW", Tile(128, 1, warps=4, steps=32), depthwise_wgrad.plan),
    _naive("wgrad", "NHWC", Tile(32, 32, warps=4, steps=16), depthwise_wgrad.plan),
)


def select(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, arch: int | None = None) -> Kernel:
    """The row that serves a pass of a problem on an architecture such as 90 (None: any).

    Raises
    ------
    RuntimeError
        Where there is none; the message says why.
    """
    for row in KERNELS:
        if row.serves(problem, pass_, dtype, layout, arch):
            return row
    reason = unsupported(problem, pass_, dtype) or f"has no kernel for sm_{arch}"
    raise RuntimeError(f"{pass_}: backend='triton' {reason}")
