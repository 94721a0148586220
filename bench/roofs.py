"""What this very machine reaches: copy bandwidth and floating-point peak, measured on the spot.

Both are what code in this process, with this number of threads, can get: the two roofs of the roofline.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch

from convbound.bench.machine import last_level_cache_bytes
from convbound.problem import DTYPE_NAMES

MIN_COPY_BYTES = 128 << 20
MAX_COPY_BYTES = 512 << 20
# Half-precision kernels that accumulate in fp32 can reach the fp32 peak, also where torch's product of halves does not.
_ALSO = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_EDGES = (384, 768, 1536, 3072)


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
        GFLOP/s by dtype name (fp32, bf16, …).
    """

    copy_gbps: float
    copy_method: str
    peak_gflops: dict[str, float] = field(default_factory=dict)

    def ridge(self, dtype: str) -> float:
        """FLOPs per byte above which a problem is bound by arithmetic."""
        return self.peak_gflops[dtype] / self.copy_gbps


def _best_seconds(call: Callable[[], object], budget: float) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def measure_copy(budget: float = 0.6) -> tuple[float, str]:
    """GB/s of the best copy between warm buffers larger than the last-level cache, and its name."""
    elements = min(max(2 * last_level_cache_bytes(), MIN_COPY_BYTES), MAX_COPY_BYTES) // 4
    source, target = torch.ones(elements), torch.zeros(elements)
    threads = torch.get_num_threads()
    # The C library's memcpy switches to streaming stores for blocks of this size; ctypes lets other threads run.
    chunk = elements * 4 // threads
    starts = [i * chunk for i in range(threads)]

    def copy_chunk(start: int) -> None:
        ctypes.memmove(target.data_ptr() + start, source.data_ptr() + start, chunk)

    with ThreadPoolExecutor(threads) as pool:
        methods: dict[str, Callable[[], object]] = {
            "torch copy_": lambda: target.copy_(source),
            "threaded memcpy": lambda: list(pool.map(copy_chunk, starts)),
        }
        seconds = {name: _best_seconds(call, budget / len(methods)) for name, call in methods.items()}
    best = min(seconds, key=seconds.__getitem__)
    return 2 * 4 * elements / seconds[best] / 1e9, best


def measure_peak(dtype: torch.dtype, budget: float = 0.8) -> float:
    """GFLOP/s of torch's best square matrix product.

    Small products find the quiet moments of a busy machine, large ones feed many cores; products grow until one takes a
    fair part of its share of the budget.
    """
    best, share = 0.0, budget / len(_EDGES)
    for edge in _EDGES:
        a, b = (torch.randn(edge, edge).to(dtype) for _ in range(2))
        seconds = _best_seconds(partial(torch.mm, a, b, out=torch.empty_like(a)), share)
        best = max(best, 2 * edge**3 / seconds / 1e9)
        if seconds > share / 4:
            break
    return best


def measure_roofs(dtypes: Sequence[torch.dtype]) -> Roofs:
    """Measure the copy and, for each dtype, the matrix product; about two seconds."""
    copy_gbps, method = measure_copy()
    peaks = {dtype: measure_peak(dtype) for dtype in {*dtypes, *(_ALSO[d] for d in dtypes if d in _ALSO)}}
    best = {dtype: max(peaks[dtype], peaks.get(_ALSO.get(dtype, dtype), 0.0)) for dtype in dtypes}
    return Roofs(copy_gbps, method, {DTYPE_NAMES[dtype]: peak for dtype, peak in best.items()})
