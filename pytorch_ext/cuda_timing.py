"""The timer of a GPU: CUDA events around the replay of a CUDA graph, so that no time of the host is in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from convbound.timing import EVICTION_FACTOR, Call, Prepared

# Calls shorter than this (seconds) are captured into a graph, so that no time of the host hides in theirs.
GRAPH_BELOW = 1e-3
# A sample of short calls repeats them up to this length, far above the half microsecond that events resolve, and at
# most this often.
SAMPLE_SECONDS, MAX_CALLS = 200e-6, 8
# As PyTorch's documentation has it before a capture: libraries choose their algorithms and allocate in these runs.
WARM_UP_RUNS = 3


class CudaTimer:
    """CUDA events around a call on the current stream.

    A cold sample flushes L2 first: twice its size is written, which evicts everything under any policy, and then read,
    so that no dirty lines are left for the call under test to write back. The flush, or the call that warms the caches,
    also keeps the GPU busy while the host enqueues event, call and event: the time between the events has no gap in it.

    Parameters
    ----------
    cold
        Flush L2 before each sample; otherwise the call itself runs once before, for its data to be in the caches.
    cache_bytes
        Size of L2.
    place
        The GPU.
    """

    first_run_counts = False

    def __init__(self, *, cold: bool, cache_bytes: int, place: torch.device) -> None:
        self._flush: torch.Tensor | None = None
        if cold:
            self._flush = torch.zeros(EVICTION_FACTOR * cache_bytes // 4, dtype=torch.float32, device=place)
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def prepare(self, calls: Callable[[int], Sequence[Call]], seconds: float) -> Prepared:
        """A graph of several calls where one is short, each on operands of its own; else the call itself.

        What cannot be captured is timed as it is, with what its host code costs: the timing says ``events``.
        """
        if seconds < GRAPH_BELOW:
            count = max(1, min(MAX_CALLS, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-6))))
            repeated = calls(count) if self._flush is not None else [calls(1)[0]] * count
            try:
                return Prepared(capture(repeated).replay, count, "graph")
            except RuntimeError:
                torch.cuda.synchronize()  # raises again where more than the capture is lost
        return Prepared(calls(1)[0], 1, "events")

    def sample(self, call: Call) -> float:
        if self._flush is None:
            call()
        else:
            self._flush.zero_()
            self._flush.sum()
        self._start.record()
        call()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3


def capture(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """One CUDA graph of all calls in turn, after a warm-up on the stream of the capture."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    # torch.cuda.graph does not restore the current stream when a capture fails; this does.
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            for call in calls:
                call()
        # Other threads, such as those that load data, may call CUDA meanwhile: only this one's calls are restricted.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            # All results live until the end of the capture, so that no call writes where another has written.
            results = [call() for call in calls]
        del results
    torch.cuda.current_stream().wait_stream(stream)
    return graph
