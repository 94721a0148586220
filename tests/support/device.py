"""The registry of CUDA kernels, and running one row of it in the emulator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convbound import _library, fakes
from convbound.problem import DTYPE_NAMES, ConvProblem
from convbound.serving import native_problem
from support.data import Operands, amid_nan

PROFILES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

introspect: Any = _library.introspect
# Why there is no emulator to test with, or None.
ABSENT: str | None = introspect if isinstance(introspect, str) else _library.LOADED["simt"]


def rows() -> list[dict[str, Any]]:
    """The rows of the registry, which is there with the emulator or with nvcc's kernels."""
    return introspect.device_kernels() if hasattr(introspect, "device_kernels") else []


def row_id(row: dict[str, Any]) -> str:
    """A row as a test id."""
    return f"{row['index']}-{row['name']}-{row['dtype'].name}-{row['layout'].name}"


def dtype_of(row: dict[str, Any]) -> torch.dtype:
    """torch's name for the row's dtype."""
    return next(dtype for dtype, name in DTYPE_NAMES.items() if name == row["dtype"].name)


def native(problem: ConvProblem) -> Any:
    """The problem as the C++ side has it."""
    return native_problem(introspect, problem)


def serves(row: dict[str, Any], problem: ConvProblem, profile: str = "sm_90") -> bool:
    """Whether the row computes this problem on a device of the profile."""
    return not isinstance(plan(row, problem, profile), str)


def plan(row: dict[str, Any], problem: ConvProblem, profile: str = "sm_90") -> dict[str, Any] | str:
    """The row's launch for the problem on a device of the profile, or why it does not serve it."""
    found: dict[str, Any] | str = introspect.device_plan(
        row["index"], native(problem), *introspect.simt_profile(profile)
    )
    return found


def select(problem: ConvProblem, row: dict[str, Any], profile: str) -> dict[str, Any] | None:
    """The row that the dispatcher takes for the problem, in pass, dtype and layout of `row`."""
    found: dict[str, Any] | None = introspect.device_select(
        row["pass"], native(problem), row["dtype"], row["layout"], *introspect.simt_profile(profile)
    )
    return found


def run_row(
    row: dict[str, Any],
    operands: Operands,
    problem: ConvProblem,
    options: str,
    registered_pass: str | None = None,
    *,
    aligned: bool = False,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The results of one row by name, from operands amid NaN into outputs amid NaN; and the traces, if asked for.

    The checker is told that the row computes `registered_pass`, its own unless a test of the checker says otherwise.
    No tensor is better aligned than its elements, unless `aligned` asks for multiples of 64 bytes.
    """
    pass_ = row["pass"].name
    channels_last = row["layout"].name == "NHWC"
    dtype = operands.x.dtype
    offset = 64 if aligned else 65
    t = operands.map(lambda tensor: amid_nan(tensor, channels_last, offset))

    def output(shape: tuple[int, ...]) -> Tensor:
        like = fakes.empty_dense(torch.empty(0, dtype=dtype), shape, channels_last and len(shape) > 1)
        return amid_nan(like.fill_(torch.nan), channels_last, offset)

    written = {"fprop": ("y",), "dgrad": ("x",), "wgrad": ("w", "bias")}[pass_]
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape, "bias": (problem.k,)}
    tensors = {
        name: output(shapes[name]) if name in written and given is not None else given
        for name, given in {"x": t.x, "w": t.w, "y": t.y, "bias": t.bias}.items()
    }
    addresses = {name: 0 if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}
    traces = introspect.simt_run(
        introspect.Pass[registered_pass or pass_],
        native(problem),
        row["dtype"],
        row["layout"],
        **addresses,
        options=options,
        row=row["index"],
    )
    names = {"y": "y", "x": "dx", "w": "dw", "bias": "dbias"}
    return {names[name]: tensors[name] for name in written if tensors[name] is not None}, traces
