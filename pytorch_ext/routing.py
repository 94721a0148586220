"""Every convolution of torch on our kernels, whoever calls it: recorded graphs, models as they are, torch.func.

Two kernels of torch's dispatcher, aten::convolution and aten::convolution_backward, are overridden below autograd, by
torch.library alone. So all derivatives stay torch's: each of them comes down to these two. A call goes where ``auto``
sends it, pass by pass; what ``auto`` leaves to torch, and what it does not know, goes to the kernel that was there. The
backward is told which gradients are wanted, and computes no others.

Off until it is asked for, and then on for the whole process: a backward runs in threads of torch's own. Do not switch
it while another thread convolves.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convbound import autograd, functional, ops
from convbound.autograd import Plan
from convbound.problem import ConvProblem, Pass

_lock = threading.Lock()
_users = 0
_library: Any = None


@contextmanager
def routed() -> Iterator[None]:
    """torch's convolutions run on our kernels inside, in every thread."""
    enable()
    try:
        yield
    finally:
        disable()


def enable() -> None:
    """Route torch's convolutions until `disable` has been called as often."""
    global _library, _users
    with _lock:
        if _library is None:
            _library = _install()
        _users += 1


def disable() -> None:
    """Undo one `enable`."""
    global _library, _users
    with _lock:
        if not _users:
            raise RuntimeError("routing.disable: torch's convolutions are not routed")
        _users -= 1
        if not _users:
            _library = None  # torch takes its kernels back when it is gone


def _install() -> Any:
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    kernels: dict[str, Callable[..., Any]] = {"convolution": _convolution, "convolution_backward": _backward}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning only once|.*[Oo]verrid", category=UserWarning)
        for key in ("CPU", *(("CUDA",) if torch.version.cuda else ())):
            for name, kernel in kernels.items():
                original = torch.library.get_kernel(f"aten::{name}", key)
                library.impl(name, partial(kernel, original), key, with_keyset=True)
    return library


def _found(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> tuple[ConvProblem, Plan] | None:
    """The problem, and where ``auto`` sends its passes; None where torch has them all."""
    ndim = x.dim() - 2
    if (
        ops.torchs_own.active
        or not 1 <= ndim <= 3
        or w.dim() != x.dim()
        or functional.unfit(x, w, bias)
        or any(tensor is not None and (tensor.dtype, tensor.device) != (x.dtype, x.device) for tensor in (w, bias))
        or not x.numel()
        or not w.numel()
    ):
        return None
    arguments: tuple[Any, ...]
    if transposed:
        arguments = (tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation))
    else:
        arguments = (tuple(stride), tuple(padding), tuple(dilation), groups)
    name = f"conv{'_transpose' if transposed else ''}{ndim}d"
    found = functional.plan(name, x, w, arguments)
    return found if found is not None and functional.takes_bias(name, bias, found[0], "auto") else None


def _convolution(original: Any, keyset: Any, x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Any:
    found = _found(x, w, bias, *geometry)
    if found is not None:
        transposed = geometry[3]
        problem, plan = found
        pass_: Pass = "dgrad" if transposed else "fprop"
        if not plan.is_torchs(pass_):
            return autograd.run(pass_, x, w, bias, problem, plan)
    return original.call_boxed(keyset, x, w, bias, *geometry)


def _backward(
    original: Any, keyset: Any, dy: Tensor, x: Tensor, w: Tensor, bias_sizes: Any, *arguments: Any
) -> tuple[Tensor | None, ...]:
    *geometry, mask = arguments
    transposed = geometry[3]
    found = _found(x, w, None, *geometry)
    gradients: list[Tensor | None] = [None, None, None]
    left = list(mask)  # for torch
    if found is not None and dy.dtype == x.dtype:
        problem, plan = found
        of_input: Pass = "fprop" if transposed else "dgrad"
        if mask[0] and not plan.is_torchs(of_input):
            gradients[0] = autograd.run(of_input, dy, w, None, problem, plan)
            left[0] = False
        if mask[1] and not plan.is_torchs("wgrad"):
            first, second, bias_grad = (x, dy, False) if transposed else (dy, x, mask[2])
            gradients[1:] = autograd.run("wgrad", first, second, bias_grad, problem, plan)
            left[1] = False
            left[2] = mask[2] and transposed
        if left == [False, False, True]:
            gradients[2] = dy.sum([axis for axis in range(dy.dim()) if axis != 1])
            left[2] = False
    if any(left):
        torchs = original.call_boxed(keyset, dy, x, w, bias_sizes, *geometry, left)
        gradients = [theirs if wanted else ours for ours, theirs, wanted in zip(gradients, torchs, left, strict=True)]
    return tuple(gradients)
