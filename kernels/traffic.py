"""The memory traffic of a Triton kernel, counted in Triton's interpreter: ``convbound.trace(..., kernel="triton")``.

By the definitions of docs/traffic.md, where a program is a block. The interpreter does not know warps, lanes, widths of
accesses and shared memory: a request is a whole ``tl.load`` or ``tl.store`` of a program, so what follows from requests
(coalescing, the time of L1) is the least that it can be; widths are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from triton.runtime import interpreter

from convbound import trace_report
from convbound.gpus import DEFAULT_GPU, SECTOR, find_gpu
from convbound.kernels.launch import L1, Launch, operands, residents
from convbound.kernels.table import KERNELS, Kernel, select
from convbound.problem import ConvProblem, Layout, Pass
from convbound.trace_report import Site, Trace

PREFIX = "triton"
_UNKNOWN = (0,) * 5  # bytes by width of access


@dataclass
class _Counted:
    """Of one launch: sectors that each program loads, request by request; addresses of what is stored; the sites."""

    loaded: dict[Any, list[Any]] = field(default_factory=lambda: defaultdict(list))
    stored: list[Any] = field(default_factory=list)
    store_requests: int = 0
    sites: dict[tuple[str, int], Any] = field(default_factory=lambda: defaultdict(lambda: np.zeros(4, np.int64)))

    def request(self, kind: str, width: int, addresses: Any) -> Any:
        """The distinct sectors of one request, which are counted."""
        sectors = np.unique(addresses // SECTOR)
        fewest = -(-len(np.unique(addresses)) * width // SECTOR)
        self.sites[kind, width] += (len(addresses), 1, len(sectors), fewest)
        return sectors


def count(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, kernel: str = PREFIX) -> Trace:
    """Interpret a pass of a problem, on the sm_90 row that is selected, or on row NAME of ``triton:NAME``.

    Raises
    ------
    RuntimeError
        Where Triton does not interpret.
    ValueError
        Where there is no such row, or it does not serve the problem.
    """
    if not triton.knobs.runtime.interpret:
        raise RuntimeError(
            "trace: Triton kernels are counted in its interpreter; set TRITON_INTERPRET=1 before importing convbound"
        )
    row = _row(problem, pass_, dtype, layout, kernel)
    # Zeros, and no bias: addresses do not depend on values, and a bias adds next to nothing.
    tensors = operands(problem, pass_, torch.empty(0, dtype=dtype), layout)
    filled = [tensor.zero_() for tensor in tensors.values() if tensor is not None]
    compulsory = SECTOR * sum(map(_sectors, filled))

    plan = row.plan(problem, dtype, bias=False)
    with _watched() as counted:
        plan.run(tensors)
    launches = [_launch(*pair, compulsory) for pair in zip(plan.launches, counted, strict=True)]
    gpu = find_gpu(DEFAULT_GPU)
    return Trace(problem, pass_, dtype, layout, gpu, row.name, tuple(launches), tensor_cores=row.tensor_cores)


def _row(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, kernel: str) -> Kernel:
    name = kernel.removeprefix(PREFIX).removeprefix(":")
    if not name:
        return select(problem, pass_, dtype, layout, 90)
    for row in KERNELS:
        if row.name == name:
            if row.serves(problem, pass_, dtype, layout, 90):
                return row
            raise ValueError(f"trace: kernel={kernel!r} does not serve {pass_} of {problem} in {dtype} {layout}")
    known = ", ".join(row.name for row in KERNELS if (row.pass_, row.layout) == (pass_, layout))
    raise ValueError(f"trace: kernel={kernel!r} is no row of Triton's table; there are {known}")


def _launch(launch: Launch, counted: _Counted, compulsory: int) -> trace_report.TracedLaunch:
    resident = residents(launch.warps, launch.registers)
    programs = [(np.unique(np.concatenate(requests)), requests) for requests in counted.loaded.values()]
    fitting = [len(distinct) * SECTOR <= L1 // resident for distinct, _ in programs]
    loads = sum(
        len(distinct) if fits else sum(map(len, requests))
        for (distinct, requests), fits in zip(programs, fitting, strict=True)
    )
    # Bytes that are stored, sector by sector.
    stored = np.unique(np.concatenate([np.empty(0, np.int64), *counted.stored]))
    stored_sectors, stored_bytes = np.unique(stored // SECTOR, return_counts=True)
    filled = int((stored_bytes < SECTOR).sum())
    moved = np.unique(np.concatenate([stored_sectors, *(distinct for distinct, _ in programs)]))
    sites = [
        Site(launch.kernel.__name__, "global", kind, width, *map(int, counts))
        for (kind, width), counts in counted.sites.items()
    ]
    return trace_report.TracedLaunch(
        kernel=str(launch),
        grid=(launch.programs, 1, 1),
        block=(32 * launch.warps, 1, 1),
        shared_bytes=0,
        resident_blocks=resident,
        l1_share=L1 // resident,
        blocks=launch.programs,
        blocks_in_l1=sum(fitting),
        load_bytes=loads * SECTOR,
        store_bytes=counted.store_requests * SECTOR,
        compulsory_bytes=compulsory,
        dram_bytes=(len(moved) + filled) * SECTOR,
        filled_bytes=filled * SECTOR,
        loaded_bytes_by_width=_UNKNOWN,
        stored_bytes_by_width=_UNKNOWN,
        sites=tuple(sites),
    )


def _sectors(tensor: Tensor) -> int:
    begin = tensor.data_ptr()
    return (begin + tensor.numel() * tensor.element_size() - 1) // SECTOR - begin // SECTOR + 1


@contextmanager
def _watched() -> Iterator[list[_Counted]]:
    """What each launch loads and stores inside of this context."""
    launches: list[_Counted] = []
    builder = interpreter.InterpreterBuilder
    load, store, grid = builder.create_masked_load, builder.create_masked_store, builder.set_grid_dim

    def accessed(pointers: Any, mask: Any) -> tuple[int, Any]:
        width = pointers.get_element_ty().primitive_bitwidth // 8
        return width, pointers.data[mask.data.astype(bool)].astype(np.int64)

    def watched_grid(self: Any, *dimensions: int) -> None:
        launches.append(_Counted())
        grid(self, *dimensions)

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        counted = launches[-1]
        counted.loaded[self.grid_idx].append(counted.request("load", *accessed(pointers, mask)))
        return load(self, pointers, mask, *rest)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        counted = launches[-1]
        width, addresses = accessed(pointers, mask)
        counted.store_requests += len(counted.request("store", width, addresses))
        counted.stored.append((addresses[:, None] + np.arange(width)).ravel())
        return store(self, pointers, value, mask, *rest)

    try:
        builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
        builder.set_grid_dim = watched_grid
        yield launches
    finally:
        builder.create_masked_load, builder.create_masked_store, builder.set_grid_dim = load, store, grid
