"""What a case is, and what can be wrong with it."""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from support.check import Results, explain_inexact, relative_error
from torch import Tensor

TORCH_FACTOR = 2.0
ULPS = 4.0


class Pasted:
    """A case whose text can be pasted into a test: its class, and what differs from the defaults. A dataclass."""

    def __repr__(self) -> str:
        said = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in said)})"


class Wrong(AssertionError):  # noqa: N818
    """A fault that a case has shown; faults of one kind are the same fault when a case is made smaller."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Unfit(Exception):  # noqa: N818
    """What a case describes does not exist: a problem without output, or one that its row does not serve."""


def check_exact(results: Results, wanted: Results, dtype: torch.dtype) -> None:
    """The results are the fp64 ones rounded once."""
    if complaint := explain_inexact(results, wanted, dtype):
        raise Wrong("wrong result", complaint)


def check_close(
    results: Results,
    wanted: Results,
    magnitudes: Results,
    terms: int,
    dtype: torch.dtype,
    torchs: Results | None = None,
) -> None:
    """The error, relative to sum |x||w|, is what rounding explains, or at most twice torch's."""
    info = torch.finfo(dtype)
    summing = 2.0 * math.sqrt(terms) * torch.finfo(torch.promote_types(dtype, torch.float32)).eps

    def largest(name: str, result: Tensor) -> float:
        # Products below the smallest normal number lose bits that the others keep.
        right, lost = wanted[name], info.smallest_normal * info.eps
        result = torch.where((result.double() - right).abs() <= lost, right, result.double())
        return float(relative_error(result, right, magnitudes[name]).max()) if right.numel() else 0.0

    for name in wanted:
        error, limit = largest(name, results[name]), ULPS * info.eps + summing
        if error > limit and torchs is not None:
            limit = TORCH_FACTOR * largest(name, torchs[name]) + ULPS * info.eps
        if error > limit:
            raise Wrong("inaccurate", f"the error of {name} is {error:.2e}, more than {limit:.2e}")


def check_strides(name: str, ours: Tensor, torchs: Tensor) -> None:
    """The strides are torch's wherever they mean something, and so is the layout that torch infers from them."""
    if ours.shape != torchs.shape or not ours.numel():
        return
    if _meaning(ours) != _meaning(torchs):
        raise Wrong(
            "other strides", f"{name} of shape {tuple(ours.shape)} has {ours.stride()}, torch's has {torchs.stride()}"
        )


def _meaning(tensor: Tensor) -> tuple[object, ...]:
    steps = [step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    formats = {4: (torch.channels_last,), 5: (torch.channels_last_3d,)}.get(tensor.dim(), ())
    return *steps, *(tensor.is_contiguous(memory_format=f) for f in (torch.contiguous_format, *formats))
