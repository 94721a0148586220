"""First use: where it may, ``auto`` times its candidates against torch, once per problem, and remembers the winner.

Each pass is decided apart, when it first runs and on the tensors that it is called with: inference never measures
gradients, and no tensor has to be invented. A candidate has to be right, too. Right is what errs, relative to
sum |x||w|, at most twice as much as torch plus a few ulps, as in the benchmark. There the judge is a result in fp64,
which takes too long here: whatever differs from torch's own result by no more than rounding explains is right, and fp64
is asked only about the rest.

A call that somebody watches (a compiler, a tracer, a transform, a CUDA graph) is never measured: it gets what is
remembered, else what the table says. Nor is anything measured or remembered while
``torch.use_deterministic_algorithms`` is on.
"""

from __future__ import annotations

import datetime
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial, reduce
from typing import Any

import torch
from torch import Tensor

from convbound import choice, ops
from convbound.accuracy import ULPS, allowed_error, largest_error
from convbound.choice import cache
from convbound.devices import find_device
from convbound.failures import failure, is_out_of_memory
from convbound.problem import ConvProblem, Layout, Pass
from convbound.timing import Call, Timer, medians

TF32_EPSILON = 2.0**-10
# Seconds for timing one backend beside torch, unless a few calls of them take longer.
BUDGET = 0.2
# A backend has to be faster than torch by this factor, for less is noise.
MARGIN = 1.03
# Copies of tensors are made of so many bytes at a time.
SLICE_BYTES = 64 << 20

_measuring = threading.Lock()


@dataclass(frozen=True)
class Work:
    """One pass with its tensors, for any backend to do: x and w for fprop, dy and w for dgrad, dy and x for wgrad."""

    pass_: Pass
    problem: ConvProblem
    channels_last: bool
    first: Tensor
    second: Tensor
    bias: Tensor | None = None
    bias_grad: bool = False

    def run(self, backend: str) -> Any:
        """What the function of :mod:`convbound.ops` returns."""
        where: dict[str, Any] = {"backend": backend, "channels_last": self.channels_last}
        if self.pass_ == "wgrad":
            return ops.wgrad(self.first, self.second, self.problem, bias_grad=self.bias_grad, **where)
        run = ops.fprop if self.pass_ == "fprop" else ops.dgrad
        return run(self.first, self.second, self.bias, self.problem, **where)

    def results(self, backend: str) -> list[Tensor]:
        """The same as a list: the result, and for wgrad the bias gradient where it is asked for."""
        result = self.run(backend)
        return [result] if isinstance(result, Tensor) else [part for part in result if part is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> Work:
        """The same change made to all tensors."""
        bias = None if self.bias is None else change(self.bias)
        return replace(self, first=change(self.first), second=change(self.second), bias=bias)

    def slices(self) -> Iterator[tuple[slice, Work]]:
        """The work on one slice of the batch after another."""
        p = self.problem
        image_bytes = 8 * (math.prod(p.x_shape[1:]) + math.prod(p.y_shape[1:]))
        images = max(1, SLICE_BYTES // image_bytes)
        for begin in range(0, p.n, images):
            rows = slice(begin, begin + images)
            first = self.first[rows]
            second = self.second[rows] if self.pass_ == "wgrad" else self.second
            yield rows, replace(self, problem=replace(p, n=len(first)), first=first, second=second)

    @property
    def case(self) -> tuple[ConvProblem, Pass, torch.dtype, Layout, torch.device]:
        """What backends are chosen by."""
        layout: Layout = "NHWC" if self.channels_last else "NCHW"
        return self.problem, self.pass_, self.first.dtype, layout, self.first.device

    @property
    def terms(self) -> int:
        """How many products one output sums."""
        p = self.problem
        if self.pass_ == "wgrad":
            return p.n * math.prod(p.output)
        return (p.c if self.pass_ == "fprop" else p.k) // p.groups * math.prod(p.filter)


def run(work: Work) -> Any:
    """Do work that is not decided yet: measure first, if that may be done now, then run what serves."""
    # Never wait for another thread's measurement: its GPU work may be waiting for ours.
    if _may_measure(work) and _measuring.acquire(blocking=False):
        try:
            _decide(work)
        finally:
            _measuring.release()
    return work.run(_serving(*work.case, choice.stamp()))


@lru_cache(maxsize=4096)
def _serving(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, device: torch.device, stamp: int
) -> str:
    """The backend that serves without further measurement."""
    return choice.choose(problem, pass_, dtype, layout, device, measured=bool(stamp)).backend


def _may_measure(work: Work) -> bool:
    """Whether nobody sees, records or transforms what is called beside the call that was asked for."""
    tensors = [tensor for tensor in (work.first, work.second, work.bias) if tensor is not None]
    return bool(choice.stamp()) and not ops.is_recorded(*tensors) and not _is_capturing(work.first.device)


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _decide(work: Work) -> None:
    """Measure and remember, unless it has been done by now or the data does not tell right from wrong."""
    device = work.first.device
    untried = choice.choose(*work.case).untried
    if not untried:
        return
    with choice.current(device), torch.autocast(device.type, enabled=False):
        findings = measure(work, untried, timer_for(device))
    if findings is None:
        return
    key, today = choice.key(*work.case), datetime.date.today().isoformat()
    decision = cache.Decision(key, findings.best, findings.milliseconds, today, findings.dropped)
    # Memory may suffice another time.
    cache.remember(decision, lasting=not findings.out_of_memory)
    if findings.dropped.keys() - findings.out_of_memory:
        what = f"{key.pass_} of {key.problem}, {key.dtype} {key.layout}"
        warnings.warn(f"convbound: {decision.reason}, for {what}", RuntimeWarning, stacklevel=2)


def timer_for(device: torch.device) -> Timer:
    """The timer of a device, which has to be the current one; caches stay as they are."""
    return find_device(device.type).timer(cold=False)


@dataclass
class Findings:
    """Median milliseconds of each backend that is right, and what the others did; `best` is one of the former."""

    milliseconds: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    best: str = "torch"
    out_of_memory: set[str] = field(default_factory=set)


class WrongResultError(Exception):
    """A backend's result is not what torch and fp64 say."""


def measure(work: Work, backends: Sequence[str], timer: Timer) -> Findings | None:
    """Check backends against torch on the work's own tensors, and time those that are right in turn with torch.

    None where the tensors cannot tell right from wrong: torch's result is not finite, or zero everywhere. An error of
    torch's own is raised.
    """
    findings = Findings()
    expected = work.results("torch")
    try:
        telling = all(result.isfinite().all() for result in expected) and expected[0].any()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        why = failure(error, work.problem, work.first.dtype)
        return Findings(dropped=dict.fromkeys(backends, why), out_of_memory=set(backends))
    if not telling:
        return None
    for backend in backends:
        with _dropping(backend, work, findings):
            # The backend's results are likely to be put where this was, so that an element never written is seen.
            _ = [torch.full_like(result, torch.nan) for result in expected]
            del _
            check(work, work.results(backend), expected)
    del expected
    speedups = {"torch": MARGIN}
    for backend in backends:
        if backend not in findings.dropped:
            with _dropping(backend, work, findings):
                calls: list[Call] = [partial(work.run, name) for name in (backend, "torch")]
                ours, torchs = medians(calls, timer, BUDGET)
                findings.milliseconds |= {backend: 1e3 * ours, "torch": 1e3 * torchs}
                speedups[backend] = torchs / ours
    # Each against torch as it was in the same turns, so that a drift of the machine favours nobody.
    findings.best = max(speedups, key=lambda backend: speedups[backend])
    return findings


@contextmanager
def _dropping(backend: str, work: Work, findings: Findings) -> Iterator[None]:
    """Whatever a backend raises costs it its place, and nobody else anything."""
    try:
        yield
    except Exception as error:
        findings.dropped[backend] = failure(error, work.problem, work.first.dtype)
        if is_out_of_memory(error):
            findings.out_of_memory.add(backend)


def check(work: Work, results: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise a WrongResultError where results are wrong; `expected` are torch's."""
    for result, wanted in zip(results, expected, strict=True):
        if (result.shape, result.dtype) != (wanted.shape, wanted.dtype):
            raise WrongResultError(
                f"the result is {result.dtype} {tuple(result.shape)}, not {wanted.dtype} {tuple(wanted.shape)}"
            )
    dtype = work.first.dtype
    # What two sums of so many products may differ by when each was made in fp32 (fp64: fp64) in an order of its own.
    summing = 2.0 * math.sqrt(work.terms) * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    tf32 = TF32_EPSILON if work.first.is_cuda and dtype == torch.float32 else 0.0
    if _error(work, results, expected) <= ULPS * torch.finfo(dtype).eps + summing + tf32:
        return
    error, torch_error = _error(work, results), _error(work, expected)
    if error > allowed_error(torch_error, dtype):
        raise WrongResultError(f"the error is {error:.1e}, torch's own {torch_error:.1e}")


def _error(work: Work, results: Sequence[Tensor], expected: Sequence[Tensor] | None = None) -> float:
    """The largest |result - expected| / sum |x||w|; `expected` is torch's result in fp64 unless it is given."""
    if work.pass_ == "wgrad":
        scales = _sum(part.map(_magnitude).results("torch") for _, part in work.slices())
        exact = expected or _sum(part.map(Tensor.double).results("torch") for _, part in work.slices())
        return max(map(largest_error, results, exact, scales))
    worst = 0.0
    for rows, part in work.slices():
        scale = part.map(_magnitude).run("torch")
        wanted = part.map(Tensor.double).run("torch") if expected is None else expected[0][rows]
        worst = max(worst, largest_error(results[0][rows], wanted, scale))
    return worst


def _sum(results: Iterator[list[Tensor]]) -> list[Tensor]:
    return reduce(lambda total, terms: list(map(torch.add, total, terms)), results)


def _magnitude(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).abs()
