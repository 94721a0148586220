"""Cases: one pass of one layer in one dtype, its tensors, and every call that competes in it.

The rivals are what torch runs for that layer: ``F.convNd`` and ``aten.convolution_backward`` with the output mask of
the one gradient, or, for a transposed layer, ``F.conv_transposeNd`` and its backward. All tensors are dense in the
layout under test, weights included, so nobody pays for a layout copy that it did not choose itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from convbound import ops
from convbound.bench.tables import Layer
from convbound.problem import DTYPE_NAMES, LAYOUTS, ConvProblem, Layout, Pass

TORCH = "torch"
_SEED = 20240229
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
# aten.convolution_backward returns the gradients of input, weight and bias; each pass asks for one of them.
_INPUT_GRADIENT, _WEIGHT_GRADIENT = (0, [True, False, False]), (1, [False, True, False])
_ROLES: dict[bool, dict[Pass, str]] = {
    False: {"fprop": "forward", "dgrad": "input gradient", "wgrad": "weight gradient"},
    True: {"fprop": "input gradient", "dgrad": "forward", "wgrad": "weight gradient"},
}


@dataclass(frozen=True)
class Tensors:
    """Input, weight and output gradient of a problem; two of them feed each pass."""

    x: torch.Tensor
    w: torch.Tensor
    dy: torch.Tensor

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
        """All three, changed alike."""
        return Tensors(change(self.x), change(self.w), change(self.dy))

    def dense(self, layout: Layout) -> Tensors:
        """All three, dense in a layout."""
        return self.map(lambda tensor: dense(tensor, layout))


@dataclass(frozen=True)
class Contender:
    """One backend in one layout, ready to be called."""

    backend: str
    layout: Layout
    call: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One pass of one layer in one dtype."""

    layer: Layer
    pass_: Pass
    dtype: torch.dtype

    @property
    def problem(self) -> ConvProblem:
        """The layer's problem; of the convolution that it transposes, for a transposed layer."""
        return self.layer.problem

    @property
    def key(self) -> tuple[Any, ...]:
        """What is measured: cases with equal keys are the same work under two names."""
        return (self.problem, self.layer.transposed, self.pass_, self.dtype)

    @property
    def role(self) -> str:
        """What the pass is to the layer: a transposed layer's forward is the dgrad of its problem."""
        return _ROLES[self.layer.transposed][self.pass_]

    @property
    def family(self) -> str:
        """The family by problem and pass: every strided dgrad is transposed, and so is a transposed layer."""
        strided_dgrad = self.pass_ == "dgrad" and max(self.problem.stride) > 1
        return "transposed" if strided_dgrad or self.layer.transposed else self.problem.family

    def __str__(self) -> str:
        return f"{self.layer.model}:{self.layer.name} {self.pass_} {DTYPE_NAMES[self.dtype]}"


def dense(tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The tensor, dense in a layout, in any number of dimensions."""
    if layout == "NCHW":
        return tensor.contiguous()
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def random_tensors(problem: ConvProblem, dtype: torch.dtype) -> Tensors:
    """Standard normal data, the same in each run, in NCHW."""
    generator = torch.Generator().manual_seed(_SEED)
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    return Tensors(*(torch.randn(shape, generator=generator).to(dtype) for shape in shapes))


def contenders(case: Case, tensors: Tensors, backends: list[str], layouts: list[Layout]) -> list[Contender]:
    """Our backends in the chosen layouts, and torch in both, for its better layout is the bar."""
    by_layout = {layout: tensors.dense(layout) for layout in LAYOUTS}
    ours = [
        Contender(backend, layout, ours_call(case, by_layout[layout], backend, layout))
        for layout in layouts
        for backend in backends
    ]
    return [*ours, *(Contender(TORCH, layout, torch_call(case, by_layout[layout])) for layout in LAYOUTS)]


def ours_call(case: Case, tensors: Tensors, backend: str, layout: Layout) -> Callable[[], torch.Tensor]:
    """The pass through ``convbound.ops``, as autograd runs it."""
    x, w, dy, problem = tensors.x, tensors.w, tensors.dy, case.problem
    where: dict[str, Any] = {"backend": backend, "channels_last": layout == "NHWC"}
    if case.pass_ == "fprop":
        return lambda: ops.fprop(x, w, None, problem, **where)
    if case.pass_ == "dgrad":
        return lambda: ops.dgrad(dy, w, None, problem, **where)
    return lambda: ops.wgrad(dy, x, problem, bias_grad=False, **where)[0]


def torch_call(case: Case, tensors: Tensors) -> Callable[[], torch.Tensor]:
    """The pass as torch runs it for the layer."""
    if case.layer.transposed:
        return _torch_transposed(case.problem, case.pass_, tensors)
    return torch_convolution(case.problem, case.pass_, tensors)


def torch_convolution(problem: ConvProblem, pass_: Pass, tensors: Tensors) -> Callable[[], torch.Tensor]:
    """One pass of a plain convolution in torch; uneven padding costs torch a padded copy and a crop, as in a model."""
    x, w, dy = tensors.x, tensors.w, tensors.dy
    even = all(begin == end for begin, end in problem.padding)
    padding = [begin if even else 0 for begin, _ in problem.padding]
    pads = [size for pair in reversed(problem.padding) for size in pair]
    settings = (list(problem.stride), padding, list(problem.dilation))

    def padded() -> torch.Tensor:
        return x if even else F.pad(x, pads)

    def gradient(which: tuple[int, list[bool]]) -> torch.Tensor:
        index, mask = which
        zeros = [0] * problem.ndim
        backward = torch.ops.aten.convolution_backward
        gradients: list[torch.Tensor] = backward(dy, padded(), w, None, *settings, False, zeros, problem.groups, mask)
        return gradients[index]

    def input_gradient() -> torch.Tensor:
        dx = gradient(_INPUT_GRADIENT)
        return dx if even else F.pad(dx, [-size for size in pads])

    if pass_ == "fprop":
        return lambda: _CONV[problem.ndim](padded(), w, None, *settings, problem.groups)
    return input_gradient if pass_ == "dgrad" else partial(gradient, _WEIGHT_GRADIENT)


def _torch_transposed(problem: ConvProblem, pass_: Pass, tensors: Tensors) -> Callable[[], torch.Tensor]:
    """One pass of a transposed layer: its input is the problem's dy, its output gradient the problem's x."""
    grad_out, w, source = tensors.x, tensors.w, tensors.dy
    if any(begin != end for begin, end in problem.padding):
        raise ValueError(f"padding={problem.padding}: torch's transposed convolutions pad both ends alike")
    stride, dilation = list(problem.stride), list(problem.dilation)
    padding = [begin for begin, _ in problem.padding]
    output_padding = [
        size - ((out - 1) * s - 2 * p + d * (f - 1) + 1)
        for size, out, s, p, d, f in zip(
            problem.input, problem.output, stride, padding, dilation, problem.filter, strict=True
        )
    ]

    def gradient(which: tuple[int, list[bool]]) -> torch.Tensor:
        index, mask = which
        settings = (stride, padding, dilation, True, output_padding, problem.groups)
        gradients: list[torch.Tensor] = torch.ops.aten.convolution_backward(grad_out, source, w, None, *settings, mask)
        return gradients[index]

    if pass_ == "dgrad":
        conv_transpose = _CONV_TRANSPOSE[problem.ndim]
        return lambda: conv_transpose(source, w, None, stride, padding, output_padding, problem.groups, dilation)
    return partial(gradient, _INPUT_GRADIENT if pass_ == "fprop" else _WEIGHT_GRADIENT)
