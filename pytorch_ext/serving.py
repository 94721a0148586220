"""Which kernel of a backend serves a pass, as the dispatcher and Triton's table say; nothing is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from convbound import _library
from convbound.gpus import Gpu
from convbound.kernels.ops import NOT_INSTALLED
from convbound.problem import DTYPE_NAMES, ConvProblem, Layout, Pass


@dataclass(frozen=True)
class LaunchSizes:
    """One launch of a GPU's kernel: `function` is its name in the source, `sizes` are those of a program in words.

    `shared_bytes` of a block and `registers` of a thread are None where only the compiled kernel tells.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int | None = None
    registers: int | None = None
    function: str = ""
    sizes: str = ""

    def __str__(self) -> str:
        grid, block = (
            "x".join(map(str, size)).removesuffix("x1").removesuffix("x1") for size in (self.grid, self.block)
        )
        known = [f"grid {grid}", f"block {block}"]
        if self.shared_bytes is not None:
            known.append(f"{self.shared_bytes} bytes of shared memory")
        if self.registers is not None:
            known.append(f"{self.registers} registers")
        named = f"{self.function}{f' ({self.sizes})' if self.sizes else ''}: " if self.function else ""
        return named + ", ".join(known)


@dataclass(frozen=True)
class ServingKernel:
    """The kernel by which a backend would serve a pass: its name in the backend's table, ``aten`` for torch.

    A `designed` one is more than a naive one, and fit to compete. A GPU's kernel has a tile and launches. `refused` are
    the rows of CUDA kernels that are preferred to it, each with the reason why it does not serve the problem.
    """

    name: str
    designed: bool = False
    tile: str = ""
    launches: tuple[LaunchSizes, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


def serving_kernel(
    problem: ConvProblem,
    pass_: Pass,
    dtype: torch.dtype,
    layout: Layout,
    backend: str,
    gpu: Gpu | None = None,
    compiled: bool = False,
) -> ServingKernel:
    """The kernel by which a backend would serve a pass, on a named GPU or on the one in use.

    `compiled` has Triton compile its kernels, to know their registers and shared memory.

    Raises
    ------
    RuntimeError
        Where no kernel serves it, and the backend knows why, or where its table cannot be read.
    """
    if backend == "torch":
        return ServingKernel("aten")
    if backend == "triton":
        return _triton_kernel(problem, pass_, dtype, layout, gpu, compiled)
    introspect: Any = _library.introspect
    if isinstance(introspect, str):
        raise RuntimeError(introspect)
    native = (
        introspect.Pass[pass_],
        native_problem(introspect, problem),
        introspect.DType[DTYPE_NAMES[dtype]],
        introspect.Layout[layout],
    )
    if backend == "cpu":
        row = introspect.cpu_select(*native)
        return ServingKernel(str(row["name"]), designed=not row["naive"])
    if not hasattr(introspect, "device_select"):
        return ServingKernel(
            "?", tile=f"the table of CUDA kernels comes with them or with the emulator; {_library.BUILD_EMULATOR}"
        )
    row = introspect.device_select(*native, *_device(introspect, backend, gpu))
    if row is None:
        return ServingKernel("none")
    launch = LaunchSizes(row["grid"], row["block"], row["shared_bytes"])
    return ServingKernel(str(row["name"]), not row["naive"], str(row["tile"]), (launch,), tuple(row["refused"]))


def _triton_kernel(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, gpu: Gpu | None, compiled: bool
) -> ServingKernel:
    if not find_spec("triton"):
        raise RuntimeError(NOT_INSTALLED)
    # Here, not above: they import Triton, which takes a second.
    from convbound.kernels import aot, table
    from convbound.kernels.launch import architecture

    arch = architecture(torch.device("cuda")) if gpu is None else gpu.arch
    row = table.select(problem, pass_, dtype, layout, arch)
    launches = row.plan(problem, dtype, bias=False).launches
    resources: Sequence[tuple[int | None, int | None]] = [(None, None)] * len(launches)
    if compiled:
        if arch is None:
            raise RuntimeError("Triton interprets here, for no architecture; name one")
        resources = aot.resources(row, problem, dtype, arch)
    found = [
        LaunchSizes((one.programs, 1, 1), (32 * one.warps, 1, 1), *has, one.kernel.__name__, one.sizes_in_use)
        for one, has in zip(launches, resources, strict=True)
    ]
    return ServingKernel(row.name, not row.naive, f"tile of at most {row.tile}", tuple(found))


def _device(introspect: Any, backend: str, gpu: Gpu | None) -> tuple[int, int, int]:
    """Architecture, shared memory per block and SMs of a named GPU, of the one in use, or of the emulated one."""
    if gpu is not None:
        return gpu.arch, gpu.shared_per_block, gpu.sms
    if backend == "cuda":
        properties: Any = torch.cuda.get_device_properties()
        architecture = 10 * properties.major + properties.minor
        return architecture, properties.shared_memory_per_block_optin, properties.multi_processor_count
    options = os.environ.get("CONVBOUND_SIMT_OPTIONS", "").replace(",", " ").split()
    profile = next((option[8:] for option in reversed(options) if option.startswith("profile=")), "sm_90")
    architecture, shared, sms = introspect.simt_profile(profile)
    return architecture, shared, sms


def native_problem(introspect: Any, problem: ConvProblem) -> Any:
    """The C++ side's ConvProblem, which always has three spatial dimensions."""

    def triple(values: tuple[int, ...], fill: int) -> list[int]:
        return [fill] * (3 - problem.ndim) + list(values)

    return introspect.ConvProblem(
        n=problem.n,
        c=problem.c,
        k=problem.k,
        groups=problem.groups,
        input=triple(problem.input, 1),
        filter=triple(problem.filter, 1),
        output=triple(problem.output, 1),
        stride=triple(problem.stride, 1),
        padding=triple(tuple(begin for begin, _ in problem.padding), 0),
        dilation=triple(problem.dilation, 1),
    )
