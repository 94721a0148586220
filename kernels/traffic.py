"""Bytes that a Triton kernel moves between SMs and L2, counted in Triton's interpreter.

By the definitions of docs/traffic.md, where a program is a block, with two differences: the interpreter does not know
which lanes form a warp, so a request is a whole ``tl.load`` or ``tl.store`` of a program; and registers are left out
of how many programs an SM holds, so that a program's share of L1 is the smallest that it can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from triton.runtime import interpreter

from convbound.fakes import empty_dense
from convbound.kernels.launch import Launch
from convbound.kernels.table import Kernel, select
from convbound.problem import ConvProblem, Layout, Pass

SECTOR = 32
# Of an H100: L1 with shared memory, warps and blocks of an SM.
L1, WARPS, BLOCKS = 256 * 1024, 64, 32


@dataclass
class _Program:
    """What one program loaded: its distinct sectors, and the sum of those of its requests."""

    sectors: list[Any] = field(default_factory=list)
    requested: int = 0


@dataclass(frozen=True)
class Traffic:
    """Bytes of all launches of a pass; the workspace is traffic, but not compulsory."""

    kernel: str
    programs: int
    programs_in_l1: int
    load_bytes: int
    store_bytes: int
    compulsory_bytes: int

    @property
    def sm_l2_ratio(self) -> float:
        """Bytes between SMs and L2 over compulsory bytes."""
        return (self.load_bytes + self.store_bytes) / self.compulsory_bytes


def count(
    problem: ConvProblem | str, pass_: Pass, dtype: torch.dtype, layout: Layout, row: Kernel | None = None
) -> Traffic:
    """Interpret a pass of a problem, by a row of the table or the one that is selected for sm_90, and count.

    Raises
    ------
    RuntimeError
        Where Triton does not interpret.
    """
    if not triton.knobs.runtime.interpret:
        raise RuntimeError(
            "traffic is counted in Triton's interpreter: set TRITON_INTERPRET=1 before importing convbound"
        )
    if isinstance(problem, str):
        problem = ConvProblem.parse(problem)
    row = row or select(problem, pass_, dtype, layout, 90)
    # Zeros, and no bias: addresses do not depend on values, and a bias adds next to nothing.
    like = torch.empty(0, dtype=dtype)
    names = {"fprop": "xwy", "dgrad": ("dx", "w", "dy"), "wgrad": ("x", "dw", "dy")}[pass_]
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    tensors: dict[str, Tensor | None] = {
        name: empty_dense(like, shape, layout == "NHWC").zero_() for name, shape in zip(names, shapes, strict=True)
    }
    compulsory = sum(_sectors(tensor) for tensor in tensors.values() if tensor is not None)
    tensors["dbias" if pass_ == "wgrad" else "bias"] = None

    launches = row.plan(problem, dtype, bias=False).launches
    loads = stores = in_l1 = 0
    with _watched() as counted:
        row.plan(problem, dtype, bias=False).run(tensors)
    assert len(counted) == len(launches)
    for launch, (programs, stored) in zip(launches, counted, strict=True):
        stores += stored
        for program in programs.values():
            distinct = len(np.unique(np.concatenate(program.sectors)))
            fits = distinct * SECTOR <= _share_of_l1(launch)
            in_l1 += fits
            loads += distinct if fits else program.requested
    total = sum(launch.programs for launch in launches)
    return Traffic(row.name, total, in_l1, loads * SECTOR, stores * SECTOR, compulsory * SECTOR)


def _sectors(tensor: Tensor) -> int:
    begin = tensor.data_ptr()
    return (begin + tensor.numel() * tensor.element_size() - 1) // SECTOR - begin // SECTOR + 1


def _share_of_l1(launch: Launch) -> int:
    return L1 // min(BLOCKS, WARPS // launch.warps)


@contextmanager
def _watched() -> Iterator[list[Any]]:
    """Per launch what each program loads, by its number, and how many sectors are stored."""
    launches: list[Any] = []
    builder = interpreter.InterpreterBuilder
    load, store, grid = builder.create_masked_load, builder.create_masked_store, builder.set_grid_dim

    def sectors(pointers: Any, mask: Any) -> Any:
        return np.unique(pointers.data[mask.data.astype(bool)] // SECTOR)

    def watched_grid(self: Any, *dimensions: int) -> None:
        launches.append([{}, 0])
        grid(self, *dimensions)

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        program = launches[-1][0].setdefault(self.grid_idx, _Program())
        found = sectors(pointers, mask)
        program.sectors.append(found)
        program.requested += len(found)
        return load(self, pointers, mask, *rest)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches[-1][1] += len(sectors(pointers, mask))
        return store(self, pointers, value, mask, *rest)

    try:
        builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
        builder.set_grid_dim = watched_grid
        yield launches
    finally:
        builder.create_masked_load, builder.create_masked_store, builder.set_grid_dim = load, store, grid
