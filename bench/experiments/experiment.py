"""What an experiment is: a hypothesis, what it times, and the verdict that follows from the times.

A subject is one thing that is timed: a convolution, or several calls in a row. Subjects of one group are sampled in
turns, so a drift of the machine touches all of them alike. What was measured of a subject is a :class:`Point`.
Verdicts, tables and pictures are made of points alone, so a result file gives them again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import convbound
from convbound.bench.auto import auto_kernel, auto_run
from convbound.bench.cases import Tensors, dense, random_tensors
from convbound.bench.rivals import TORCH, rival_kernel, rival_run
from convbound.bench.tables import Layer
from convbound.devices import Device
from convbound.problem import ConvProblem, Layout, Pass
from convbound.roofs import Roofs
from convbound.untrusted import check_kinds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cache = Literal["warm", "cold"]
# A ratio of times that noise alone does not make.
CLEAR = 1.05
OURS = "convbound"  # with `auto`, as a user gets it


@dataclass(frozen=True)
class Point:
    """What was measured of one subject.

    Parameters
    ----------
    series
        The line of a picture that it belongs to, such as ``torch``.
    label
        Its name within the series, such as ``3x3``.
    x
        Its place on the picture's axis.
    multiply_adds, bytes, parameters
        Of all convolutions in it: half of the FLOPs, compulsory bytes (every input read once, every output written
        once), filter elements.
    kernel
        What served it, where that is one kernel.
    problem
        Its problem string, where it is one convolution.
    facts
        More columns of the table, by their heads.
    ms, p20_ms, p80_ms
        Median, 20th and 80th percentile of the times, in milliseconds.
    """

    series: str
    label: str
    x: float
    layout: Layout = "NCHW"
    pass_: Pass = "fprop"
    cache: Cache = "warm"
    multiply_adds: int = 0
    bytes: int = 0
    parameters: int = 0
    kernel: str = ""
    problem: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    ms: float = math.nan
    p20_ms: float = math.nan
    p80_ms: float = math.nan

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second."""
        return 2 * self.multiply_adds / self.ms / 1e6

    @property
    def gbps(self) -> float:
        """10^9 compulsory bytes per second."""
        return self.bytes / self.ms / 1e6

    @property
    def intensity(self) -> float:
        """FLOPs per compulsory byte."""
        return 2 * self.multiply_adds / self.bytes

    def record(self) -> dict[str, Any]:
        """The point as it is written, with six significant digits."""
        return {
            name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in vars(self).items()
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Point:
        """The inverse of :meth:`record`. A ValueError or TypeError: it is none."""
        point = cls(**record)
        check_kinds(vars(point), _KINDS)
        check_kinds(point.facts, dict.fromkeys(point.facts, _NUMBER))
        if not 0 < point.p20_ms <= point.ms <= point.p80_ms:
            raise ValueError(f"ms={point.ms} is no time between p20_ms={point.p20_ms} and p80_ms={point.p80_ms}")
        return point


_NUMBER = int | float
_KIND_OF = {
    "str": str,
    "Layout": str,
    "Pass": str,
    "Cache": str,
    "int": int,
    "float": _NUMBER,
    "dict[str, float]": dict,
}
_KINDS = {column.name: _KIND_OF[str(column.type)] for column in dataclasses.fields(Point)}


class Points(list[Point]):
    """The points of an experiment, to be asked for by their columns."""

    def where(self, **columns: Any) -> Points:
        """Those with these values."""
        return Points(p for p in self if all(getattr(p, name) == value for name, value in columns.items()))

    def one(self, **columns: Any) -> Point:
        """The one with these values; a LookupError where there are none or several."""
        found = self.where(**columns)
        if len(found) != 1:
            raise LookupError(f"{len(found)} points have {columns}")
        return found[0]

    def values(self, column: str) -> list[Any]:
        """The values of a column, each once, in order of appearance."""
        return list(dict.fromkeys(getattr(point, column) for point in self))


@dataclass(frozen=True)
class Subject:
    """Something to time: `run` of `tensors`; subjects of a group with the same `equal` text have the same result."""

    point: Point
    tensors: tuple[Tensor, ...]
    run: Callable[..., Any]
    equal: str = ""

    def calls(self, count: int) -> list[Callable[[], Any]]:
        """The same work `count` times, each time on operands in other memory."""
        copies = [self.tensors, *(tuple(t.clone() for t in self.tensors) for _ in range(count - 1))]
        return [partial(self.run, *tensors) for tensors in copies]


@dataclass(frozen=True)
class Verdict:
    """Whether the hypothesis holds on this machine, and what the data say, in words."""

    holds: bool
    text: str

    def __str__(self) -> str:
        return f"{'Holds' if self.holds else 'Does not hold'} here. {self.text}"


@dataclass(frozen=True)
class Setting:
    """Where an experiment runs: on which device, in which dtype, under which roofs."""

    device: Device
    dtype: torch.dtype
    roofs: Roofs

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU, which gets whole batches."""
        return self.device.type == "cuda"

    def random(self, *shape: int, layout: Layout = "NCHW") -> Tensor:
        """Standard normal numbers."""
        return dense(torch.randn(shape, device=self.device.place).to(self.dtype), layout)

    def convolution(
        self,
        problem: ConvProblem | str,
        point: Point,
        *,
        ours: bool,
        transposed: bool = False,
        tensors: Tensors | None = None,
    ) -> Subject:
        """One pass of a convolution, by torch or by convbound's ``auto``; `point` says which pass, in which layout.

        With `transposed` the problem is the one that a transposed layer transposes.
        """
        if isinstance(problem, str):
            problem = ConvProblem.parse(problem)
        layer = Layer("", str(problem), 1, transposed, "quick", problem)
        operands = (tensors or random_tensors(problem, self.dtype, self.device.place)).dense(point.layout)
        run = auto_run(layer, point.pass_, operands) if ours else rival_run(TORCH, layer, point.pass_)
        kernel = auto_kernel(layer, point.pass_, operands) if ours else rival_kernel(TORCH, layer, *operands)
        known = dataclasses.replace(
            point,
            multiply_adds=problem.flops // 2,
            bytes=problem.compulsory_bytes(self.dtype),
            parameters=problem.parameters,
            kernel=kernel,
            problem=str(problem),
        )
        return Subject(known, tuple(operands), run, equal=f"{problem} {point.pass_}")

    def both(self, problem: ConvProblem | str, point: Point, *, transposed: bool = False) -> list[Subject]:
        """A convolution by torch and by convbound; the series of `point`, if it has one, is put before their names."""
        if isinstance(problem, str):
            problem = ConvProblem.parse(problem)
        tensors = random_tensors(problem, self.dtype, self.device.place)
        made = []
        for name in (TORCH, OURS):
            named = dataclasses.replace(point, series=f"{point.series} {name}".strip())
            ours = name == OURS
            made.append(self.convolution(problem, named, ours=ours, transposed=transposed, tensors=tensors))
        return made

    def chain(self, problems: Sequence[ConvProblem | str], point: Point, *, ours: bool, equal: str = "") -> Subject:
        """Forward convolutions one after the other, each on the output of the one before it."""
        parsed = [ConvProblem.parse(p) if isinstance(p, str) else p for p in problems]
        tensors = [self.random(*parsed[0].x_shape, layout=point.layout)]
        tensors += [self.random(*problem.w_shape, layout=point.layout) for problem in parsed]

        def run(x: Tensor, *filters: Tensor) -> Tensor:
            for problem, w in zip(parsed, filters, strict=True):
                x = convolve(problem, x, w, ours=ours)
            return x

        return Subject(summed(point, parsed, self.dtype), tuple(tensors), run, equal)


def convolve(problem: ConvProblem, x: Tensor, w: Tensor, bias: Tensor | None = None, *, ours: bool) -> Tensor:
    """The forward convolution, as a model calls it."""
    padding = [begin for begin, _ in problem.padding]
    function = getattr(convbound if ours else F, f"conv{problem.ndim}d")
    y: Tensor = function(x, w, bias, problem.stride, padding, problem.dilation, problem.groups)
    return y


def summed(point: Point, problems: Sequence[ConvProblem], dtype: torch.dtype) -> Point:
    """The point with what several convolutions need together."""
    return dataclasses.replace(
        point,
        multiply_adds=sum(problem.flops // 2 for problem in problems),
        bytes=sum(problem.compulsory_bytes(dtype) for problem in problems),
        parameters=sum(problem.parameters for problem in problems),
    )


def ridge(roofs: Roofs) -> float:
    """FLOPs per compulsory byte above which a depthwise convolution is bound by arithmetic here."""
    return roofs.ridge(next(iter(roofs.peak_gflops)), depthwise=True)


Group = Callable[[], list[Subject]]


@dataclass(frozen=True)
class Experiment:
    """One question, and all that answers it.

    Parameters
    ----------
    name, title
        As the command line names it, and as a heading.
    hypothesis
        What is claimed, by whom, and what would have to be seen.
    groups
        What is timed: functions that make the subjects which are sampled in turns, for one group's tensors to be gone
        before the next one's are made.
    verdict
        What the points say, under the roofs of their machine.
    draw
        The picture of the points.
    measured
        What measures it instead, within some seconds, where no timer of this process can.
    caches
        The states of the caches that every group is timed in.
    rows
        The columns that name a row of the table. The times of a row's points stand side by side in it.
    columns
        What a row tells besides: of ``multiply_adds``, ``bytes``, ``parameters`` and ``intensity``.
    """

    name: str
    title: str
    hypothesis: str
    groups: Callable[[Setting], list[Group]]
    verdict: Callable[[Points, Roofs], Verdict]
    draw: Callable[[Figure, Points, Roofs], None]
    measured: Callable[[Setting, float], Points] | None = None
    caches: tuple[Cache, ...] = ("warm",)
    rows: tuple[str, ...] = ("label",)
    columns: tuple[str, ...] = ("multiply_adds", "bytes")
