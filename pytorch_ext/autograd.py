"""Three autograd Functions, one per pass, whose backwards call each other.

A convolution is bilinear in x and w, so every derivative of a pass is again a pass of the same problem:

    =========  =============================  =============================
    forward    gradient of its first tensor   gradient of its second tensor
    =========  =============================  =============================
    y = fprop(x, w)    dx = dgrad(dy, w)      dw = wgrad(dy, x)
    x = dgrad(y, w)    dy = fprop(dx, w)      dw = wgrad(y, dx)
    w = wgrad(y, x)    dy = fprop(x, dw)      dx = dgrad(y, dw)
    =========  =============================  =============================

Double backward, and any order beyond, follow from that. Backward saves the two tensors and nothing else.

Forward-mode derivatives live in subclasses: a Function with a ``jvp`` does not compile with ``fullgraph=True``, so the
plain class serves while torch.compile traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from convbound import ops
from convbound.choice import first_use
from convbound.choice.first_use import Work
from convbound.problem import ConvProblem, Pass

is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Plan:
    """The backend of each pass, the passes that are to be measured first, and the layout of all results.

    No tuple, for torch.func would take the strings in it for arguments of their own.
    """

    fprop: str
    dgrad: str
    wgrad: str
    channels_last: bool
    untried: frozenset[Pass] = frozenset()

    def is_torchs(self, pass_: Pass) -> bool:
        """Whether torch serves a pass, and nothing is to be measured for it."""
        return getattr(self, pass_) == "torch" and pass_ not in self.untried


def fprop(x: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, plan: Plan) -> Tensor:
    """Differentiable y ``(n, k, *output)``."""
    result: Tensor = _call(_Fprop, _FpropJvp, x, w, bias, problem, plan)
    return result


def dgrad(dy: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, plan: Plan) -> Tensor:
    """Differentiable dx ``(n, c, *input)``: gradient of the input, and forward of a transposed convolution."""
    result: Tensor = _call(_Dgrad, _DgradJvp, dy, w, bias, problem, plan)
    return result


def wgrad(dy: Tensor, x: Tensor, bias_grad: bool, problem: ConvProblem, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Differentiable dw ``(k, c // groups, *filter)`` and, if asked, dbias ``(k,)``."""
    result: tuple[Tensor, Tensor | None] = _call(_Wgrad, _WgradJvp, dy, x, bias_grad, problem, plan)
    return result


def run(pass_: Pass, *args: Any) -> Any:
    """One pass without derivatives: the arguments are those of the function of its name."""
    return {"fprop": _Fprop, "dgrad": _Dgrad, "wgrad": _Wgrad}[pass_].forward(*args)


def _call(plain: Any, with_jvp: Any, *args: Any) -> Any:
    if torch.compiler.is_compiling():
        return plain.apply(*args)
    # torch.jit.trace would keep a Function as a node that it cannot save; what it records has no derivatives anyway.
    return with_jvp.apply(*args) if differentiated(args[:3]) and not is_tracing() else plain.forward(*args)


_EXPORT, _TRACE, _MAKE_FX, _VMAP = "torch.export", "torch.jit.trace", "make_fx", "torch.func.vmap in torch.compile"
_TRANSFORM = "torch.func, or forward mode, in torch.compile, torch.export or torch.jit.trace"


def recorder() -> str | None:
    """Who records or transforms a graph that our ops get into without the derivatives of our Functions; None if nobody.

    torch.compile alone is no such: it takes over the Functions' backwards.
    """
    if torch.compiler.is_compiling():
        return _compiled_transform() or (_EXPORT if torch.compiler.is_exporting() else None)
    if is_tracing():
        return _TRANSFORM if _transforms() else _TRACE
    return _MAKE_FX if get_proxy_mode() is not None else None


def refusal(recorder: str | None) -> str | None:
    """Why no named backend can serve there, or None: see :mod:`convbound.derivatives` for the other graphs."""
    return f"does not go with {_TRANSFORM}; backend='auto' does" if recorder == _TRANSFORM else None


def _compiled_transform() -> str | None:
    if not _transforms():
        return None
    levels = torch._C._functorch.get_interpreter_stack() or ()
    maps = forward_ad._current_level < 0 and all(
        level.key() == torch._C._functorch.TransformType.Vmap for level in levels
    )
    return _VMAP if maps and not torch.compiler.is_exporting() else _TRANSFORM


# torch.compile enters transforms while it traces, so this is the right answer, and no part of the graph. It is what
# torch.compiler.assume_constant_result does, which imports the compiler, and with it Triton, for a second.
_compiled_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def differentiated(tensors: Iterable[Any]) -> bool:
    """Whether any derivative can be asked for. If not, the 30 us that Function.apply costs are saved."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # no generator, which costs more than the rest of it
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                return True
    return _transforms()


def _transforms() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _sum_to_channels(y: Tensor) -> Tensor:
    return y.sum([axis for axis in range(y.dim()) if axis != 1])


def _per_channel(bias: Tensor, like: Tensor) -> Tensor:
    return bias.reshape([-1] + [1] * (like.dim() - 2)).expand(like.shape)


def _add(terms: list[Tensor]) -> Tensor | None:
    total = None
    for term in terms:
        total = term if total is None else total + term
    return total


class _Pass(Function):
    """What the three have in common: inputs (tensor, tensor, _, problem, plan), and the tensors saved."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        first, second, _, ctx.problem, ctx.plan = inputs
        ctx.save_for_backward(first, second)
        ctx.set_materialize_grads(False)


class _PassJvp(_Pass):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _Pass.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], inputs[1])


class _Fprop(_Pass):
    @staticmethod
    def forward(x: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, plan: Plan) -> Tensor:
        if "fprop" in plan.untried:
            y: Tensor = first_use.run(Work("fprop", problem, plan.channels_last, x, w, bias))
            return y
        return ops.fprop(x, w, bias, problem, backend=plan.fprop, channels_last=plan.channels_last)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 5
        x, w = ctx.saved_tensors
        dx = dw = dbias = None
        if ctx.needs_input_grad[0]:
            dx = dgrad(dy, w, None, ctx.problem, ctx.plan)
        if ctx.needs_input_grad[1]:
            dw, dbias = wgrad(dy, x, ctx.needs_input_grad[2], ctx.problem, ctx.plan)
        elif ctx.needs_input_grad[2]:
            dbias = _sum_to_channels(dy)
        return dx, dw, dbias, None, None


class _FpropJvp(_PassJvp, _Fprop):
    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, w_t: Tensor | None, bias_t: Tensor | None, *_: None) -> Tensor | None:
        x, w = ctx.saved_tensors
        terms = []
        if x_t is not None:
            terms.append(fprop(x_t, w, None, ctx.problem, ctx.plan))
        if w_t is not None:
            terms.append(fprop(x, w_t, None, ctx.problem, ctx.plan))
        if bias_t is not None:
            y_shape = x.new_empty(()).expand(ctx.problem.y_shape)
            terms.append(_per_channel(bias_t, y_shape))
        return _add(terms)


class _Dgrad(_Pass):
    @staticmethod
    def forward(dy: Tensor, w: Tensor, bias: Tensor | None, problem: ConvProblem, plan: Plan) -> Tensor:
        if "dgrad" in plan.untried:
            dx: Tensor = first_use.run(Work("dgrad", problem, plan.channels_last, dy, w, bias))
            return dx
        return ops.dgrad(dy, w, bias, problem, backend=plan.dgrad, channels_last=plan.channels_last)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 5
        dy, w = ctx.saved_tensors
        d_dy = dw = dbias = None
        if ctx.needs_input_grad[0]:
            d_dy = fprop(g, w, None, ctx.problem, ctx.plan)
        if ctx.needs_input_grad[1]:
            dw, _ = wgrad(dy, g, False, ctx.problem, ctx.plan)
        if ctx.needs_input_grad[2]:
            dbias = _sum_to_channels(g)
        return d_dy, dw, dbias, None, None


class _DgradJvp(_PassJvp, _Dgrad):
    @staticmethod
    def jvp(ctx: Any, dy_t: Tensor | None, w_t: Tensor | None, bias_t: Tensor | None, *_: None) -> Tensor | None:
        dy, w = ctx.saved_tensors
        terms = []
        if dy_t is not None:
            terms.append(dgrad(dy_t, w, None, ctx.problem, ctx.plan))
        if w_t is not None:
            terms.append(dgrad(dy, w_t, None, ctx.problem, ctx.plan))
        if bias_t is not None:
            x_shape = dy.new_empty(()).expand(ctx.problem.x_shape)
            terms.append(_per_channel(bias_t, x_shape))
        return _add(terms)


class _Wgrad(_Pass):
    @staticmethod
    def forward(
        dy: Tensor, x: Tensor, bias_grad: bool, problem: ConvProblem, plan: Plan
    ) -> tuple[Tensor, Tensor | None]:
        backend, channels_last = plan.wgrad, plan.channels_last
        if "wgrad" in plan.untried:
            dw, dbias = first_use.run(Work("wgrad", problem, channels_last, dy, x, bias_grad=bias_grad))
            return dw, dbias
        return ops.wgrad(dy, x, problem, bias_grad=bias_grad, backend=backend, channels_last=channels_last)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_bias: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, x = ctx.saved_tensors
        dx = None
        terms = []
        if ctx.needs_input_grad[0]:
            if g is not None:
                terms.append(fprop(x, g, None, ctx.problem, ctx.plan))
            if g_bias is not None:
                terms.append(_per_channel(g_bias, dy))
        if ctx.needs_input_grad[1] and g is not None:
            dx = dgrad(dy, g, None, ctx.problem, ctx.plan)
        return _add(terms), dx, None, None, None


class _WgradJvp(_PassJvp, _Wgrad):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _PassJvp.setup_context(ctx, inputs, output)
        ctx.bias_grad = inputs[2]

    @staticmethod
    def jvp(ctx: Any, dy_t: Tensor | None, x_t: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        dy, x = ctx.saved_tensors
        terms = []
        if dy_t is not None:
            terms.append(wgrad(dy_t, x, False, ctx.problem, ctx.plan)[0])
        if x_t is not None:
            terms.append(wgrad(dy, x_t, False, ctx.problem, ctx.plan)[0])
        if not ctx.bias_grad:
            return _add(terms), None
        # An output needs a tangent as soon as one input has one, if only zeros.
        return _add(terms), dy.new_zeros(dy.shape[1]) if dy_t is None else _sum_to_channels(dy_t)
