"""What would bind an experiment's convolutions on a GPU: lower bounds on their time, traced in the emulator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

import convbound
from convbound.bench.experiments.experiment import Point
from convbound.gpus import find_gpu
from convbound.problem import ConvProblem
from convbound.serving import serving_kernel

# Of one image. The emulator takes a second for ten million accesses.
_MOST_MULTIPLY_ADDS = 1e9


def predictions(points: Sequence[Point], gpu: str, dtype: torch.dtype = torch.float16) -> Iterator[str]:
    """A line for each convolution, pass and layout: the least time on the GPU and what binds it, as the trace says.

    One image is traced, and the others are taken to be like it. Where only a naive kernel serves, or where it cannot be
    traced, the time of the compulsory bytes stands alone.

    Raises
    ------
    ValueError
        When the GPU is unknown.
    """
    chosen = find_gpu(gpu)
    yield f"On {chosen.name}, in 16 bits, at least (lower bounds that were traced; nothing was measured):"
    seen = dict.fromkeys((p.problem, p.pass_, p.layout) for p in points if p.problem)
    if not seen:
        yield "  nothing to trace: no point of it is a single convolution"
    for text, pass_, layout in seen:
        problem = ConvProblem.parse(text)
        line = f"  {text} {pass_} {layout}: {1e6 * problem.compulsory_bytes(dtype) / chosen.dram:.3g} us for its bytes"
        try:
            kernel = serving_kernel(problem, pass_, dtype, layout, "cuda", chosen)
            if not kernel.designed:
                yield f"{line}; no fast CUDA C++ kernel serves it"
            elif problem.flops / 2 / problem.n > _MOST_MULTIPLY_ADDS:
                yield f"{line}; {kernel.name} is too slow in the emulator at this size"
            else:
                bound = convbound.trace(text, pass_, dtype=dtype, layout=layout, gpu=gpu, images=1).bounds[0]
                yield f"{line}; {kernel.name} needs {1e6 * bound.seconds:.3g} us, bound by {bound.resource}"
        except (RuntimeError, ValueError) as error:
            yield f"{line}; not traced: {error}"
