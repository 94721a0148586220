"""One row of a kernel table on a problem that it serves, whatever the dispatcher would prefer, against the equation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, cast

import torch
from support import device
from support.check import Results, expected, poisoned_outputs
from support.data import Operands, integers, reals, terms
from support.edges import EDGES, walk
from support.problems import PROBLEMS, available_isas, instruction_set
from torch import Tensor

from convbound.layout import to_layout
from convbound.problem import DTYPE_NAMES, DTYPES, LAYOUTS, ConvProblem, Layout, Pass
from fuzz.judge import Pasted, Unfit, Wrong, check_close, check_exact
from fuzz.memory import Guarded, Place, empty

# What a row reads and writes, by the names of the three tensors of a problem.
_WRITTEN: dict[Pass, str] = {"fprop": "y", "dgrad": "x", "wgrad": "w"}
_RESULTS = {"y": "y", "x": "dx", "w": "dw", "bias": "dbias"}
PROFILE = "sm_90"
# For tiles of matrix products, which the problems of the other tests are too narrow for.
_WIDE = tuple(
    ConvProblem.parse(text)
    for text in (
        "ic256ih2iw3oc256kh1",
        "ic128ih3iw4oc128kh2ph1eh0",
        "ic64ih5iw4oc64kh2sh2",
        "ic48ih4iw5oc48kh3ph1",
        "g2ic64ih5iw6oc64kh3ph1",
        "g4ic64ih4iw6oc64kh2sh2ph1",
        "mb2g2ic96iw9oc96kw3pw1",
    )
)


@dataclass(frozen=True)
class Row:
    """A row of a table: what it serves, and how it runs on guarded tensors."""

    backend: str
    label: str
    pass_: Pass
    dtype: torch.dtype
    layout: Layout
    serves: Callable[[ConvProblem], bool]
    run: Callable[[RowRun, ConvProblem, dict[str, Tensor | None]], None]
    problems: tuple[ConvProblem, ...]  # of the tests: to start from
    programs: Callable[[ConvProblem, bool], int] = lambda problem, bias: 0  # that Triton's interpreter would run
    depthwise: bool | None = None
    filter: int | None = None
    stride: int | None = None
    naive: bool = False


@dataclass(frozen=True, repr=False)
class RowRun(Pasted):
    """A row on a problem. `options` are the emulator's, `threads` and `isa` are of a CPU row."""

    backend: str
    row: str
    problem: str
    bias: bool = False
    data: str = "integers"
    places: tuple[Place, Place, Place] = ("begin", "begin", "begin")  # of x, w and y
    options: str = ""
    threads: int = 1
    isa: str = ""
    seed: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """Under which names a run of this case is counted."""
        return (f"{self.backend} row: {self.row}",)

    def check(self) -> None:
        """Raise a :class:`Wrong` where the row is."""
        row = rows(self.backend)[self.row]
        problem = ConvProblem.parse(self.problem)
        with instruction_set(self.isa) if self.isa else nullcontext():
            if not row.serves(problem):
                raise Unfit(f"{self.row} does not serve {problem}")
            operands = self._operands(row, problem)
            results = self._results(row, problem, operands)
        if self.data == "integers":
            check_exact(results, expected(row.pass_, operands, problem), row.dtype)
        elif self.data == "reals":
            wanted = expected(row.pass_, operands, problem)
            magnitudes = expected(row.pass_, operands.map(Tensor.abs), problem)
            check_close(results, wanted, magnitudes, terms(problem, row.pass_), row.dtype)
        else:
            _check_not_missed(results, row.pass_, operands, problem)

    def _operands(self, row: Row, problem: ConvProblem) -> Operands:
        if self.data == "reals":
            operands = reals(problem, row.pass_, row.dtype, self.seed)
        else:
            sign = "positive" if self.data == "integers" and self.seed % 4 == 0 else "signed"
            operands = integers(problem, row.pass_, row.dtype, sign, seed=self.seed)
        if self.data == "infinite":
            draw = Random(self.seed)
            names = [name for name in "xwy" if name != _WRITTEN[row.pass_]]
            for tensor in (getattr(operands, name) for name in draw.sample(names, draw.randint(1, 2))):
                for _ in range(draw.randint(1, 2)):
                    value = draw.choice((math.nan, math.inf, -math.inf))
                    tensor.view(-1)[draw.randrange(tensor.numel())] = value
        return operands if self.bias else operands.without_bias()

    def _results(self, row: Row, problem: ConvProblem, operands: Operands) -> Results:
        written = _WRITTEN[row.pass_]
        given = {"x": operands.x, "w": operands.w, "y": operands.y, "bias": operands.bias}
        places: dict[str, Place] = dict(zip(("x", "w", "y", "bias"), (*self.places, self.places[0]), strict=True))
        shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape}
        shapes["bias"] = (problem.c if row.pass_ == "dgrad" else problem.k,)
        guarded: dict[str, Guarded | None] = {}
        for name, tensor in given.items():
            dense = to_layout(torch.empty(shapes[name], device="meta"), row.layout == "NHWC" and name != "bias")
            guarded[name] = None if tensor is None else empty(shapes[name], dense.stride(), row.dtype, places[name])
        outputs = [written, *(["bias"] if row.pass_ == "wgrad" and self.bias else [])]
        for name, place in guarded.items():
            if place is not None and name not in outputs:
                place.tensor.copy_(given[name])
        try:
            row.run(self, problem, {name: None if g is None else g.tensor for name, g in guarded.items()})
        except RuntimeError as error:
            raise Wrong("report", str(error)) from error
        for name, place in guarded.items():
            if place is None:
                continue
            if place.touched:
                raise Wrong("wrote beside", f"{self.row} wrote beside {name}")
            if name not in outputs and not _same_bits(place.tensor, given[name]):
                raise Wrong("changed input", f"{self.row} has changed {name}")
        tensors = {name: cast(Guarded, guarded[name]).tensor for name in outputs}
        return {_RESULTS[name]: tensor.clone() for name, tensor in tensors.items()}


def _check_not_missed(results: Results, pass_: Pass, operands: Operands, problem: ConvProblem) -> None:
    """A NaN or an infinity in a tensor reaches every result that depends on it through a tap inside the image."""
    plain = operands.without_bias() if pass_ != "wgrad" else operands
    broken = plain.map(lambda t: (~t.isfinite()).double())
    whole = plain.map(lambda t: torch.ones_like(t, dtype=torch.float64))
    first, second = {"fprop": ("x", "w"), "dgrad": ("y", "w"), "wgrad": ("y", "x")}[pass_]

    def reached(by: str, other: str) -> Results:
        tensors = {by: getattr(broken, by), other: getattr(whole, other)}
        rest = {name: getattr(whole, name) for name in "xwy" if name not in tensors}
        return expected(pass_, Operands(**tensors, **rest, bias=whole.bias if pass_ == "wgrad" else None), problem)

    by_first, by_second = reached(first, second), reached(second, first)
    for name, result in results.items():
        must = by_first[name] > 0 if name == "dbias" else (by_first[name] + by_second[name]) > 0
        missed = must & result.isfinite()
        if missed.any():
            at = tuple(missed.nonzero()[0].tolist())
            raise Wrong("missed", f"{name} at {at} is {result[at].item()}, but depends on a value that is not finite")


def _same_bits(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and torch.equal(one.nan_to_num(nan=-123.0), other.nan_to_num(nan=-123.0))


def _addresses(tensors: dict[str, Tensor | None]) -> dict[str, int]:
    return {name: 0 if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}


@cache
def rows(backend: str) -> dict[str, Row]:
    """The rows of a backend's table by label."""
    make = {"cpu": _cpu_rows, "simt": _simt_rows, "triton": _triton_rows}[backend]
    found: dict[str, Row] = {}
    for row in make():
        label, count = row.label, 1
        while label in found:
            count += 1
            label = f"{row.label} #{count}"
        found[label] = row if count == 1 else Row(**{**vars(row), "label": label})
    return found


def _label(name: str, dtype: torch.dtype, layout: str) -> str:
    return f"{name} {DTYPE_NAMES[dtype]} {layout}"


def _cpu_rows() -> Iterator[Row]:
    introspect: Any = device.introspect
    for index, kernel in enumerate(introspect.cpu_kernels()):
        for dtype in DTYPES:
            for layout in LAYOUTS:
                where = (introspect.DType[DTYPE_NAMES[dtype]], introspect.Layout[layout])

                def serves(problem: ConvProblem, index: int = index, where: Any = where) -> bool:
                    return bool(introspect.cpu_serves(index, device.native(problem), *where))

                def run(
                    case: RowRun, problem: ConvProblem, tensors: Any, index: int = index, where: Any = where
                ) -> None:
                    native = device.native(problem)
                    introspect.cpu_run(index, native, *where, **_addresses(tensors), threads=case.threads)

                # A row serves a dtype and layout if on any instruction set, on any problem of the tests.
                problems = [p for p in (*PROBLEMS, *EDGES) if any(_on(isa, serves, p) for isa in available_isas())]
                if problems:
                    yield Row(
                        "cpu",
                        _label(kernel["name"], dtype, layout),
                        kernel["pass"],
                        dtype,
                        layout,
                        serves,
                        run,
                        tuple(problems),
                        depthwise=True if kernel["name"].startswith("depthwise") else None,
                        naive=kernel["naive"],
                    )


def _on(isa: str, serves: Callable[[ConvProblem], bool], problem: ConvProblem) -> bool:
    with instruction_set(isa):
        return serves(problem)


def _simt_rows() -> Iterator[Row]:
    introspect: Any = device.introspect
    for registered in device.rows() if device.ABSENT is None else []:

        def serves(problem: ConvProblem, row: dict[str, Any] = registered) -> bool:
            return device.serves(row, problem, PROFILE)

        def run(case: RowRun, problem: ConvProblem, tensors: Any, row: dict[str, Any] = registered) -> None:
            introspect.simt_run(
                row["pass"],
                device.native(problem),
                row["dtype"],
                row["layout"],
                **_addresses(tensors),
                options=case.options,
                row=row["index"],
            )

        dtype, layout = device.dtype_of(registered), registered["layout"].name
        naive = registered["naive"]
        yield Row(
            "simt",
            _label(registered["name"], dtype, layout),
            registered["pass"].name,
            dtype,
            layout,
            serves,
            run,
            tuple(p for p in walk(registered["name"]) if serves(p)),
            depthwise=None if naive else True,
            filter=registered["filter"] or None,
            stride=registered["stride"] or None,
            naive=naive,
        )


def _triton_rows() -> Iterator[Row]:
    from convbound.kernels.table import KERNELS  # it imports Triton

    for kernel in KERNELS:
        for dtype in kernel.dtypes:

            def serves(problem: ConvProblem, kernel: Any = kernel, dtype: torch.dtype = dtype) -> bool:
                return bool(kernel.serves(problem, kernel.pass_, dtype, kernel.layout))

            def run(
                case: RowRun, problem: ConvProblem, tensors: Any, kernel: Any = kernel, dtype: torch.dtype = dtype
            ) -> None:
                names = {"fprop": "xwy", "dgrad": ("dx", "w", "dy"), "wgrad": ("x", "dw", "dy")}[kernel.pass_]
                renamed = dict(zip(names, (tensors["x"], tensors["w"], tensors["y"]), strict=True))
                renamed["dbias" if kernel.pass_ == "wgrad" else "bias"] = tensors["bias"]
                with poisoned_outputs():
                    kernel.plan(problem, dtype, case.bias).run(renamed)

            def programs(problem: ConvProblem, bias: bool, kernel: Any = kernel, dtype: torch.dtype = dtype) -> int:
                return sum(launch.programs for launch in kernel.plan(problem, dtype, bias).launches)

            yield Row(
                "triton",
                _label(kernel.name, dtype, kernel.layout),
                kernel.pass_,
                dtype,
                kernel.layout,
                serves,
                run,
                tuple(p for p in (*PROBLEMS, *EDGES, *_WIDE) if serves(p)),
                programs,
                depthwise=kernel.depthwise,
                stride=kernel.stride[0] if kernel.stride else None,
                naive=kernel.naive,
            )
