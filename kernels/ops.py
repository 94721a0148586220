"""The ops convbound::triton_fprop, triton_dgrad and triton_wgrad, with the schemas of the native ones.

Importing this file defines them without importing Triton, which need not be there; the first call imports it. The
kernels run on CUDA tensors. Where the environment variable TRITON_INTERPRET was set at import, Triton's interpreter
runs them on CPU tensors too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from convbound.fakes import empty_dense
from convbound.layout import to_layout
from convbound.problem import ConvProblem, Layout, Pass

# As Triton reads it, when a kernel is decorated.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
DEVICES = ("cpu", "cuda") if INTERPRETING else ("cuda",)

Sizes = Sequence[int]


def absent() -> str | None:
    """Why the kernels cannot run in this process, or None. Whether there is a GPU is not asked: that starts CUDA."""
    if not INTERPRETING and torch.version.cuda is None:
        return "this torch is built without CUDA; TRITON_INTERPRET=1 in the environment interprets them on a CPU"
    if not find_spec("triton"):
        return "triton is not installed; pip install triton"
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
    problem = _problem(x.shape, w.shape, stride, padding, dilation, groups)
    (y,) = _run("fprop", problem, channels_last, {"x": x, "w": w}, bias, {"y": problem.y_shape})
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
    x_shape = (dy.shape[0], w.shape[1] * groups, *input_size)
    problem = _problem(x_shape, w.shape, stride, padding, dilation, groups)
    (dx,) = _run("dgrad", problem, channels_last, {"dy": dy, "w": w}, bias, {"dx": problem.x_shape})
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
    w_shape = (dy.shape[1], x.shape[1] // groups, *filter_size)
    problem = _problem(x.shape, w_shape, stride, padding, dilation, groups)
    results = {"dw": problem.w_shape} | ({"dbias": (problem.k,)} if bias_grad else {})
    dw, *dbias = _run("wgrad", problem, channels_last, {"dy": dy, "x": x}, None, results)
    return dw, dbias[0] if dbias else x.new_empty(0)


def _problem(x: Sizes, w: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> ConvProblem:
    pairs = tuple(zip(padding[::2], padding[1::2], strict=True))
    window = (tuple(w[2:]), tuple(stride), pairs, tuple(dilation))
    problem = ConvProblem(x[0], x[1], w[0], tuple(x[2:]), *window, groups)
    if problem.w_shape != tuple(w):
        raise RuntimeError(
            f"triton: a filter of shape {tuple(w)} does not fit {problem}, which needs {problem.w_shape}"
        )
    return problem


def _run(
    pass_: Pass,
    problem: ConvProblem,
    channels_last: bool,
    operands: dict[str, Tensor],
    bias: Tensor | None,
    results: dict[str, tuple[int, ...]],
) -> list[Tensor]:
    """Allocate the results, which are named with their shapes, and launch the kernel that the table selects."""
    from convbound.kernels.launch import architecture
    from convbound.kernels.table import select

    _check(pass_, problem, operands, bias)
    like = next(iter(operands.values()))
    layout: Layout = "NHWC" if channels_last else "NCHW"
    row = select(problem, pass_, like.dtype, layout, architecture(like.device))
    dense = {name: to_layout(tensor, channels_last) for name, tensor in operands.items()}
    out = {name: empty_dense(like, shape, channels_last and len(shape) > 1) for name, shape in results.items()}
    biases = {"dbias": None} if pass_ == "wgrad" else {"bias": None if bias is None else bias.contiguous()}
    plan = row.plan(problem, like.dtype, bias=bias is not None or "dbias" in out)
    try:
        plan.run({**biases, **dense, **out})
    except RuntimeError as error:
        message = f"while {row.name} served {problem} in {like.dtype}: {error}"
        if isinstance(error, torch.OutOfMemoryError):
            raise torch.OutOfMemoryError(message) from error
        raise RuntimeError(message) from error
    return list(out.values())


def _check(pass_: Pass, problem: ConvProblem, operands: dict[str, Tensor], bias: Tensor | None) -> None:
    """The kernels are told the problem and no more: tensors of another shape would be read beyond their ends."""
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    shapes["bias"] = (problem.c if pass_ == "dgrad" else problem.k,)
    like = next(iter(operands.values()))
    for name, tensor in {**operands, "bias": bias}.items():
        if tensor is None:
            continue
        if (tensor.shape, tensor.dtype, tensor.device) != (shapes[name], like.dtype, like.device):
            raise RuntimeError(
                f"triton_{pass_}: {name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, but {problem} "
                f"needs {like.dtype} {shapes[name]} on {like.device}"
            )


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
