"""Which kernel of a backend serves a pass, as the dispatcher and Triton's table say; nothing is run."""

from __future__ import annotations

import os
from typing import Any

import torch

from convbound import _library
from convbound.problem import DTYPE_NAMES, ConvProblem, Layout, Pass


def serving_kernel(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, backend: str
) -> tuple[str, str]:
    """The registry name of the kernel by which a backend would serve a pass, and its launch where it is a GPU's kernel.

    The name is ``aten`` for torch.
    """
    if backend == "torch":
        return "aten", ""
    if backend == "triton":
        return _triton_kernel(problem, pass_, dtype, layout)
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
        return str(introspect.cpu_select(*native)["name"]), ""
    if not hasattr(introspect, "device_select"):
        return "?", f"the table of CUDA kernels comes with the CUDA kernels or the emulator; {_library.BUILD_EMULATOR}"
    row = introspect.device_select(*native, *_device(introspect, backend))
    if row is None:
        return "none", ""
    launch = f"{row['tile']}; grid {row['grid']}, block {row['block']}, {row['shared_bytes']} bytes of shared memory"
    return str(row["name"]), launch


def _triton_kernel(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout) -> tuple[str, str]:
    # Here, not above: they import Triton, which takes a second.
    from convbound.kernels import table
    from convbound.kernels.launch import architecture

    row = table.select(problem, pass_, dtype, layout, architecture(torch.device("cuda")))
    launches = row.plan(problem, dtype, bias=False).launches
    return row.name, f"tile {row.tile}; {', '.join(map(str, launches))}"


def _device(introspect: Any, backend: str) -> tuple[int, int]:
    """Architecture and shared memory per block of the GPU in use, or of the one that is emulated."""
    if backend == "cuda":
        properties: Any = torch.cuda.get_device_properties()
        return 10 * properties.major + properties.minor, properties.shared_memory_per_block_optin
    options = os.environ.get("CONVBOUND_SIMT_OPTIONS", "").replace(",", " ").split()
    profile = next((option[8:] for option in reversed(options) if option.startswith("profile=")), "sm_90")
    architecture, shared = introspect.simt_profile(profile)
    return architecture, shared


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
