"""Whether a backend's result is right, and how long it takes beside torch: what a problem's first use finds out.

Right is what errs, relative to sum |x||w|, at most twice as much as torch plus a few ulps, as in the benchmark. There
the judge is a result in fp64, which takes too long here: whatever differs from torch's own result by no more than
rounding explains is right, and fp64 is asked only about the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from statistics import median
from typing import Any

import torch
from torch import Tensor

from convbound import ops
from convbound.bench.timer import Call, CpuTimer, Sampler, interleave
from convbound.problem import DTYPE_NAMES, ConvProblem, Pass
from convbound.untrusted import printable

TORCH_FACTOR = 2.0
ULPS = 4.0
TF32_EPSILON = 2.0**-10
# Seconds for timing one backend beside torch, unless a few calls of them take longer.
BUDGET = 0.2
# A backend has to be faster than torch by this factor, for less is noise.
MARGIN = 1.03
# Copies of tensors are made of so many bytes at a time.
SLICE_BYTES = 64 << 20
# How allocators say that there is no memory: torch's and our ops', CUDA's, cuDNN's, C++'s. The last is all that torch's
# stable interface leaves of it, where an op of ours asks for a vector of the bias's size; nothing else fails like that.
_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed", "bad_alloc", "api call failed")


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
    def terms(self) -> int:
        """How many products one output sums."""
        p = self.problem
        if self.pass_ == "wgrad":
            return p.n * math.prod(p.output)
        return (p.c if self.pass_ == "fprop" else p.k) // p.groups * math.prod(p.filter)


@dataclass
class Findings:
    """Median milliseconds of each backend that is right, and what the others did; `best` is one of the former."""

    milliseconds: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    best: str = "torch"
    out_of_memory: set[str] = field(default_factory=set)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is about memory, which may suffice another time."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)


def failure(error: Exception, problem: ConvProblem, dtype: torch.dtype) -> str:
    """An error in one line; where memory is what lacks, with what for and how much its tensors take at least."""
    text = printable(" ".join(f"{type(error).__name__}: {error}".split()))
    if not is_out_of_memory(error):
        return text
    size = problem.compulsory_bytes(dtype)
    name = DTYPE_NAMES[dtype]
    return f"out of memory for {problem}, whose tensors take {size} bytes ({size / 1e9:.3g} GB) in {name}: {text}"


class WrongResultError(Exception):
    """A backend's result is not what torch and fp64 say."""


def measure(work: Work, backends: Sequence[str], timer: Sampler) -> Findings | None:
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
                samples = interleave(calls, timer, BUDGET, [0.0, 0.0])
                ours, torchs = (1e3 * median(s) for s in samples)
                findings.milliseconds |= {backend: ours, "torch": torchs}
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
    ulps = ULPS * torch.finfo(dtype).eps
    # What two sums of so many products may differ by when each was made in fp32 (fp64: fp64) in an order of its own.
    summing = 2.0 * math.sqrt(work.terms) * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    tf32 = TF32_EPSILON if work.first.is_cuda and dtype == torch.float32 else 0.0
    if _error(work, results, expected) <= ulps + summing + tf32:
        return
    error, torch_error = _error(work, results), _error(work, expected)
    if error > TORCH_FACTOR * torch_error + ulps:
        raise WrongResultError(f"the error is {error:.1e}, torch's own {torch_error:.1e}")


def _error(work: Work, results: Sequence[Tensor], expected: Sequence[Tensor] | None = None) -> float:
    """The largest |result - expected| / sum |x||w|; `expected` is torch's result in fp64 unless it is given."""
    if work.pass_ == "wgrad":
        scales = _sum(part.map(_magnitude).results("torch") for _, part in work.slices())
        exact = expected or _sum(part.map(Tensor.double).results("torch") for _, part in work.slices())
        return max(map(_relative, results, exact, scales))
    worst = 0.0
    for rows, part in work.slices():
        scale = part.map(_magnitude).run("torch")
        wanted = part.map(Tensor.double).run("torch") if expected is None else expected[0][rows]
        worst = max(worst, _relative(results[0][rows], wanted, scale))
    return worst


def _sum(results: Iterator[list[Tensor]]) -> list[Tensor]:
    return reduce(lambda total, terms: list(map(torch.add, total, terms)), results)


def _magnitude(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).abs()


def _relative(result: Tensor, expected: Tensor, scale: Tensor) -> float:
    difference = (result.to(scale.dtype) - expected).abs()
    # Where nothing is summed, the result has to be exactly zero; a missing element is NaN.
    relative = torch.where(scale > 0, difference / scale, torch.where(difference > 0, torch.inf, difference))
    return float(relative.nan_to_num_(nan=torch.inf, posinf=torch.inf).max())


class WarmCudaTimer:
    """Events around a few calls in a row, so that the GPU does not wait for each launch; caches stay as they are."""

    calls = 3

    def sample(self, call: Call) -> float:
        """Seconds per call on the current device."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(self.calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / self.calls


def timer_for(device: torch.device) -> Sampler:
    """The timer of a device, which has to be the current one."""
    return WarmCudaTimer() if device.type == "cuda" else CpuTimer(cold=False, cache_bytes=0)
