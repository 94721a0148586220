"""What the Triton kernels cannot do, and why: known without Triton, a GPU or tensors."""

from __future__ import annotations

import math

import torch

from convbound.problem import DTYPES, ConvProblem, Pass

# 32-bit numbers end at 2^31; the last tile may reach beyond the last element.
LARGEST = 2**31 - 2**16

# The fewest output positions that one program of any row covers.
LEAST_POSITIONS = 32


def unsupported(problem: ConvProblem, pass_: Pass, dtype: torch.dtype) -> str | None:
    """Why no kernel of the table serves this pass of the problem, in either layout; None where one does.

    Offsets inside one image are 32 bits wide, and so is the grid: the last reasons are about that.
    """
    if problem.ndim > 2:
        return f"has kernels for 1 and 2 spatial dimensions, and {problem} has {problem.ndim}"
    if dtype not in DTYPES:
        return f"has kernels for fp16, bf16, fp32 and fp64, not for {dtype}"

    padded = [i + begin + max(end, 0) for i, (begin, end) in zip(problem.input, problem.padding, strict=True)]
    output = math.prod(problem.output)
    image = max(problem.c * math.prod(padded), problem.k * output, problem.parameters + problem.k)
    if image > LARGEST:
        return f"indexes an image and the filter by 32 bits, but {problem} needs up to {image} elements"

    if pass_ == "wgrad" or not problem.depthwise:
        # Matrix products take positions of all images for rows; of a wgrad the last chunk may be mostly beyond the end.
        positions = problem.n * max(output, math.prod(padded))
        if positions > LARGEST // 2:
            return f"counts the positions of all images by 32 bits, but {problem} has up to {positions}"
    else:
        positions, channels = (output, problem.k) if pass_ == "fprop" else (math.prod(problem.input), problem.c)
        programs = problem.n * channels * -(-positions // LEAST_POSITIONS)
        if programs > LARGEST:
            return f"would need a grid of up to {programs} programs for {problem}, more than {LARGEST}"
    return None
