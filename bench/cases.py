"""Cases: one pass of one layer in one dtype, its tensors, and everything that competes in it.

The rivals (:mod:`convbound.bench.rivals`) are what torch runs for that layer. All tensors are dense in the layout under
test, weights included, so nobody pays for a layout copy that it did not choose itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from convbound import ops
from convbound.bench.auto import AUTO, auto_kernel, auto_run
from convbound.bench.rivals import TORCH, Run, rival_kernel, rival_run
from convbound.bench.tables import Layer
from convbound.problem import DTYPE_NAMES, LAYOUTS, ConvProblem, Layout, Pass
from convbound.serving import serving_kernel

_SEED = 20240229
_ROLES: dict[bool, dict[Pass, str]] = {
    False: {"fprop": "forward", "dgrad": "input gradient", "wgrad": "weight gradient"},
    True: {"fprop": "input gradient", "dgrad": "forward", "wgrad": "weight gradient"},
}


class Tensors(NamedTuple):
    """Input, weight and output gradient of a problem; two of them feed each pass."""

    x: torch.Tensor
    w: torch.Tensor
    dy: torch.Tensor

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
        """All three, changed alike."""
        return Tensors(*map(change, self))

    def dense(self, layout: Layout) -> Tensors:
        """All three, dense in a layout."""
        return self.map(lambda tensor: dense(tensor, layout))


@dataclass(frozen=True)
class Contender:
    """One backend in one layout.

    Parameters
    ----------
    backend, layout
        Who competes, and the layout of its tensors.
    kernel
        Tells what serves it there, as far as it is known: a row of a registry of ours, or a backend of torch's. Asked
        behind the calls, for where ``auto`` measures at first use, it knows its choice only then.
    run
        The pass as a function of x, w and dy.
    tensors
        Its operands; contenders of one layout share them, and copies for :meth:`calls` with them.
    """

    backend: str
    layout: Layout
    kernel: Callable[[], str]
    run: Run
    tensors: list[Tensors]

    def call(self) -> torch.Tensor:
        """One call."""
        return self.run(*self.tensors[0])

    def calls(self, count: int) -> list[Callable[[], torch.Tensor]]:
        """The same work `count` times over, each time on operands in other memory, which no cache holds."""
        while len(self.tensors) < count:
            self.tensors.append(self.tensors[0].map(torch.clone))
        return [partial(self.run, *tensors) for tensors in self.tensors[:count]]


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


def random_tensors(problem: ConvProblem, dtype: torch.dtype, place: torch.device | str = "cpu") -> Tensors:
    """Standard normal data, the same in each run on a device, in NCHW."""
    generator = torch.Generator(place).manual_seed(_SEED)
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    return Tensors(*(torch.randn(shape, generator=generator, device=place).to(dtype) for shape in shapes))


def contenders(
    case: Case, tensors: Tensors, backends: Sequence[str], layouts: Sequence[Layout], rivals: Sequence[str] = (TORCH,)
) -> list[Contender]:
    """Our backends in the chosen layouts, and torch's in both, for its better layout is the bar."""
    by_layout = {layout: [tensors.dense(layout)] for layout in LAYOUTS}
    ours = [
        Contender(
            backend,
            layout,
            *_ours(case, backend, layout, by_layout[layout][0]),
            by_layout[layout],
        )
        for layout in layouts
        for backend in backends
    ]
    theirs = [
        Contender(
            rival,
            layout,
            partial(rival_kernel, rival, case.layer, *by_layout[layout][0]),
            rival_run(rival, case.layer, case.pass_),
            by_layout[layout],
        )
        for rival in rivals
        for layout in LAYOUTS
    ]
    return [*ours, *theirs]


def _ours(case: Case, backend: str, layout: Layout, tensors: Tensors) -> tuple[Callable[[], str], Run]:
    """The name of the kernel and the pass of a backend of ours, or of what ``auto`` makes of them."""
    if backend == AUTO:
        what = (case.layer, case.pass_, tensors)
        return partial(auto_kernel, *what), auto_run(*what)
    name = serving_kernel(case.problem, case.pass_, case.dtype, layout, backend).name
    return lambda: name, ours_run(case, backend, layout)


def ours_run(case: Case, backend: str, layout: Layout) -> Run:
    """The pass through ``convbound.ops``, as autograd runs it."""
    problem = case.problem
    where: dict[str, Any] = {"backend": backend, "channels_last": layout == "NHWC"}
    if case.pass_ == "fprop":
        return lambda x, w, dy: ops.fprop(x, w, None, problem, **where)
    if case.pass_ == "dgrad":
        return lambda x, w, dy: ops.dgrad(dy, w, None, problem, **where)
    return lambda x, w, dy: ops.wgrad(dy, x, problem, bias_grad=False, **where)[0]
