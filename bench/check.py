"""Checks before timing: every result is compared with an fp64 reference, element by element.

What a result errs by, and how much of that is allowed, is defined in :mod:`convbound.accuracy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from convbound.accuracy import allowed_error, largest_error
from convbound.bench.cases import Case, Tensors
from convbound.bench.rivals import cudnn, torch_convolution


class Reference:
    """The fp64 result of a case, and what its rounding errors are measured against."""

    def __init__(self, case: Case, tensors: Tensors) -> None:
        # One thread, because torch's fp64 loops over groups, and waking threads for each costs more than it saves.
        # Without cuDNN the reference shares no code with the rival, and waits for no search of the fastest algorithm.
        with cudnn(enabled=False), threads(1 if case.problem.groups > 1 else torch.get_num_threads()):
            self._exact = torch_convolution(case.problem, case.pass_)(*tensors.map(torch.Tensor.double))
        # The scale needs no more than a few digits, and torch's fp64 convolutions are slow.
        magnitude = torch_convolution(case.problem, case.pass_)(*tensors.map(lambda t: t.float().abs()))
        self._scale = magnitude.double()
        self._dtype = case.dtype

    def error(self, result: torch.Tensor) -> float:
        """The largest relative error over all elements; infinite where an element is missing or not a number.

        Raises
        ------
        ValueError
            When the result has another shape, or is zero everywhere though the reference is not.
        """
        if result.shape != self._exact.shape:
            raise ValueError(f"the result has shape {tuple(result.shape)}, not {tuple(self._exact.shape)}")
        if not result.any() and self._exact.any():
            raise ValueError("the result is zero everywhere")
        return largest_error(result, self._exact, self._scale)

    def limit(self, torch_error: float) -> float:
        """The error that is allowed, given torch's own."""
        return allowed_error(torch_error, self._dtype)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, and for our CPU kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Let torch fill new tensors with NaN, so that an element that a kernel never writes is seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
