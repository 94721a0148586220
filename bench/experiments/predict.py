"""What would bind an experiment's convolutions on a GPU: lower bounds on their time, traced in the emulator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

import convbound
from convbound.bench.experiments.experiment import Point
from convbound.gpus import find_gpu
from convbound.problem import ConvProblem

# Larger ones take minutes in the emulator, by a naive kernel above all.
_MOST_MULTIPLY_ADDS = 3e9


def predictions(points: Sequence[Point], gpu: str, dtype: torch.dtype = torch.float16) -> Iterator[str]:
    """A line for each convolution, pass and layout: the least time on the GPU and what binds it, as the trace says.

    One image is traced, and the others are taken to be like it. Where only a naive kernel serves, and where nothing can
    be traced, the floor of the compulsory bytes stands alone.
    """
    chosen = find_gpu(gpu)
    yield f"on {chosen.name}, fp16, at least (traced lower bounds, no measurements):"
    seen = dict.fromkeys((p.problem, p.pass_, p.layout) for p in points if p.problem)
    if not seen:
        yield "  nothing to trace: no point of it is a single convolution"
    for text, pass_, layout in seen:
        problem = ConvProblem.parse(text)
        floor = problem.compulsory_bytes(dtype) / chosen.dram
        line = f"  {text} {pass_} {layout}: {1e6 * floor:.3g} us for its bytes from DRAM"
        if problem.flops / 2 > _MOST_MULTIPLY_ADDS:
            yield f"{line}; too large to trace"
            continue
        try:
            traced = convbound.trace(text, pass_, dtype=dtype, layout=layout, gpu=gpu, images=1)
        except (RuntimeError, ValueError) as error:
            yield f"{line}; not traced: {error}"
            if "emulated" in str(error):
                return
            continue
        bound = traced.bounds[0]
        yield f"{line}; {traced.kernel} needs {1e6 * bound.seconds:.3g} us, bound by {bound.resource}"
