"""What becomes of a derivative of the ops themselves: an error, where torch would give zeros and a warning.

The derivatives are in :mod:`convbound.autograd`, whose Functions call the ops below autograd. Only a graph that was
recorded with a named backend (torch.export, torch.jit.trace, make_fx) calls them elsewhere. Formulas registered here
would be right in some of such graphs only, so there are none: ``auto`` records torch's convolution.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

# Private, and missed by nothing but the errors of this module: without it the ops stay as they are.
_BELOW: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", None)
_LIBRARY: Any = torch.library.Library("convbound", "IMPL")  # type: ignore[no-untyped-call]


def below_autograd() -> AbstractContextManager[None]:
    """Where the ops do not come by here, which costs them 10 us a call."""
    return nullcontext() if _BELOW is None or torch.compiler.is_compiling() else _BELOW()  # type: ignore[no-any-return]


def register(backend: str, pass_: str) -> None:
    """Let an op raise where it is differentiated; it has to be loaded."""
    if _BELOW is None:
        return
    op = getattr(torch.ops.convbound, f"{backend}_{pass_}").default

    def call(*args: Any) -> Any:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        # A transform that only maps has been dealt with before autograd is asked.
        if (wanted and torch._C._are_functorch_transforms_active()) or _any_has_tangent(tensors):
            _refuse(op)
        if wanted:
            return _Refusing.apply(op, *args)  # type: ignore[no-untyped-call]
        with _BELOW():
            return op(*args)

    _LIBRARY.impl(f"{backend}_{pass_}", call, "Autograd")


def _any_has_tangent(tensors: list[Tensor]) -> bool:
    unpack: Any = forward_ad.unpack_dual
    return forward_ad._current_level >= 0 and any(unpack(tensor).tangent is not None for tensor in tensors)


def _refuse(op: Any) -> NoReturn:
    raise RuntimeError(
        f"{op.name()} has no derivative in a recorded graph (torch.export, torch.jit.trace, make_fx): record the graph "
        "with backend='auto', which records torch's convolution"
    )


class _Refusing(Function):
    """The op, as a node of a graph that may be built but not walked."""

    @staticmethod
    def forward(ctx: Any, op: Any, *args: Any) -> Any:
        ctx.op = op
        with _BELOW():
            return op(*args)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> NoReturn:
        _refuse(ctx.op)
