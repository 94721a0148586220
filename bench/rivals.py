"""The rivals: what torch runs for a layer, and the ways in which it may run it.

A plain layer is ``F.convNd`` and ``aten.convolution_backward`` with the output mask of the one gradient; a transposed
one is ``F.conv_transposeNd`` and its backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from convbound.bench.tables import Layer
from convbound.problem import ConvProblem, Pass

# torch as it chooses itself (oneDNN on a CPU; cuDNN or its own kernels on a GPU), torch kept from cuDNN, and Inductor.
TORCH, NATIVE, INDUCTOR = "torch", "torch-native", "torch-inductor"
RIVALS = (TORCH, NATIVE, INDUCTOR)

# A pass as a function of x, w and dy; each pass reads two of them.
Run = Callable[[Tensor, Tensor, Tensor], Tensor]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
# aten.convolution_backward returns the gradients of input, weight and bias; each pass asks for one of them.
_INPUT, _WEIGHT = 0, 1


def usual_rivals(device: str) -> tuple[str, ...]:
    """How torch competes on a device, unless more is asked for."""
    return (TORCH, NATIVE) if device == "cuda" else (TORCH,)


def rival_run(rival: str, layer: Layer, pass_: Pass) -> Run:
    """A pass of a layer as a rival runs it."""
    run = (transposed_convolution if layer.transposed else torch_convolution)(layer.problem, pass_)
    if rival == NATIVE:
        return _without_cudnn(run)
    if rival == INDUCTOR:
        # Without a reset, dynamo would refuse the ninth layer: to it, all of them are one function.
        torch.compiler.reset()
        return torch.compile(run, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")
    return run


def rival_kernel(rival: str, layer: Layer, x: Tensor, w: Tensor, dy: Tensor) -> str:
    """Which of its backends torch chooses for a layer, such as ``Cudnn`` or ``CudaDepthwise2d``; empty if unknown."""
    if rival == INDUCTOR:
        return ""
    problem, transposed = layer.problem, layer.transposed
    padding = [begin for begin, _ in problem.padding]
    output_padding = output_padding_of(problem) if transposed else [0] * problem.ndim
    geometry = ([*problem.stride], padding, [*problem.dilation], transposed, output_padding, problem.groups, None)
    try:
        with cudnn(enabled=rival != NATIVE and torch.backends.cudnn.enabled):
            found = torch._C._select_conv_backend(dy if transposed else x, w, None, *geometry)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError, TypeError):  # no public function, so it may be gone
        return ""
    name = str(found).rpartition(".")[2]
    return name if name.isidentifier() else ""  # a few of them have no name in Python


def torch_convolution(problem: ConvProblem, pass_: Pass) -> Run:
    """One pass of a plain convolution in torch; uneven padding costs torch a padded copy and a crop, as in a model."""
    even = all(begin == end for begin, end in problem.padding)
    padding = [begin if even else 0 for begin, _ in problem.padding]
    pads = [size for pair in reversed(problem.padding) for size in pair]
    stride, dilation, groups = [*problem.stride], [*problem.dilation], problem.groups
    backward, zeros = torch.ops.aten.convolution_backward, [0] * problem.ndim
    conv = _CONV[problem.ndim]

    def gradient(x: Tensor, w: Tensor, dy: Tensor, which: int) -> Tensor:
        mask = [which == _INPUT, which == _WEIGHT, False]
        gradients: list[Tensor] = backward(dy, x, w, None, stride, padding, dilation, False, zeros, groups, mask)
        return gradients[which]

    def fprop(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        return conv(x if even else F.pad(x, pads), w, None, stride, padding, dilation, groups)

    def dgrad(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        dx = gradient(x if even else F.pad(x, pads), w, dy, _INPUT)
        return dx if even else F.pad(dx, [-size for size in pads])

    def wgrad(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        return gradient(x if even else F.pad(x, pads), w, dy, _WEIGHT)

    return {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}[pass_]


def transposed_convolution(problem: ConvProblem, pass_: Pass) -> Run:
    """One pass of a transposed layer: its input is the problem's dy, its output gradient the problem's x."""
    if any(begin != end for begin, end in problem.padding):
        raise ValueError(f"padding={problem.padding}: torch's transposed convolutions pad both ends alike")
    stride, dilation, groups = [*problem.stride], [*problem.dilation], problem.groups
    padding = [begin for begin, _ in problem.padding]
    output_padding = output_padding_of(problem)
    backward, conv_transpose = torch.ops.aten.convolution_backward, _CONV_TRANSPOSE[problem.ndim]

    def gradient(x: Tensor, w: Tensor, dy: Tensor, which: int) -> Tensor:
        mask = [which == _INPUT, which == _WEIGHT, False]
        gradients: list[Tensor] = backward(
            x, dy, w, None, stride, padding, dilation, True, output_padding, groups, mask
        )
        return gradients[which]

    def fprop(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        return gradient(x, w, dy, _INPUT)

    def dgrad(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        return conv_transpose(dy, w, None, stride, padding, output_padding, groups, dilation)

    def wgrad(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        return gradient(x, w, dy, _WEIGHT)

    return {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}[pass_]


def output_padding_of(problem: ConvProblem) -> list[int]:
    """The output_padding by which the transposed convolution has the problem's input size."""
    p = problem
    axes = zip(p.input, p.output, p.stride, p.padding, p.dilation, p.filter, strict=True)
    return [size - ((out - 1) * s - begin - end + d * (f - 1) + 1) for size, out, s, (begin, end), d, f in axes]


def _without_cudnn(run: Run) -> Run:
    def native(x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        with cudnn(enabled=False):
            return run(x, w, dy)

    return native


@contextmanager
def cudnn(*, enabled: bool) -> Iterator[None]:
    """cuDNN allowed or not; ``torch.backends.cudnn.flags`` would set its other flags, too."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
