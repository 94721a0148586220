"""``convbound.profile``: the convolutions of a model, with their sizes, costs, kernels, times and bounds.

What a layer costs stands in :class:`convbound.problem.ConvProblem` (multiply-adds, memory access cost, arithmetic
intensity), receptive fields in :mod:`convbound.convolutions`, bounds in :class:`convbound.explanation.Bound`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from convbound.choice import first_use
from convbound.convolutions import Convolution, record, unchanged
from convbound.devices import find_device
from convbound.explanation import Bound, Explanation, PassExplanation, explain
from convbound.gpus import find_gpu
from convbound.problem import DTYPE_NAMES, PASSES, Pass
from convbound.profile_report import THIS_MACHINE, Other, Profile
from convbound.roofs import measure_roofs, promised_roofs
from convbound.timing import Timer, medians

# Seconds of timing per pass of a layer, its backends together, and for the forward pass of the whole model.
PASS_SECONDS, MODEL_SECONDS = 0.1, 1.0


def profile(
    model: nn.Module, x: Any, *, gpu: str | None = None, measure: bool = True, seconds: float = PASS_SECONDS
) -> Profile:
    """Record every convolution of one forward pass of a model, and say what each costs, what serves it, what binds it.

    The model runs in eval mode and without gradients. Afterwards its modes and buffers and torch's random numbers are
    as they were. A model that torch.compile has made is profiled uncompiled.

    Parameters
    ----------
    model
        Any module; its convolutions may be modules, functions or convbound's.
    x
        Its input: a tensor of any dtype and layout, a tuple of positional arguments, or a mapping of keyword arguments.
    gpu
        A GPU by name or architecture, such as ``"A100"``, whose data sheet says what would bind each layer there.
    measure
        Time each pass of each layer, by ``auto`` and by torch, and this machine's roofs (two seconds). Without it, the
        tensors may be on the ``meta`` device, and no time is known.
    seconds
        Of timing per pass of a layer, both backends together.

    Returns
    -------
    Profile
        The rows, and totals.

    Raises
    ------
    TypeError, ValueError
        When `model` is no module, the GPU is unknown, `seconds` is not positive, a parameter has no shape yet, a
        convolution's dtype is none that convbound knows, or there is nothing to time on the model's device.
    Exception
        What the model raises.

    Notes
    -----
    Receptive fields follow convolutions, pooling and resampling. Where branches meet, the largest one counts, per axis.
    Other operations pass it on as it is: attention, a mean over all positions and slices do not count. Where the number
    of axes changes (images that become a sequence), it begins anew.

    Examples
    --------
    >>> print(convbound.profile(model, torch.randn(8, 3, 224, 224), gpu="A100"))  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"profile: model={model!r} must be a torch.nn.Module")
    if not seconds > 0:
        raise ValueError(f"profile: seconds={seconds} must be positive")
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(f"profile: parameter {lazy[0]} has no shape yet; call the model once before")
    named = find_gpu(gpu) if gpu is not None else None
    model = getattr(model, "_orig_mod", model)
    args: Sequence[Any] = () if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
    kwargs = dict(x) if isinstance(x, Mapping) else {}
    with unchanged(model):
        found = record(model, args, kwargs)
        for one in found:
            if one.dtype not in DTYPE_NAMES:
                known = ", ".join(map(str, DTYPE_NAMES))
                raise ValueError(f"profile: {one.module or 'the model'} convolves {one.dtype}; known are {known}")
        timer = _timer(found) if measure and found else None
        held: set[int] = set()
        layers = []
        times: dict[Any, dict[Pass, dict[str, float]]] = {}
        for one in found:
            work = (one.problem, one.transposed, one.dtype, one.layout, one.device, one.backend)
            if timer is not None and work not in times:
                times[work] = {pass_: _time(one, pass_, timer, seconds) for pass_ in PASSES}
            layers.append(_explained(one, held, times.get(work, {})))
        roofs = []
        if timer is not None:
            dtypes = list(dict.fromkeys(one.dtype for one in found))
            roofs.append((THIS_MACHINE, measure_roofs(find_device(found[0].device.type), dtypes)))
        if named is not None:
            roofs.append((named.name, promised_roofs(named)))
        layers = [
            replace(layer, bounds=tuple(Bound.by(roof, name, layer.problem, layer.dtype) for name, roof in roofs))
            for layer in layers
        ]
        forward_ms = None
        if timer is not None:
            forward_ms = 1e3 * medians([partial(model, *args, **kwargs)], timer, MODEL_SECONDS)[0]
    return Profile(tuple(layers), _others(model, held), named.name if named else "", forward_ms)


def _timer(found: Sequence[Convolution]) -> Timer:
    devices = sorted({str(one.device) for one in found})
    if len(devices) > 1 or found[0].device.type not in ("cpu", "cuda"):
        raise ValueError(f"profile: convolutions on {' and '.join(devices)} cannot be timed; measure=False leaves it")
    return first_use.timer_for(found[0].device)


def _explained(one: Convolution, held: set[int], times: Mapping[Pass, dict[str, float]]) -> Explanation:
    """The row of a recorded convolution; the parameters that it is the first to hold are added to `held`."""
    own = [parameter for parameter in one.weights if id(parameter) not in held]
    held.update(map(id, own))
    problem = replace(one.problem, origin=one.module)
    told = explain(problem, dtype=one.dtype, layout=one.layout, device=one.device, backend="auto")
    passes: list[PassExplanation] = [replace(row, milliseconds=times.get(row.pass_, {})) for row in told.passes]
    return replace(
        told,
        passes=tuple(passes),
        transposed=one.transposed,
        count=one.count,
        parameters=sum(parameter.numel() for parameter in own),
        reach=one.reach,
        ran=one.backend,
    )


def _time(one: Convolution, pass_: Pass, timer: Timer, seconds: float) -> dict[str, float]:
    """Median milliseconds of a pass by backend: what auto chooses, torch, and for the forward what the model ran."""
    p, last = one.problem, one.layout == "NHWC"
    shapes = {"x": p.x_shape, "w": p.w_shape, "dy": p.y_shape}
    operands = {"fprop": ("x", "w"), "dgrad": ("dy", "w"), "wgrad": ("dy", "x")}[pass_]
    first, second = (_random(shapes[name], one, last) for name in operands)
    work = first_use.Work(pass_, p, last, first, second)
    first_use.run(work)  # on a GPU auto decides here
    chosen = explain(p, dtype=one.dtype, layout=one.layout, device=one.device, backend="auto")
    names = {next(row.backend for row in chosen.passes if row.pass_ == pass_), "torch"}
    if pass_ == ("dgrad" if one.transposed else "fprop"):
        names.add(one.backend)
    for name in names:
        work.run(name)  # sets up what a first call sets up
    ordered = sorted(names)
    found = medians([partial(work.run, name) for name in ordered], timer, seconds)
    return {name: 1e3 * taken for name, taken in zip(ordered, found, strict=True)}


def _random(shape: tuple[int, ...], one: Convolution, last: bool) -> Tensor:
    tensor = torch.randn(shape, device=one.device).to(one.dtype)
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if last else tensor


def _others(model: nn.Module, held: set[int]) -> tuple[Other, ...]:
    """What has parameters that no convolution holds, by class; a shared parameter counts in its first module."""
    parameters: Counter[str] = Counter()
    owners: Counter[str] = Counter()
    counted = set(held)
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        if own:
            parameters[type(module).__name__] += sum(p.numel() for p in own)
            owners[type(module).__name__] += 1
    return tuple(Other(kind, owners[kind], number) for kind, number in parameters.items())
