"""The one timer: interleaved samples of several calls, on whatever device a ``Timer`` knows how to time.

Calls that are compared are sampled in one loop in palindromic order (A B B A, or A B C D D C B A), so that a drift of
the machine touches all of them alike. A ``Timer`` only knows how to put its device's caches into a known state, what
one sample runs, and how to time it; everything else (order, repetitions, budget) is shared by all devices.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], Any]

# From this length on (seconds) a call gains nothing from a warm-up run; where it also fills its share of the budget,
# its first, checked run is its only sample.
LONG_CALL = 0.1
MAX_SAMPLES = 100
# Reads of twice the last-level cache evict it under any replacement policy in use, up to a size that stays affordable.
EVICTION_FACTOR = 2
MAX_EVICTION_BYTES = 512 << 20

_QUANTILES = torch.tensor((0.2, 0.5, 0.8), dtype=torch.float64)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Prepared:
    """What one sample of a contender runs, how many of its calls that are, and how they are timed."""

    run: Call
    calls: int
    timing: str


class Sampler(Protocol):
    """Times one call at a time; each device has its own."""

    def sample(self, call: Call) -> float:
        """Prepare the caches, run ``call`` once and return the seconds that it took on the device."""


class Timer(Sampler, Protocol):
    """A sampler that also says how a contender is best sampled."""

    # Whether the first, checked run of a call may serve as a sample of it: not where that run also sets things up.
    first_run_counts: bool

    def prepare(self, calls: Callable[[int], Sequence[Call]], seconds: float) -> Prepared:
        """Make a contender ready to be sampled.

        `calls` gives its call any number of times, each on operands in other memory; `seconds` is what one took.
        """


class CpuTimer:
    """``perf_counter`` around a call, by default with the last-level cache holding none of its data.

    Parameters
    ----------
    cold
        Evict the caches before each sample.
    cache_bytes
        Size of the last-level cache.
    settle
        Called before each sample, for what still runs elsewhere to end: a GPU, when the host's own time is measured.
    """

    first_run_counts = True

    def __init__(self, *, cold: bool, cache_bytes: int = 0, settle: Callable[[], object] | None = None) -> None:
        self._settle = settle
        self._eviction: torch.Tensor | None = None
        if cold:
            size = min(EVICTION_FACTOR * cache_bytes, MAX_EVICTION_BYTES)
            # Ones, for untouched zero pages would all map to one physical page.
            self._eviction = torch.ones(size // 4, dtype=torch.float32)

    def prepare(self, calls: Callable[[int], Sequence[Call]], seconds: float) -> Prepared:
        return Prepared(calls(1)[0], 1, "clock")

    def sample(self, call: Call) -> float:
        if self._eviction is not None:
            # Reading leaves clean lines behind: the call under test pays for no write-back of ours, nor of its rival's.
            self._eviction.sum()
        if self._settle is not None:
            self._settle()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def keep_freed_pages() -> bool:
    """Ask the C library to keep freed memory mapped, so that outputs are written to warm pages; whether it agreed.

    A fresh output of tens of MB otherwise costs a page fault per 4 KB in every call, often more than the convolution
    does, and it costs each rival a different amount.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def interleave(calls: Sequence[Call], timer: Sampler, budget: float, first: Sequence[float]) -> list[list[float]]:
    """Sample several calls in turn, forwards and backwards, within a time budget.

    Parameters
    ----------
    calls
        What is compared.
    timer
        How one call is timed.
    budget
        Seconds for all calls together. Each call gets an equal share, counted with its cache preparation, and at least
        two samples, unless its first run has used up the share.
    first
        Seconds that each call's first (checked) run took. It counts as a sample where it is long, for a cold start is
        noise there, and the budget has no room for more; else it does not, and a short call gets a warm-up run besides.

    Returns
    -------
    list of list of float
        Seconds, per call; never empty.
    """
    share = budget / max(len(calls), 1)
    samples: list[list[float]] = [[seconds] if seconds >= max(share, LONG_CALL) else [] for seconds in first]
    spent = [sum(taken) for taken in samples]
    for call, seconds in zip(calls, first, strict=True):
        if seconds < LONG_CALL:
            timer.sample(call)
    while active := [i for i in range(len(calls)) if spent[i] < share and len(samples[i]) < MAX_SAMPLES]:
        for i in (*active, *reversed(active)):
            start = time.perf_counter()
            samples[i].append(timer.sample(calls[i]))
            spent[i] += time.perf_counter() - start
    return samples


def medians(calls: Sequence[Call], timer: Timer, budget: float) -> list[float]:
    """Median seconds of several calls that are made in turn, each as its timer samples it best.

    `budget` is in seconds, as for :func:`interleave`. A call has to have been run before, for what it sets up.
    """

    def prepare(call: Call) -> Prepared:
        return timer.prepare(lambda count: [call] * count, timer.sample(call))

    prepared = list(map(prepare, calls))
    samples = interleave([p.run for p in prepared], timer, budget, [0.0] * len(calls))
    return [quantiles(taken)[1] / p.calls for taken, p in zip(samples, prepared, strict=True)]


def quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The 20th percentile, the median and the 80th percentile."""
    p20, median, p80 = torch.tensor(samples, dtype=torch.float64).quantile(_QUANTILES).tolist()
    return p20, median, p80
