"""Which backends there are, and what each of them cannot do."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from convbound import _library
from convbound.kernels import limits as triton_limits
from convbound.kernels import ops as triton_ops
from convbound.problem import ConvProblem, Pass

ENVIRONMENT_VARIABLE = "CONVBOUND_BACKEND"
NAMES = ("auto", "cpu", "cuda", "triton", "simt", "torch")
PARTIAL = ("triton",)  # that have no kernel for some problems and know it beforehand


@dataclass(frozen=True)
class Backend:
    """A backend that ``backend=`` accepts; `absent` says why it cannot be used, or is None.

    An `emulated` one computes what a GPU would compute, in a time that says nothing.
    """

    name: str
    kernels: str
    devices: tuple[str, ...]
    absent: str | None = None
    emulated: bool = False

    @property
    def available(self) -> bool:
        """Whether it can be used in this process."""
        return self.absent is None


@dataclass(frozen=True)
class Choice:
    """The backend that serves a pass, and why; before it does, the first use is to time `untried` ones beside torch."""

    backend: str
    reason: str
    untried: tuple[str, ...] = ()


# Fixed at import, so that torch.compile sees constants.
CPU_ISA = "none" if isinstance(_library.introspect, str) else str(_library.introspect.cpu_isa())
_TRITON = "Triton, interpreted (slow: to test kernels)" if triton_ops.INTERPRETING else "Triton"
_BACKENDS = (
    Backend("cpu", f"native C++ ({CPU_ISA})", ("cpu",), _library.ABSENT["cpu"]),
    Backend("cuda", "CUDA C++", ("cuda",), _library.ABSENT["cuda"]),
    Backend("triton", _TRITON, triton_ops.DEVICES, _library.ABSENT["triton"], triton_ops.INTERPRETING),
    Backend("simt", "CUDA C++, emulated (slow: to test kernels)", ("cpu",), _library.ABSENT["simt"], True),
    Backend("torch", "ATen (oneDNN on a CPU, cuDNN on a GPU)", ("cpu", "cuda")),
)


def backends() -> tuple[Backend, ...]:
    """All backends but ``auto``, which chooses among them.

    Examples
    --------
    >>> [backend.name for backend in convbound.backends() if backend.available]
    ['cpu', 'simt', 'torch']
    """
    return _BACKENDS


def our_backends(device: str) -> list[str]:
    """The backends of ours that compute on a type of device, and do not only emulate."""
    rows = [row for row in _BACKENDS if row.available and not row.emulated and device in row.devices]
    return [row.name for row in rows if row.name != "torch"]


def default_backend() -> str:
    """The backend of calls that name none: the environment variable CONVBOUND_BACKEND, else ``auto``."""
    return os.environ.get(ENVIRONMENT_VARIABLE, "").strip() or "auto"


def check_name(caller: str, backend: str | None) -> None:
    """Raise a ValueError in the name of `caller` for what is no backend; None stands for the default."""
    if backend is not None and backend not in NAMES:
        raise ValueError(f"{caller}: backend={backend!r} is unknown; choose one of {', '.join(NAMES)}")


def refusal(backend: str, device: str) -> str | None:
    """Why a named backend cannot run on tensors of a device type, or None."""
    for row in _BACKENDS:
        if row.name == backend:
            if row.absent is not None:
                return f"is not available: {row.absent}"
            if device not in row.devices:
                return f"runs on {' and '.join(row.devices)} tensors, not on {device}"
            return None
    raise KeyError(backend)


def unsupported(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, backend: str) -> str | None:
    """Why a named backend has no kernel for one pass of a problem, or None."""
    return triton_limits.unsupported(problem, pass_, dtype) if backend in PARTIAL else None
