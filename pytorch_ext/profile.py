"""``convbound.profile``: the convolutions of a model as a table: their sizes, costs, kernels, times and bounds.

What a layer costs stands in :class:`convbound.problem.ConvProblem` (multiply-adds, memory access cost, arithmetic
intensity), receptive fields in :mod:`convbound.convolutions`, bounds in :class:`convbound.explanation.Bound`.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
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
from convbound.roofs import measure_roofs, promised_roofs
from convbound.text_table import aligned
from convbound.timing import Timer, medians

THIS_MACHINE = "this machine"
# Seconds of timing per pass of a layer, its backends together, and for the forward pass of the whole model.
PASS_SECONDS, MODEL_SECONDS = 0.1, 1.0
_PER_PASS = ("backend", "kernel", "reason", "auto_ms", "torch_ms")


@dataclass(frozen=True)
class Other:
    """The parameters of a class of modules that no recorded convolution holds: BatchNorm, Linear and so on."""

    kind: str
    modules: int
    parameters: int


@dataclass(frozen=True)
class Profile:
    """What :func:`profile` found: data, which ``str()``, :meth:`to_markdown` and :meth:`to_csv` show.

    Parameters
    ----------
    layers
        One row per module and problem, in the order of their first calls. It is the row of :func:`convbound.explain`.
    others
        What else has parameters.
    gpu
        The GPU that was named, or empty.
    forward_ms
        Median milliseconds of the model's forward pass; None where nothing was measured.
    """

    layers: tuple[Explanation, ...]
    others: tuple[Other, ...]
    gpu: str = ""
    forward_ms: float | None = None

    @property
    def parameters(self) -> int:
        """All parameters: equal to ``sum(p.numel() for p in model.parameters())``."""
        return sum(layer.parameters for layer in self.layers) + sum(other.parameters for other in self.others)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all convolutions in one forward pass."""
        return sum(layer.count * layer.problem.multiply_adds for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of all convolutions in one forward pass, two per multiply-add."""
        return 2 * self.multiply_adds

    @property
    def memory_access_cost(self) -> int:
        """Elements that all convolutions move at least in one forward pass."""
        return sum(layer.count * layer.problem.memory_access_cost for layer in self.layers)

    @property
    def compulsory_bytes(self) -> int:
        """The same in bytes."""
        return sum(layer.count * layer.problem.compulsory_bytes(layer.dtype) for layer in self.layers)

    @property
    def convolution_ms(self) -> float | None:
        """Milliseconds of all convolutions in one forward pass, each on the backend that ran it in the model."""
        times = [self.layer_ms(layer) for layer in self.layers]
        return None if None in times or not times else sum(time for time in times if time is not None)

    @staticmethod
    def layer_ms(layer: Explanation) -> float | None:
        """Milliseconds of a layer's calls in one forward pass, on the backend that ran it; None if not measured."""
        one = layer.forward.milliseconds.get(layer.ran)
        return None if one is None else layer.count * one

    def shares(self, layer: Explanation) -> tuple[float, float] | None:
        """A layer's share of the model's convolution time and of its forward pass; None where nothing was measured."""
        own, all_ = self.layer_ms(layer), self.convolution_ms
        return None if own is None or all_ is None or self.forward_ms is None else (own / all_, own / self.forward_ms)

    def records(self) -> list[dict[str, Any]]:
        """A dictionary per layer, ``kind`` being ``convolution``, and one per class of other modules.

        Numbers are those of one call; ``parameters`` add up to the model's.
        """
        rows: list[dict[str, Any]] = [self._record(layer) for layer in self.layers]
        for other in self.others:
            rows.append({"kind": "other", "module": other.kind, "count": other.modules, "parameters": other.parameters})
        return rows

    def _record(self, layer: Explanation) -> dict[str, Any]:
        problem = layer.problem
        shares = self.shares(layer)
        found: dict[str, Any] = {
            "kind": "convolution",
            "module": problem.origin,
            "count": layer.count,
            "op": f"conv{'_transpose' if layer.transposed else ''}{problem.ndim}d",
            "family": "transposed" if layer.transposed else problem.family,
            "problem": str(problem),
            "dtype": DTYPE_NAMES[layer.dtype],
            "layout": layer.layout,
            "device": layer.device,
            "ran_on": layer.ran,
            "parameters": layer.parameters,
            "multiply_adds": problem.multiply_adds,
            "flops": problem.flops,
            "memory_access_elements": problem.memory_access_cost,
            "memory_access_bytes": problem.compulsory_bytes(layer.dtype),
            "intensity": problem.arithmetic_intensity(layer.dtype),
            "receptive_field": _sizes(layer.reach.field if layer.reach else ()),
            "jump": _sizes(layer.reach.jump if layer.reach else ()),
        }
        for bound in layer.bounds:
            where = "" if bound.machine == THIS_MACHINE else "gpu_"
            if where:
                found["gpu"] = bound.machine
            found |= {f"{where}bound": bound.resource, f"{where}floor_ms": bound.floor_ms}
        for row in layer.passes:
            times = row.milliseconds.get(row.backend), row.milliseconds.get("torch")
            values = (row.backend, row.kernel, row.reason, *times)
            found |= {f"{row.pass_}_{name}": value for name, value in zip(_PER_PASS, values, strict=True)}
        if shares is not None:
            found |= {"convolution_share": shares[0], "forward_share": shares[1]}
        return found

    def to_csv(self, path: str | Path | None = None) -> str:
        """The records as CSV, and written to a file if one is named; an OSError where it cannot be written."""
        rows = self.records()
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names or ["kind"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if path is not None:
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table of ``str()`` as Markdown, and the totals below it."""
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self._cells()]
        rule = ["---:" if i in _RIGHT else "---" for i in range(len(rows[0]))]
        lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
        return "\n".join([*lines, "", *(f"- {line}" for line in self._totals())])

    def __str__(self) -> str:
        return "\n".join([aligned(self._cells(), _RIGHT), "", *self._totals()])

    def _cells(self) -> list[list[str]]:
        measured = self.forward_ms is not None
        head = ["module", "calls", "problem", "parameters", "multiply-adds", "FLOP", "elements", "bytes", "FLOP/byte"]
        head += ["field", "jump", "bound", "kernel", *(f"{p} ms" for p in PASSES if measured)]
        rows = [head + (["share", "of forward"] if measured else [])]
        for layer in self.layers:
            p = layer.problem
            row = [p.origin or "(the model)", f"{layer.count}", f"{p}{' transposed' if layer.transposed else ''}"]
            row += [f"{layer.parameters:,}", *map(_short, (p.multiply_adds, p.flops, p.memory_access_cost))]
            row += [f"{_short(p.compulsory_bytes(layer.dtype))}B", f"{p.arithmetic_intensity(layer.dtype):.2f}"]
            row += [_sizes(layer.reach.field), _sizes(layer.reach.jump)] if layer.reach else ["", ""]
            row.append(", ".join(f"{b.resource} ({b.machine})" for b in layer.bounds))
            row.append(f"{layer.forward.backend}:{layer.forward.kernel}")
            if measured:
                row += [_times(one) for one in layer.passes]
                shares = self.shares(layer)
                row += [f"{share:.1%}" for share in shares] if shares else ["", ""]
            rows.append(row)
        for other in self.others:
            row = [f"other: {other.kind}", f"x{other.modules}", "", f"{other.parameters:,}"]
            rows.append(row + [""] * (len(head) - len(row) + 2 * measured))
        return rows

    def _totals(self) -> list[str]:
        if not self.layers:
            return [f"no convolutions; {self.parameters:,} parameters"]
        calls = sum(layer.count for layer in self.layers)
        lines = [
            f"{calls} convolutions in {len(self.layers)} rows; {self.parameters:,} parameters, "
            f"{sum(layer.parameters for layer in self.layers):,} of them in convolutions",
            f"one forward pass: {_short(self.multiply_adds)} multiply-adds ({_short(self.flops)}FLOP) over "
            f"{_short(self.memory_access_cost)} elements ({_short(self.compulsory_bytes)}B) by convolutions",
        ]
        if self.forward_ms is not None and self.convolution_ms is not None:
            lines.append(
                f"measured: forward pass {self.forward_ms:.2f} ms, its convolutions by themselves "
                f"{self.convolution_ms:.2f} ms; times are medians, auto / torch"
            )
        return lines


# Columns of numbers.
_RIGHT = (1, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17)


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


def _times(row: PassExplanation) -> str:
    times = row.milliseconds
    return f"{times[row.backend]:.3f} / {times['torch']:.3f}" if times else ""


def _sizes(values: Sequence[Fraction]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len({*texts}) == 1 else "x".join(texts)


def _short(number: float) -> str:
    """A number with three digits and a prefix: 2.42 G."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:g} "
