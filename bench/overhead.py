"""Host overhead: what one whole call costs besides the convolution, on problems with next to nothing to compute.

On a CPU each is measured on one thread and on the threads of the run. Where these threads wait for one another, a call
can take a hundred times as long as on one (:func:`contention`), and no kernel is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from convbound.bench.auto import AUTO, forward_call
from convbound.bench.cases import random_tensors
from convbound.bench.check import threads
from convbound.bench.rivals import TORCH
from convbound.bench.rows import STATUS_FAILED, Row
from convbound.bench.tables import Layer
from convbound.devices import Device
from convbound.problem import ConvProblem
from convbound.timing import interleave, quantiles

MODEL = "host"
PROBLEMS = {
    "depthwise": ConvProblem.parse("mb1g8ic8ih4oc8kh3ph1 host:depthwise"),
    "dense": ConvProblem.parse("mb1ic8ih4oc8kh3ph1 host:dense"),
    "1-D": ConvProblem.parse("mb1g8ic8iw16oc8kw3pw1 host:1-D"),
}
# One sample is this many calls, for the clock's own cost not to count; fewer where calls take so long that it does not.
CALLS, SAMPLE_SECONDS = 50, 5e-3
# A call that takes so many times as long on all threads as on one waits for them, for there is no work to share.
CONTENDED = 3.0


def measure_overhead(backends: Sequence[str], device: Device, budget: float = 0.25) -> list[Row]:
    """Milliseconds of the host per forward call by problem, threads and backend, with warm caches, in fp32.

    ``auto`` and torch are always among the backends. `budget` is in seconds for each problem and number of threads. On
    a GPU the calls only enqueue their work, and it is the enqueuing that is timed; it needs one thread.
    """
    everything = torch.get_num_threads()
    counts = sorted({1, everything}) if device.type == "cpu" else [everything]
    rows = []
    for name, problem in PROBLEMS.items():
        # Whole numbers, so that all results are equal, by tf32 too.
        x, w, dy = random_tensors(problem, torch.float32, device.place).map(torch.round)
        layer = Layer(MODEL, name, 1, False, "quick", problem)
        for count in counts:
            with threads(count):
                rows += _measure(layer, (x, w, dy), tuple(dict.fromkeys((AUTO, *backends, TORCH))), device, budget)
    return rows


def contention(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows of the host overhead on one thread, each with that on several that takes far longer."""
    single = {(row.layer, row.backend): row for row in rows if row.threads == 1 and row.median_ms}
    pairs = [(single.get((row.layer, row.backend)), row) for row in rows if row.threads != 1 and row.median_ms]
    return [
        (one, many)
        for one, many in pairs
        if one is not None and (many.median_ms or 0.0) >= CONTENDED * (one.median_ms or 0.0)
    ]


def _measure(layer: Layer, tensors: Sequence[Tensor], names: Sequence[str], device: Device, budget: float) -> list[Row]:
    """The rows of one problem on the current number of threads."""
    problem = layer.problem
    calls = {name: partial(forward_call(layer, name), *tensors) for name in names}
    expected = calls[TORCH]()
    timer = device.host_timer()
    rows, loops, counts = [], {}, {}
    for name, call in calls.items():
        row = Row(
            model=MODEL,
            layer=layer.name,
            count=1,
            op=f"conv{problem.ndim}d",
            family=problem.family,
            problem=str(problem),
            pass_="fprop",
            role="whole call",
            flops=problem.flops,
            bytes=problem.compulsory_bytes(torch.float32),
            intensity=problem.arithmetic_intensity(torch.float32),
            dtype="fp32",
            layout="NCHW",
            backend=name,
            device=device.type,
            timing="clock",
            cache="warm",
            threads=torch.get_num_threads(),
        )
        try:
            torch.testing.assert_close(call(), expected)
            counts[name] = max(1, min(CALLS, round(SAMPLE_SECONDS / max(timer.sample(call), 1e-9))))
            loops[name] = _repeated(call, counts[name])
        except Exception as error:  # kept in its row, as everywhere
            row.status, row.message = STATUS_FAILED, " ".join(f"{type(error).__name__}: {error}".split())
        rows.append(row)
    samples = dict(zip(loops, interleave(list(loops.values()), timer, budget, [0.0] * len(loops)), strict=True))
    found = {name: [q / counts[name] * 1e3 for q in quantiles(taken)] for name, taken in samples.items()}
    for row in (row for row in rows if row.backend in found):
        row.samples = len(samples[row.backend])
        row.p20_ms, row.median_ms, row.p80_ms = found[row.backend]
        if row.backend != TORCH and TORCH in found:
            row.speedup_same_layout = row.speedup_best_layout = found[TORCH][1] / row.median_ms
    return rows


def _repeated(call: Callable[[], Tensor], count: int) -> Callable[[], None]:
    def loop() -> None:
        for _ in range(count):
            call()

    return loop
