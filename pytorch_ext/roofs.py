"""What this very machine reaches: copy bandwidth and floating-point peak, measured on the spot.

Both are what code in this process, with this number of threads, can get: the two roofs of the roofline. A shared
machine changes from minute to minute, so a run measures them several times and takes medians (:func:`median_roofs`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from convbound.devices import Device
from convbound.gpus import Gpu
from convbound.kernels.precision import allows_tf32
from convbound.problem import DTYPE_NAMES
from convbound.timing import Timer

# Half-precision kernels that accumulate in fp32 can reach the fp32 peak, also where torch's product of halves does not.
_ALSO = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
# Names of the roofs in `Roofs.spread`, beside those of dtypes.
COPY, FMA = "copy", "fma"


@dataclass(frozen=True)
class Roofs:
    """The machine's limits.

    Parameters
    ----------
    copy_gbps
        Bytes read plus bytes written per second by the best copy, in GB/s (10^9).
    copy_method
        Which copy was best.
    peak_gflops
        GFLOP/s of the matrix product, by dtype name (fp32, bf16, …).
    fma_gflops
        GFLOP/s in fp32 without matrix units, for a depthwise convolution has no use for them; None where there are
        none.
    repeats
        How many measurements these are the medians of.
    spread
        The least and the most of them, for ``copy``, each dtype and ``fma``; empty for a single measurement.
    """

    copy_gbps: float
    copy_method: str
    peak_gflops: dict[str, float] = field(default_factory=dict)
    fma_gflops: float | None = None
    repeats: int = 1
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)

    def peak(self, dtype: str, *, depthwise: bool = False) -> float:
        """GFLOP/s that bound a problem's arithmetic."""
        return self._values()[self._bounding(dtype, depthwise)]

    def ridge(self, dtype: str, *, depthwise: bool = False) -> float:
        """FLOPs per byte above which a problem is bound by arithmetic."""
        return self.peak(dtype, depthwise=depthwise) / self.copy_gbps

    def ridge_spread(self, dtype: str, *, depthwise: bool = False) -> tuple[float, float]:
        """The least and the most that the ridge can be, given the spread of both roofs; the ridge twice without one."""
        ridge = self.ridge(dtype, depthwise=depthwise)
        if not self.spread:
            return ridge, ridge
        slowest, fastest = self.spread[COPY]
        least, most = self.spread[self._bounding(dtype, depthwise)]
        return least / fastest, most / slowest

    def _bounding(self, dtype: str, depthwise: bool) -> str:
        return FMA if depthwise and self.fma_gflops is not None and dtype != "fp64" else dtype

    def _values(self) -> dict[str, float]:
        fma = {} if self.fma_gflops is None else {FMA: self.fma_gflops}
        return {COPY: self.copy_gbps, **self.peak_gflops, **fma}


def promised_roofs(gpu: Gpu) -> Roofs:
    """The roofs of a named GPU by its data sheet, fp32 products by tf32 where torch lets cuDNN use it."""
    rates = {dtype: gpu.product_rate(dtype, tf32=allows_tf32()) for dtype in DTYPE_NAMES}
    peaks = {DTYPE_NAMES[dtype]: 2 * rate / 1e9 for dtype, rate in rates.items()}
    return Roofs(gpu.dram / 1e9, "data sheet", peaks, 2 * gpu.fma_rate(torch.float32) / 1e9)


def _best_seconds(call: Callable[[], object], timer: Timer, budget: float) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        best = min(best, timer.sample(call))
    return best


def measure_copy(device: Device, timer: Timer, budget: float = 0.4) -> tuple[float, str]:
    """GB/s of the best copy between buffers larger than the last cache, and its name."""
    elements = min(max(2 * device.cache_bytes(), device.min_copy_bytes), device.max_copy_bytes) // 4
    source, target = torch.ones(elements, device=device.place), torch.zeros(elements, device=device.place)
    methods = device.copies(source, target)
    seconds = {name: _best_seconds(call, timer, budget / len(methods)) for name, call in methods.items()}
    best = min(seconds, key=seconds.__getitem__)
    return 2 * source.nbytes / seconds[best] / 1e9, best


def measure_peak(device: Device, timer: Timer, dtype: torch.dtype, budget: float = 0.6) -> float:
    """GFLOP/s of torch's best square matrix product.

    Small products find the quiet moments of a busy machine, large ones feed many cores; products grow until one takes a
    fair part of its share of the budget.
    """
    best, share = 0.0, budget / len(device.product_edges)
    for edge in device.product_edges:
        a, b = (torch.randn(edge, edge, device=device.place).to(dtype) for _ in range(2))
        seconds = _best_seconds(partial(torch.mm, a, b, out=torch.empty_like(a)), timer, share)
        best = max(best, 2 * edge**3 / seconds / 1e9)
        if seconds > share / 4:
            break
    return best


def measure_roofs(device: Device, dtypes: Sequence[torch.dtype]) -> Roofs:
    """Measure the copy and, for each dtype, the matrix product; about a second."""
    timer = device.timer(cold=False)
    copy_gbps, method = measure_copy(device, timer)
    measure = partial(measure_peak, device, timer)
    peaks = {dtype: measure(dtype) for dtype in {*dtypes, *(_ALSO[d] for d in dtypes if d in _ALSO)}}
    best = {dtype: max(peaks[dtype], peaks.get(_ALSO.get(dtype, dtype), 0.0)) for dtype in dtypes}
    fma = device.fma_peak(measure)
    device.release()
    return Roofs(copy_gbps, method, {DTYPE_NAMES[dtype]: peak for dtype, peak in best.items()}, fma)


def median_roofs(measured: Sequence[Roofs]) -> Roofs:
    """The median of each roof over several measurements, with the least and the most; a single one as it is.

    Each measurement is the best of its many calls, so that no pause counts. Their median is the machine as it was for
    most of the run: neither its one quiet moment nor its one busy one.
    """
    if len(measured) == 1:
        return measured[0]
    values = [roofs._values() for roofs in measured]
    found = {name: [each[name] for each in values] for name in values[0]}
    medians = {name: statistics.median(each) for name, each in found.items()}
    return Roofs(
        copy_gbps=medians.pop(COPY),
        copy_method=statistics.mode(roofs.copy_method for roofs in measured),
        fma_gflops=medians.pop(FMA, None),
        peak_gflops=medians,
        repeats=len(measured),
        spread={name: (min(each), max(each)) for name, each in found.items()},
    )
