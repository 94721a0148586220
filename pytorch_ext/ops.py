"""The three passes as plain functions of tensors, a problem and the name of a backend. No autograd here.

All backends have the same signature. Tensors are used as they are when they are dense in the layout that
``channels_last`` names, and copied into it otherwise; the result is dense in it. Shapes have to fit the problem:
:mod:`convbound.functional` has checked them for its callers.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convbound import _library, derivatives, fakes, vmap
from convbound.kernels import ops as triton_ops
from convbound.layout import to_layout
from convbound.problem import PASSES, ConvProblem, Pass

_NATIVE: dict[str, dict[str, Any]] = {}
for _name, _absent in _library.LOADED.items():
    if _absent is None:
        fakes.register(_name)
        vmap.register(_name)
        for _pass in PASSES:
            derivatives.register(_name, _pass)
        _NATIVE[_name] = {pass_: getattr(torch.ops.convbound, f"{_name}_{pass_}").default for pass_ in PASSES}
# The ops that are written in Python. torch's dispatcher takes about as long to get there as they take themselves, so
# where nobody could tell, they are called without it.
_IN_PYTHON: dict[str, dict[Pass, Any]] = {
    "triton": {"fprop": triton_ops.fprop, "dgrad": triton_ops.dgrad, "wgrad": triton_ops.wgrad}
}


class _TorchsOwn(threading.local):
    """A context in which torch's convolutions run on torch's kernels, though :mod:`convbound.routing` be on."""

    active = False

    def __enter__(self) -> None:
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False


torchs_own = _TorchsOwn()


def _torchs() -> AbstractContextManager[None]:
    # A graph that is compiled runs later, where this would have no effect.
    return nullcontext() if torch.compiler.is_compiling() else torchs_own


def _geometry(problem: ConvProblem) -> tuple[Any, ...]:
    """The arguments that all ops end with: stride, padding, dilation, groups."""
    padding = [p for pair in problem.padding for p in pair]
    return problem.stride, padding, problem.dilation, problem.groups


def is_recorded(*tensors: Tensor) -> bool:
    """Whether somebody sees, records or transforms the ops that are called with these tensors."""
    for tensor in tensors:  # no generator, which costs more than the rest of it
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return True
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def _is_seen(*tensors: Tensor) -> bool:
    """Whether anybody could tell that an op was called: a profiler, too, and what overrides torch's functions."""
    return is_recorded(*tensors) or torch._C._len_torch_function_stack() > 0 or torch._C._autograd._profiler_enabled()


def _run(backend: str, pass_: Pass, problem: ConvProblem, *args: Any) -> Any:
    """Call an op; where memory does not suffice, say for what."""
    op = _NATIVE[backend][pass_]
    if backend in _IN_PYTHON and not _is_seen(*args[:2]):
        op = _IN_PYTHON[backend][pass_]
    try:
        with derivatives.below_autograd():
            return op(*args)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(f"{error}, for {pass_} of {problem}, backend={backend!r}") from error


def fprop(
    x: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, *, backend: str, channels_last: bool
) -> Tensor:
    """The convolution of x ``(n, c, *input)`` with w ``(k, c // groups, *filter)``: y ``(n, k, *output)``."""
    if backend == "torch":
        with _torchs():
            return _torch_fprop(_regular(x), _regular(w), bias, problem, channels_last)
    result: Tensor = _run(backend, "fprop", problem, x, w, bias, *_geometry(problem), channels_last)
    return result


def dgrad(
    dy: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, *, backend: str, channels_last: bool
) -> Tensor:
    """The gradient of the input, dx ``(n, c, *input)``; with bias ``(c,)``, a transposed convolution's forward."""
    if backend == "torch":
        with _torchs():
            return _torch_dgrad(_regular(dy), _regular(w), bias, problem, channels_last)
    result: Tensor = _run(backend, "dgrad", problem, dy, w, bias, problem.input, *_geometry(problem), channels_last)
    return result


def wgrad(
    dy: Tensor, x: Tensor, problem: ConvProblem, *, bias_grad: bool, backend: str, channels_last: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the filter, dw ``(k, c // groups, *filter)``, and if asked of the bias, dbias ``(k,)``."""
    if backend == "torch":
        with _torchs():
            return _torch_wgrad(_regular(dy), _regular(x), problem, bias_grad, channels_last)
    geometry = _geometry(problem)
    dw, dbias = _run(backend, "wgrad", problem, dy, x, problem.filter, *geometry, bias_grad, channels_last)
    return dw, dbias if bias_grad else None


def _regular(tensor: Tensor) -> Tensor:
    """The same memory without the odd strides that a size of 1 may have: some of torch's kernels err on them."""
    if 1 not in tensor.shape:
        return tensor
    if tensor.is_contiguous():
        return tensor.view(-1).view(tensor.shape)
    last = tensor.movedim(1, -1)
    return last.view(-1).view(last.shape).movedim(-1, 1) if last.is_contiguous() else tensor


def _begin_padding(problem: ConvProblem) -> tuple[int, ...]:
    return tuple(begin for begin, _ in problem.padding)


def _symmetric(problem: ConvProblem) -> bool:
    return all(begin == end for begin, end in problem.padding)


def _pad(x: Tensor, problem: ConvProblem) -> Tensor:
    """The input with its zeros written out, for what ATen cannot pad itself."""
    amounts = [p for pair in reversed(problem.padding) for p in pair]
    if min(amounts) < 0:  # zeros first: more may be cropped than the image has
        x, amounts = F.pad(x, [max(p, 0) for p in amounts]), [min(p, 0) for p in amounts]
    return F.pad(x, amounts)


def _torch_fprop(x: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, channels_last: bool) -> Tensor:
    padding = _begin_padding(problem)
    if not _symmetric(problem):
        x, padding = _pad(x, problem), (0,) * problem.ndim
    no_output_padding = (0,) * problem.ndim
    y = torch.convolution(
        x, w, bias, problem.stride, padding, problem.dilation, False, no_output_padding, problem.groups
    )
    return to_layout(y, channels_last)


def _torch_dgrad(dy: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, channels_last: bool) -> Tensor:
    # As a transposed convolution: it needs no input tensor, and on a CPU it is at times several times faster than
    # ATen's convolution_backward (depthwise 3x3 at 8x144x56x56, NCHW: 4.6 ms against 37).
    pads = [max(0, min(pair)) for pair in problem.padding]  # what ATen crops, alike at both ends
    starts = [begin - pad for (begin, _), pad in zip(problem.padding, pads, strict=True)]  # what is cropped here
    output_padding = [
        max(0, start + i - ((o - 1) * s - 2 * pad + d * (r - 1) + 1))
        for start, i, o, s, pad, d, r in zip(
            starts, problem.input, problem.output, problem.stride, pads, problem.dilation, problem.filter, strict=True
        )
    ]
    # ATen takes no more output_padding than this; where a negative padding crops more, there is no gradient but bias.
    allowed = [min(o, max(s, d) - 1) for o, s, d in zip(output_padding, problem.stride, problem.dilation, strict=True)]
    missing = [o - a for o, a in zip(output_padding, allowed, strict=True)]
    late_bias = bias if any(missing) else None
    bias = None if any(missing) else bias
    dx = torch.convolution(dy, w, bias, problem.stride, pads, problem.dilation, True, allowed, problem.groups)
    if any(missing):
        dx = F.pad(dx, [p for end in reversed(missing) for p in (0, end)])
    for axis, (start, size) in enumerate(zip(starts, problem.input, strict=True), start=2):
        dx = dx.narrow(axis, start, size)
    if late_bias is not None:
        dx = dx + late_bias.reshape([-1] + [1] * problem.ndim)
    return to_layout(dx, channels_last)


def _torch_wgrad(
    dy: Tensor, x: Tensor, problem: ConvProblem, bias_grad: bool, channels_last: bool
) -> tuple[Tensor, Tensor | None]:
    padding = _begin_padding(problem)
    if not _symmetric(problem):
        x, padding = _pad(x, problem), (0,) * problem.ndim
    w = dy.new_empty(problem.w_shape)  # only its shape is used
    mask = (False, True, bias_grad)
    none = (0,) * problem.ndim
    _, dw, dbias = torch.ops.aten.convolution_backward(
        dy, x, w, [problem.k], problem.stride, padding, problem.dilation, False, none, problem.groups, mask
    )
    return to_layout(dw, channels_last), dbias if bias_grad else None
