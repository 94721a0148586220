"""Host overhead: what one whole call costs besides the convolution, on a problem with next to nothing to compute."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

import convbound
from convbound.bench.cases import random_tensors
from convbound.bench.rivals import TORCH
from convbound.bench.rows import STATUS_FAILED, Row
from convbound.devices import Device
from convbound.problem import ConvProblem
from convbound.timing import interleave, quantiles

MODEL = "host"
PROBLEM = ConvProblem.parse("mb1g8ic8ih4oc8kh3ph1 host:overhead")
# One sample is this many calls, for the clock's own cost not to count.
CALLS = 50


def measure_overhead(backends: tuple[str, ...], device: Device, budget: float = 0.4) -> list[Row]:
    """Milliseconds of the host per call of ``convbound.conv2d`` by backend and of ``F.conv2d``, with warm caches.

    In fp32. On a GPU the calls only enqueue their work, and it is the enqueuing that is timed.
    """
    # Whole numbers, so that all results are equal, by tf32 too.
    x, w, _ = random_tensors(PROBLEM, torch.float32, device.place).map(torch.round)
    padding, groups = PROBLEM.padding[0][0], PROBLEM.groups

    def whole_call(backend: str) -> Callable[[], torch.Tensor]:
        if backend == TORCH:
            return lambda: F.conv2d(x, w, None, 1, padding, 1, groups)
        return lambda: convbound.conv2d(x, w, None, 1, padding, 1, groups, backend=backend)

    expected = whole_call(TORCH)()
    rows, calls = [], {}
    for backend in (*dict.fromkeys(("auto", *backends)), TORCH):
        call = whole_call(backend)
        row = Row(
            model=MODEL,
            layer="overhead",
            count=1,
            op="conv2d",
            family=PROBLEM.family,
            problem=str(PROBLEM),
            pass_="fprop",
            role="whole call",
            flops=PROBLEM.flops,
            bytes=PROBLEM.compulsory_bytes(torch.float32),
            intensity=PROBLEM.arithmetic_intensity(torch.float32),
            dtype="fp32",
            layout="NCHW",
            backend=backend,
            device=device.type,
            timing="clock",
            cache="warm",
        )
        try:
            torch.testing.assert_close(call(), expected)
            calls[backend] = call
        except Exception as error:  # kept in its row, as everywhere
            row.status, row.message = STATUS_FAILED, " ".join(f"{type(error).__name__}: {error}".split())
        rows.append(row)

    def repeated(call: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def loop() -> None:
            for _ in range(CALLS):
                call()

        return loop

    loops = [repeated(call) for call in calls.values()]
    samples = dict(zip(calls, interleave(loops, device.host_timer(), budget, [0.0] * len(calls)), strict=True))
    for row in (row for row in rows if row.backend in samples):
        row.samples = len(samples[row.backend])
        row.p20_ms, row.median_ms, row.p80_ms = (q / CALLS * 1e3 for q in quantiles(samples[row.backend]))
        if row.backend != TORCH and TORCH in samples:
            speedup = quantiles(samples[TORCH])[1] / CALLS * 1e3 / row.median_ms
            row.speedup_same_layout = row.speedup_best_layout = speedup
    return rows
