"""What is fuzzed: public functions on a backend, or the rows of its table; and the case of a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import torch
from support.problems import instruction_set

from convbound.choice import backends
from convbound.problem import PASSES, ConvProblem
from fuzz import draw as drawing
from fuzz.call import Call
from fuzz.draw import weighted
from fuzz.memory import PLACES, VIEWS
from fuzz.rows import Row, RowRun, rows

Case = Call | RowRun

# Triton's interpreter takes 15 ms for each.
MOST_PROGRAMS = 20


@dataclass(frozen=True)
class Target:
    """Cases of one kind, so many of them to a round."""

    name: str
    backend: str
    draw: Callable[..., Case]
    per_round: int

    def case(self, seed: str, number: int) -> Case:
        """The case with this number; it depends on nothing but seed, number and the code."""
        return self.draw(Random(f"{seed} {self.name} {number}"), number=number)


def targets() -> dict[str, Target]:
    """Everything that is built, by name."""
    built = {"auto", *(backend.name for backend in backends.backends() if backend.available)}
    calls = {"auto": 100, "cpu": 100, "simt": 50, "triton": 5}
    runs = {"cpu": 300, "simt": 150, "triton": 10}
    found = [Target(name, name, partial(_call, backend=name), number) for name, number in calls.items()]
    found += [Target(f"{name}-rows", name, partial(_row_run, backend=name), number) for name, number in runs.items()]
    return {target.name: target for target in found if target.backend in built}


def _options(draw: Random) -> str:
    """Of the emulator; mostly with its checks."""
    order = weighted(draw, (2, ""), (1, "order=reverse"), (1, f"order=random seed={draw.randrange(1000)}"))
    words = [weighted(draw, (3, "check"), (1, "")), order, weighted(draw, (1, ""), (1, "cp_async=late"))]
    return " ".join([*filter(None, words), "workers=1"])


def _isa(draw: Random) -> str:
    return draw.choice(("", "generic", "avx2"))  # the same cases on every machine; empty is the best that it has


def _call(draw: Random, number: int, backend: str) -> Call:
    most_work = {"simt": 40_000, "triton": 20_000}.get(backend, 600_000)
    while True:
        call = _any_call(draw, backend)
        y_shape = call.y_shape()
        if y_shape is None:  # calls that torch refuses are worth a few tries only
            if draw.random() < 0.1:
                return call
            continue
        spatial = [math.prod(call.input), math.prod(y_shape[-len(call.input) :])]
        # A pass multiplies at each position of the convolution's output, which a transposed one has for its input.
        n, taps = 1 if call.n is None else call.n, math.prod(call.filter)
        work = n * call.groups * (call.c * call.k * taps * spatial[not call.transposed] + sum(spatial) * call.c)
        if work <= most_work and (backend != "triton" or _programs(call, y_shape) <= MOST_PROGRAMS):
            if backend == "auto" and 1 in call.shapes()[1] and call.views[1] != "channels_last":
                # Of an odd stride of a filter's single element torch's own kernels read outside of it.
                return replace(call, views=(call.views[0], "dense", call.views[2]))
            return call


def _programs(call: Call, y_shape: tuple[int, ...]) -> int:
    """How many programs Triton's interpreter would run for a pass, about."""
    positions = max(math.prod(call.input), math.prod(y_shape[-len(call.input) :]))
    depthwise = (call.k if call.transposed else call.c) == 1
    images = (call.n or 1) * call.groups * (max(call.c, call.k) if depthwise else 1)
    return images * -(-positions // 128)


def _any_call(draw: Random, backend: str) -> Call:
    ndim = drawing.dimensions(draw, 2 if backend == "triton" and draw.random() < 0.97 else 3)
    transposed = draw.random() < 0.4
    narrow = draw.random() < drawing.NARROW
    axes = [drawing.axis(draw, pairs=False, narrow=narrow) for _ in range(ndim)]
    groups, c, k = drawing.channels(draw, None)
    if transposed and draw.random() < 0.5:
        c, k = k, c
    inputs = tuple(axis.input for axis in axes)
    if transposed:  # so that sizes of inputs and outputs are alike in both kinds
        inputs = tuple(min(axis.output, axis.input) for axis in axes)
    stride, dilation = tuple(axis.stride for axis in axes), tuple(axis.dilation for axis in axes)
    output_padding: Any = 0
    if transposed and draw.random() < 0.6:
        output_padding = tuple(draw.randrange(max(pair)) for pair in zip(stride, dilation, strict=True))
        if draw.random() < 0.05:
            output_padding = tuple(size + draw.randint(0, 2) for size in output_padding)
    padding: Any = tuple(axis.padding[0] for axis in axes)
    if not transposed and draw.random() < 0.15:
        padding = draw.choice(("same", "same", "valid"))
        if draw.random() < 0.8:
            stride = (1,) * ndim
    huge = draw.random()
    if huge < 0.01:
        value = draw.choice((2**31, 2**32, 2**61, 2**62, 2**63 - 1))
        field = draw.choice(("stride", "dilation", "padding"))
        if field == "stride":
            stride = (value,) * ndim
        elif field == "dilation":
            dilation = (value,) * ndim
        elif padding not in ("same", "valid"):
            padding = (value,) * ndim
            if draw.random() < 0.5:
                stride = dilation = (value,) * ndim
    dtypes: tuple[tuple[float, str], ...] = ((45, "fp32"), (20, "fp16"), (20, "bf16"), (15, "fp64"))
    dtype = weighted(draw, *dtypes)
    data = weighted(draw, (85, "integers"), (15, "reals"))
    view = lambda: weighted(draw, (50, "dense"), (50, draw.choice(VIEWS)))  # noqa: E731
    place = lambda: draw.choice(PLACES)  # noqa: E731
    function = f"conv{'_transpose' if transposed else ''}{ndim}d"
    return Call(
        function,
        backend,
        n=weighted(draw, (90, drawing.batch(draw)), (7, None), (3, 0)),
        c=c,
        k=k,
        input=inputs,
        filter=tuple(axis.filter for axis in axes),
        groups=groups,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        bias=draw.random() < 0.5,
        dtype=dtype,
        data=data,
        wanted=weighted(draw, (60, "xwb"), (40, draw.choice(("", "x", "w", "b", "xw", "xb", "wb")))),
        twice=data == "integers" and dtype in ("fp32", "fp64") and draw.random() < 0.1,
        views=(view(), view(), view()),
        places=(place(), place(), place()),
        preferring=tuple(p for p in PASSES if draw.random() < 0.6) if backend == "auto" else (),
        threads=weighted(draw, (9, 1), (1, draw.choice((2, 3)))) if backend in ("cpu", "auto") else 1,
        isa=_isa(draw) if backend == "cpu" else "",
        options=_options(draw) if backend == "simt" else "",
        seed=draw.randrange(2**31),
    )


def _row_run(draw: Random, number: int, backend: str) -> RowRun:
    table = list(rows(backend).values())
    row = table[number % len(table)]
    most_work = {"simt": 60_000, "triton": 30_000, "cpu": 600_000}[backend]
    bias = draw.random() < 0.5
    isa = _isa(draw) if backend == "cpu" else ""
    found = _served(draw, row, most_work, bias, isa)
    if found is None:  # the row is for better instruction sets
        isa = ""
        found = _served(draw, row, most_work, bias, isa)
    data = weighted(
        draw, (80, "integers"), (10, "infinite"), (10, "integers" if row.dtype == torch.float64 else "reals")
    )
    return RowRun(
        backend,
        row.label,
        str(found),
        bias=bias,
        data=data,
        places=(draw.choice(PLACES), draw.choice(PLACES), draw.choice(PLACES)),
        options=_options(draw) if backend == "simt" else "",
        threads=draw.choice((1, 2, 3, 5)) if backend == "cpu" else 1,
        isa=isa,
        seed=draw.randrange(2**31),
    )


def _served(draw: Random, row: Row, most_work: int, bias: bool, isa: str) -> ConvProblem | None:
    """A problem of the row's own: any, or some steps away from one of the tests'."""
    with instruction_set(isa) if isa else nullcontext():
        known = sorted(filter(row.serves, row.problems), key=drawing.work)
        if not known:
            return None
        most_work = max(most_work, 2 * drawing.work(known[0]))
        known = [p for p in known if drawing.work(p) <= most_work]

        def fits(problem: ConvProblem) -> bool:
            small = drawing.work(problem) <= most_work
            return small and row.serves(problem) and row.programs(problem, bias) <= MOST_PROGRAMS

        if draw.random() < 0.6:
            for _ in range(60):
                ndim = drawing.dimensions(draw)
                found = drawing.problem(draw, ndim, True, row.depthwise, row.filter, row.stride)
                if fits(found):
                    return found
        found = draw.choice(known)
        for _ in range(draw.randint(1, 12)):
            step = drawing.changed(draw, found)
            if fits(step):
                found = step
        return found
