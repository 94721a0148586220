"""The ops convbound::triton_fprop, triton_dgrad and triton_wgrad, with the schemas of the native ones.

Importing this file defines them without importing Triton, which need not be there; the first call imports it. The
kernels run on CUDA tensors. Where the environment variable TRITON_INTERPRET was set at import, Triton's interpreter
runs them on CPU tensors too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convbound.fakes import empty_dense
from convbound.kernels.precision import allows_tf32
from convbound.layout import to_layout
from convbound.problem import ConvProblem, Layout, Pass

if TYPE_CHECKING:
    from convbound.kernels.launch import Plan

# As Triton reads it, when a kernel is decorated.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
DEVICES = ("cpu", "cuda") if INTERPRETING else ("cuda",)

NOT_INSTALLED = "triton is not installed; pip install triton"

Sizes = Sequence[int]
Kind = tuple[tuple[int, ...], torch.dtype, torch.device]  # shape, dtype and device of a tensor


def absent() -> str | None:
    """Why the kernels cannot run in this process, or None. Whether there is a GPU is not asked: that starts CUDA."""
    if not INTERPRETING and torch.version.cuda is None:
        return "this torch is built without CUDA; TRITON_INTERPRET=1 in the environment interprets them on a CPU"
    if not find_spec("triton"):
        return NOT_INSTALLED
    return None


def fprop(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    channels_last: bool,
) -> Tensor:
    """y ``(n, k, *output)``, dense in the layout."""
    tf32 = x.dtype == torch.float32 and groups != x.shape[1] and allows_tf32()
    (y,) = _run("fprop", {"x": x, "w": w, "bias": bias}, (), stride, padding, dilation, groups, channels_last, tf32)
    return y


def dgrad(
    dy: Tensor,
    w: Tensor,
    bias: Tensor | None,
    input_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    channels_last: bool,
) -> Tensor:
    """dx ``(n, c, *input_size)``, dense in the layout."""
    tf32 = dy.dtype == torch.float32 and w.shape[1] != 1 and allows_tf32()
    tensors = {"dy": dy, "w": w, "bias": bias}
    (dx,) = _run("dgrad", tensors, input_size, stride, padding, dilation, groups, channels_last, tf32)
    return dx


def wgrad(
    dy: Tensor,
    x: Tensor,
    filter_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    bias_grad: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """dw ``(k, c // groups, *filter_size)``, dense in the layout, and dbias ``(k,)``, empty unless asked for."""
    tf32 = x.dtype == torch.float32 and groups != x.shape[1] and allows_tf32()
    tensors = {"dy": dy, "x": x, "dbias": None}
    dw, *dbias = _run("wgrad", tensors, filter_size, stride, padding, dilation, groups, channels_last, tf32, bias_grad)
    return dw, dbias[0] if dbias else x.new_empty(0)


def _run(
    pass_: Pass,
    tensors: dict[str, Tensor | None],
    size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    channels_last: bool,
    tf32: bool,
    bias_grad: bool = False,
) -> list[Tensor]:
    """Allocate the results, and launch the kernel that the table selects.

    The first two tensors are the operands, the third the bias, whose gradient wgrad has among its results if asked;
    `size` is that of the image or filter which a gradient is of.
    """
    first, second, bias = tensors.values()
    assert first is not None
    assert second is not None
    call = prepare(
        pass_,
        (first.shape, first.dtype, first.device),
        (second.shape, second.dtype, second.device),
        None if bias is None else (bias.shape, bias.dtype, bias.device),
        tuple(size),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        channels_last,
        tf32,
        bias_grad,
    )
    for name, tensor in tensors.items():
        if tensor is not None:
            tensors[name] = to_layout(tensor, channels_last and tensor.dim() > 1)
    results = [first.new_empty_strided(*place) for place in call.results.values()]
    try:
        call.plan.run({**tensors, **dict(zip(call.results, results, strict=True))})
    except RuntimeError as error:
        message = f"while {call.row} served {call.problem} in {first.dtype}: {error}"
        if isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(message) from error
        raise RuntimeError(message) from error
    return results


@dataclass(frozen=True)
class Call:
    """What there is to know of a call before its tensors: `results` are named, each with its shape and strides."""

    problem: ConvProblem
    row: str
    plan: Plan
    results: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@lru_cache(maxsize=4096)
def prepare(
    pass_: Pass,
    first: Kind,
    second: Kind,
    bias: Kind | None,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    channels_last: bool,
    tf32: bool,
    bias_grad: bool,
) -> Call:
    """Check the tensors, select a row of the table and plan its launches: once for all calls that are alike.

    The arguments are all that these depend on. `tf32` is among them for the planners of matrix products in fp32, which
    ask torch themselves.
    """
    from convbound.kernels.launch import architecture
    from convbound.kernels.table import select

    x_shape, w_shape = tuple(first[0]), tuple(second[0])
    dtype, device = first[1:]
    if pass_ == "dgrad":
        x_shape = (x_shape[0], w_shape[1] * groups, *size)
    elif pass_ == "wgrad":
        x_shape, w_shape = w_shape, (x_shape[1], w_shape[1] // groups, *size)
    pairs = tuple(zip(padding[::2], padding[1::2], strict=True))
    problem = ConvProblem(x_shape[0], x_shape[1], w_shape[0], x_shape[2:], w_shape[2:], stride, pairs, dilation, groups)
    if problem.w_shape != w_shape:
        raise RuntimeError(f"triton: a filter of shape {w_shape} does not fit {problem}, which needs {problem.w_shape}")

    names = {"fprop": ("x", "w"), "dgrad": ("dy", "w"), "wgrad": ("dy", "x")}[pass_]
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    shapes["bias"] = (problem.c if pass_ == "dgrad" else problem.k,)
    # The kernels are told the problem and no more: tensors of another shape would be read beyond their ends.
    for name, kind in zip((*names, "bias"), (first, second, bias), strict=True):
        if kind is not None and kind != (shapes[name], dtype, device):
            raise RuntimeError(
                f"triton_{pass_}: {name} is {kind[1]} {tuple(kind[0])} on {kind[2]}, but {problem} "
                f"needs {dtype} {shapes[name]} on {device}"
            )

    layout: Layout = "NHWC" if channels_last else "NCHW"
    row = select(problem, pass_, dtype, layout, architecture(device))
    plan = row.plan(problem, dtype, bias=bias is not None or bias_grad)
    if pass_ == "wgrad":
        shapes = {"dw": problem.w_shape} | ({"dbias": (problem.k,)} if bias_grad else {})
    else:
        shapes = {"y": problem.y_shape} if pass_ == "fprop" else {"dx": problem.x_shape}
    like = torch.empty(0, device="meta")
    dense = {name: empty_dense(like, shape, channels_last and len(shape) > 1) for name, shape in shapes.items()}
    return Call(problem, row.name, plan, {name: (tuple(t.shape), t.stride()) for name, t in dense.items()})


_SCHEMAS = {
    "fprop": "(Tensor x, Tensor w, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "
    "bool channels_last) -> Tensor",
    "dgrad": "(Tensor dy, Tensor w, Tensor? bias, SymInt[] input_size, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups, bool channels_last) -> Tensor",
    "wgrad": "(Tensor dy, Tensor x, SymInt[] filter_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "SymInt groups, bool bias_grad, bool channels_last) -> (Tensor, Tensor)",
}

for _function in (fprop, dgrad, wgrad):
    _name = f"convbound::triton_{_function.__name__}"
    torch.library.define(_name, _SCHEMAS[_function.__name__])
    torch.library.impl(_name, DEVICES, _function)
