"""The convolutions of a forward pass, recorded as torch's dispatcher sees them, each with the module that ran it.

A ``TorchDispatchMode`` sees every operation that a model comes to, whoever wrote the call: modules, ``F.conv2d``,
convbound's own. All of torch's convolutions are ``aten::convolution`` there, ours are ``convbound::<backend>_<pass>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from convbound import functional
from convbound.layout import results_are_channels_last
from convbound.problem import ConvProblem, Layout


@dataclass(frozen=True)
class Reach:
    """What one position of a tensor has seen of the model's input, per axis: Araujo et al., Computing Receptive Fields
    of Convolutional Neural Networks, Distill 2019.

    `field` is the receptive field r in input positions, `jump` the distance j in the input between two neighbouring
    positions. Both are 1 at the input. A layer of filter f, dilation d and stride s changes them to

        r + d (f - 1) j  and  j s.

    A transposed layer of stride s gathers at most floor(d (f - 1) / s) + 1 positions, and

        r + floor(d (f - 1) / s) j  and  j / s

    follow. After an upsampling the jump may be a fraction.
    """

    field: tuple[Fraction, ...]
    jump: tuple[Fraction, ...]

    @classmethod
    def start(cls, ndim: int) -> Reach:
        """At the model's input."""
        return cls((Fraction(1),) * ndim, (Fraction(1),) * ndim)

    def through(self, steps: Sequence[int], scale: Sequence[Fraction | int]) -> Reach:
        """Behind a layer that gathers positions up to `steps` apart, and scales the jump."""
        field = tuple(r + n * j for r, n, j in zip(self.field, steps, self.jump, strict=True))
        return Reach(field, tuple(j * s for j, s in zip(self.jump, scale, strict=True)))

    def convolved(self, problem: ConvProblem, transposed: bool) -> Reach:
        """Behind a convolution, or behind the one that transposes the problem."""
        extents = [d * (f - 1) for d, f in zip(problem.dilation, problem.filter, strict=True)]
        if not transposed:
            return self.through(extents, problem.stride)
        gathered = [e // s for e, s in zip(extents, problem.stride, strict=True)]
        return self.through(gathered, [Fraction(1, s) for s in problem.stride])

    @classmethod
    def joined(cls, branches: Sequence[Reach]) -> Reach:
        """Where branches meet: per axis the largest field and the largest jump."""
        axes = max(len(branch.field) for branch in branches)
        chosen = [branch for branch in branches if len(branch.field) == axes]
        field = tuple(map(max, zip(*(branch.field for branch in chosen), strict=True)))
        return cls(field, tuple(map(max, zip(*(branch.jump for branch in chosen), strict=True))))


@dataclass(frozen=True)
class Convolution:
    """One convolution of a model: what a module ran `count` times.

    `problem` is the convolution that is transposed where `transposed` is true. `backend` is the one that ran it, and
    `weights` are the model's parameters that it holds.
    """

    module: str
    problem: ConvProblem
    transposed: bool
    dtype: torch.dtype
    layout: Layout
    device: torch.device
    backend: str
    reach: Reach
    weights: tuple[nn.Parameter, ...] = field(default=(), compare=False)
    count: int = 1

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for the calls that make up one row."""
        return (self.module, self.problem, self.transposed, self.dtype, self.layout, self.device, self.backend)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the convolutions that run inside of it; ``convolutions`` has them in the order of their first calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {id(module): name for name, module in model.named_modules()}
        self._parameters = {id(parameter): parameter for parameter in model.parameters()}
        self._running: list[nn.Module] = []
        self._reaches = WeakTensorKeyDictionary()
        self._found: dict[tuple[Any, ...], Convolution] = {}

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """What was recorded so far."""
        return tuple(self._found.values())

    def begin_at(self, inputs: Any) -> None:
        """Receptive fields begin at these tensors ``(N, C, *sizes)``."""
        for tensor in tree_leaves(inputs):
            if isinstance(tensor, Tensor) and tensor.dim() > 2:
                self._reaches[tensor] = Reach.start(tensor.dim() - 2)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record, and follow which module runs."""

        def enter(module: nn.Module, *_: Any) -> None:
            if id(module) in self._names:
                self._running.append(module)

        def leave(module: nn.Module, *_: Any) -> None:
            if id(module) in self._names:
                self._running.pop()

        hooks = (
            modules.register_module_forward_pre_hook(enter),
            modules.register_module_forward_hook(leave, always_call=True),
        )
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            # There conv2d itself comes here, and not yet what it is made of.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [self._reaches[tensor] for tensor in tensors if tensor in self._reaches]
        found = _convolution(func, args)
        if found is not None:
            reach: Reach | None = self._note(found, args[1:3], known)
        else:
            reach = _passed_on(func, args, result, Reach.joined(known)) if known else None
        if reach is not None:
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._reaches[tensor] = reach
        return result

    def _note(self, found: Convolution, operands: Iterable[Tensor | None], known: list[Reach]) -> Reach:
        ndim = found.problem.ndim
        reach = Reach.joined(known) if known else Reach.start(ndim)
        if len(reach.field) != ndim:
            # Images that were made a sequence, say. Which axis became which is unknown: it begins anew.
            reach = Reach.start(ndim)
        reach = reach.convolved(found.problem, found.transposed)
        running = self._running[-1] if self._running else None
        # A layer's own parameters may be more than its weight: those of weight_norm, for one.
        held = list(running.parameters()) if isinstance(running, _ConvNd) else []
        for tensor in operands:
            for one in () if tensor is None else (tensor, tensor._base):
                if id(one) in self._parameters:
                    held.append(self._parameters[id(one)])
        name = self._names[id(running)] if running is not None else ""
        noted = replace(found, module=name, reach=reach)
        before = self._found.get(noted.key)
        if before is not None:
            noted = replace(before, count=before.count + 1, reach=Reach.joined([before.reach, reach]))
            held += before.weights
        weights = tuple({id(parameter): parameter for parameter in held}.values())
        self._found[noted.key] = replace(noted, weights=weights)
        return reach


def record(model: nn.Module, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> tuple[Convolution, ...]:
    """The convolutions of one forward pass, as the model stands; :func:`unchanged` leaves no trace of it."""
    recorder = Recorder(model)
    recorder.begin_at((args, kwargs))
    with recorder.watching():
        model(*args, **(kwargs or {}))
    return recorder.convolutions


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients; afterwards modes, buffers and random numbers are as before."""
    training = [(module, module.training) for module in model.modules()]
    buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    values = [None if buffer is None else buffer.clone() for _, _, buffer in buffers]
    gpus = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, mode in training:
                module.training = mode
            for (module, name, buffer), value in zip(buffers, values, strict=True):
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    buffer.copy_(value)


def _convolution(func: Any, args: Any) -> Convolution | None:
    """What a call of the dispatcher convolves; module, reach and weights are not known here."""
    space, _, name = func._schema.name.partition("::")
    problem: ConvProblem | None
    if func is torch.ops.aten.convolution.default:
        x, w, _, stride, padding, dilation, transposed, output_padding, groups = args
        pieces = (
            (stride, padding, output_padding, groups, dilation) if transposed else (stride, padding, dilation, groups)
        )
        arguments = tuple(tuple(piece) if isinstance(piece, Sequence) else piece for piece in pieces)
        called = f"conv{'_transpose' if transposed else ''}{x.dim() - 2}d"
        problem = functional.problem_of(called, tuple(x.shape), tuple(w.shape), arguments)
        last = results_are_channels_last(x, w, groups, *((stride, output_padding) if transposed else ()))
        backend = "torch"
    elif space == "convbound" and name.endswith(("_fprop", "_dgrad")):
        backend, _, pass_ = name.rpartition("_")
        transposed = pass_ == "dgrad"
        x, w, _, *sizes, stride, padding, dilation, groups, last = args
        input = tuple(sizes[0]) if transposed else tuple(x.shape[2:])
        c, k = (w.shape[1] * groups, x.shape[1]) if transposed else (x.shape[1], w.shape[0])
        pairs = tuple(zip(padding[::2], padding[1::2], strict=True))
        problem = ConvProblem(
            x.shape[0], c, k, input, tuple(w.shape[2:]), tuple(stride), pairs, tuple(dilation), groups
        )
    else:
        return None
    if problem is None:  # an empty result, which takes no work
        return None
    layout: Layout = "NHWC" if last else "NCHW"
    return Convolution("", problem, transposed, x.dtype, layout, x.device, backend, Reach.start(problem.ndim))


# How many neighbours an interpolation weighs along each axis, less one, by the end of the operation's name.
_INTERPOLATIONS = {"nearest": 0, "exact": 0, "linear": 1, "bilinear": 1, "trilinear": 1, "bicubic": 3}


def _passed_on(func: Any, args: Any, result: Any, reach: Reach) -> Reach:
    """The reach behind an operation that is no convolution: pooling and resampling change it, others do not."""
    name = func._schema.name.partition("::")[2]
    ndim = len(reach.field)
    if name.startswith(("max_pool", "avg_pool")):
        axes = int(name[8])
        if axes < ndim:  # of images that a video was taken apart into, say: the next convolution begins anew
            return reach
        # In one dimension torch pools rows of height 1.
        filter = _per_axis(args[1], axes)[-ndim:]
        stride = _per_axis(args[2], axes)[-ndim:] if len(args) > 2 and args[2] else filter
        dilation = _per_axis(args[4], axes)[-ndim:] if name.startswith("max") and len(args) > 4 else [1] * ndim
        return reach.through([d * (f - 1) for d, f in zip(dilation, filter, strict=True)], stride)
    kind = name.strip("_").split("_")
    resampled = (kind[0] == "upsample" or name == "pixel_shuffle") and args[0].dim() == ndim + 2
    if resampled:
        kernel = next((taps for end, taps in _INTERPOLATIONS.items() if kind[1].rstrip("123d") == end), 0)
        scale = [Fraction(i, o) for i, o in zip(args[0].shape[2:], result.shape[2:], strict=True)]
        return reach.through([kernel] * ndim, scale)
    return reach


def _per_axis(value: Any, ndim: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * ndim if len(values) == 1 else values
