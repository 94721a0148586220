"""``auto`` as a contender: each pass as a model gets it from ``backend="auto"``, with all that its calls cost the host.

The forward is the whole call of the public function. A gradient is what the backward of that call runs: by the plan
that the forward made, or torch's own backward where torch has the whole layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import convbound
from convbound import autograd
from convbound.bench.rivals import TORCH, Run, output_padding_of, rival_kernel, rival_run
from convbound.bench.tables import Layer
from convbound.choice import Choice, choose
from convbound.layout import results_are_channels_last
from convbound.problem import PASSES, Layout, Pass
from convbound.serving import serving_kernel

AUTO = "auto"


def auto_run(layer: Layer, pass_: Pass, tensors: Sequence[Tensor]) -> Run:
    """A pass of a layer with x, w and dy like `tensors`."""
    problem = layer.problem
    forward: Pass = "dgrad" if layer.transposed else "fprop"
    # Uneven padding is no argument of torch's functions: there the pass alone is timed.
    if pass_ == forward and all(begin == end for begin, end in problem.padding):
        return forward_call(layer, AUTO)
    choices = _choices(layer, tensors)
    if all(choice.backend == TORCH and not choice.untried for choice in choices.values()):
        return rival_run(TORCH, layer, pass_)
    fprop, dgrad, wgrad = (choices[one].backend for one in PASSES)
    untried = frozenset(one for one in PASSES if choices[one].untried)
    plan = autograd.Plan(fprop, dgrad, wgrad, _layout(layer, tensors) == "NHWC", untried)
    if pass_ == "fprop":
        return lambda x, w, dy: autograd.fprop(x, w, None, problem, plan)
    if pass_ == "dgrad":
        return lambda x, w, dy: autograd.dgrad(dy, w, None, problem, plan)
    return lambda x, w, dy: autograd.wgrad(dy, x, False, problem, plan)[0]


def auto_kernel(layer: Layer, pass_: Pass, tensors: Sequence[Tensor]) -> str:
    """What ``auto`` takes by now, as ``auto: cpu depthwise_fprop``."""
    backend = _choices(layer, tensors)[pass_].backend
    if backend == TORCH:
        name = rival_kernel(TORCH, layer, *tensors)
    else:
        name = serving_kernel(layer.problem, pass_, tensors[0].dtype, _layout(layer, tensors), backend).name
    return f"{AUTO}: {backend} {name}".rstrip()


def _choices(layer: Layer, tensors: Sequence[Tensor]) -> dict[Pass, Choice]:
    x = tensors[0]
    layout = _layout(layer, tensors)
    return {one: choose(layer.problem, one, x.dtype, layout, x.device) for one in PASSES}


def _layout(layer: Layer, tensors: Sequence[Tensor]) -> Layout:
    """The layout of all results, which is torch's choice: in 1-D the input's counts for nothing."""
    x, w, dy = tensors
    problem = layer.problem
    geometry = (problem.stride, output_padding_of(problem)) if layer.transposed else ()
    last = results_are_channels_last(dy if layer.transposed else x, w, problem.groups, *geometry)
    return "NHWC" if last else "NCHW"


def forward_call(layer: Layer, backend: str) -> Run:
    """The whole call of the public function that is the layer's forward; torch's own for ``torch``."""
    if backend == TORCH:
        return rival_run(TORCH, layer, "dgrad" if layer.transposed else "fprop")
    problem = layer.problem
    sizes = problem.stride, tuple(begin for begin, _ in problem.padding)
    if layer.transposed:
        transpose = getattr(convbound, f"conv_transpose{problem.ndim}d")
        rest = (*sizes, tuple(output_padding_of(problem)), problem.groups, problem.dilation)
        return lambda x, w, dy: transpose(dy, w, None, *rest, backend=backend)
    conv = getattr(convbound, f"conv{problem.ndim}d")
    arguments = (*sizes, problem.dilation, problem.groups)
    return lambda x, w, dy: conv(x, w, None, *arguments, backend=backend)
