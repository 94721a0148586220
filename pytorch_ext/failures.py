"""Errors of kernels, in one line: what failed, and where memory lacks, how much the problem needs."""

from __future__ import annotations

import torch

from convbound.problem import DTYPE_NAMES, ConvProblem
from convbound.untrusted import printable

# How allocators say that there is no memory: torch's and our ops', CUDA's, cuDNN's, C++'s. The last is all that torch's
# stable interface leaves of it, where an op of ours asks for a vector of the bias's size; nothing else fails like that.
_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed", "bad_alloc", "api call failed")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is about memory, which may suffice another time."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)


def failure(error: Exception, problem: ConvProblem, dtype: torch.dtype) -> str:
    """An error in one line; where memory lacks, for what, and how many bytes its tensors take at least."""
    text = printable(" ".join(f"{type(error).__name__}: {error}".split()))
    if not is_out_of_memory(error):
        return text
    size = problem.compulsory_bytes(dtype)
    name = DTYPE_NAMES[dtype]
    return f"out of memory for {problem}, whose tensors take {size} bytes ({size / 1e9:.3g} GB) in {name}: {text}"
