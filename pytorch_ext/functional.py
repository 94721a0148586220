"""conv1d/2d/3d and conv_transpose1d/2d/3d with torch's signatures and semantics, on the fastest backend for each pass.

Here arguments are validated, once for all backends; a :class:`ConvProblem` is made of them and a backend is chosen for
each pass. Problem and choice are cached by what they rest on (shapes, strides, dtype, arguments), so that a repeated
call costs a dictionary look-up.
Where ``auto`` finds a call invalid, torch gets it, and raises its own error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from convbound import autograd, choice
from convbound.choice import backends
from convbound.layout import results_are_channels_last
from convbound.problem import DTYPES, PASSES, ConvProblem, Layout, Pass, output_size, transposed_size

Size = int | Sequence[int]

# What follows the bias, in the order of torch's functions.
_ARGUMENTS = {
    False: ("stride", "padding", "dilation", "groups"),
    True: ("stride", "padding", "output_padding", "groups", "dilation"),
}

# What is known of calls by their tensors' shapes and strides, and their arguments.
_plans: dict[tuple[Any, ...], tuple[ConvProblem, autograd.Plan] | None] = {}
_MOST_PLANS = 4096

_TORCH: dict[str, Callable[..., Tensor]] = {
    f"conv{kind}{ndim}d": getattr(F, f"conv{kind}{ndim}d") for kind in ("", "_transpose") for ndim in (1, 2, 3)
}


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: str | Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.conv1d`; input ``(N, C, L)`` or ``(C, L)``. See :func:`conv2d`."""
    return _call("conv1d", input, weight, bias, (stride, padding, dilation, groups), backend)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: str | Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.conv2d` on convbound's kernels.

    Parameters
    ----------
    input, weight, bias
        ``(N, C, H, W)`` or ``(C, H, W)``; ``(K, C // groups, R, S)``; ``(K,)`` or None. Of one dtype and device.
    stride, padding, dilation, groups
        As in torch, string padding included.
    backend
        ``"auto"`` takes per pass what was measured fastest, on a GPU at the first call with these shapes, and torch
        for whatever convbound does not cover; a name from :func:`convbound.backends` insists. None stands for the
        environment variable CONVBOUND_BACKEND, else ``"auto"``.

    Returns
    -------
    Tensor
        ``(N, K, P, Q)`` or ``(K, P, Q)``, with the strides that torch would give it.

    Raises
    ------
    RuntimeError, TypeError
        Where torch raises them, with a message that names the argument; also when a named backend cannot do it.
    ValueError
        When the backend is unknown.
    """
    return _call("conv2d", input, weight, bias, (stride, padding, dilation, groups), backend)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: str | Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.conv3d`; input ``(N, C, D, H, W)`` or ``(C, D, H, W)``. See :func:`conv2d`."""
    return _call("conv3d", input, weight, bias, (stride, padding, dilation, groups), backend)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose1d`; input ``(N, C, L)`` or ``(C, L)``. See :func:`conv_transpose2d`."""
    arguments = (stride, padding, output_padding, groups, dilation)
    return _call("conv_transpose1d", input, weight, bias, arguments, backend)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose2d` on convbound's kernels.

    The forward is the dgrad of the convolution that is transposed, and the gradient of the input its fprop.

    Parameters
    ----------
    input, weight, bias
        ``(N, C, H, W)`` or ``(C, H, W)``; ``(C, K // groups, R, S)``; ``(K,)`` or None. Of one dtype and device.
    stride, padding, output_padding, groups, dilation
        As in torch, and in torch's order.
    backend
        As for :func:`conv2d`.

    Returns
    -------
    Tensor
        ``(N, K, (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1, …)``.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As for :func:`conv2d`.
    """
    arguments = (stride, padding, output_padding, groups, dilation)
    return _call("conv_transpose2d", input, weight, bias, arguments, backend)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose3d`; input ``(N, C, D, H, W)`` or ``(C, D, H, W)``. See
    :func:`conv_transpose2d`."""
    arguments = (stride, padding, output_padding, groups, dilation)
    return _call("conv_transpose3d", input, weight, bias, arguments, backend)


def _call(
    name: str, x: Tensor, w: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], backend: str | None
) -> Tensor:
    backend = backend or backends.default_backend()
    prepared = None if backend == "torch" else _prepare(name, x, w, bias, arguments, backend)
    if prepared is not None:
        xb, wb, bb, frozen = prepared
        found = plan(name, xb, wb, frozen, backend, _passes_needed(name, (xb, wb, bb), backend))
        if (
            found is not None
            and not _torch_suffices(name, found[1], xb, wb)
            and takes_bias(name, bb, found[0], backend)
        ):
            y = (autograd.dgrad if is_transposed(name) else autograd.fprop)(xb, wb, bb, *found)
            return y if x.dim() == xb.dim() else y.squeeze(0)
    return _TORCH[name](x, w, bias, *arguments)


def is_transposed(name: str) -> bool:
    """Whether this is the name of a transposed convolution."""
    return "transpose" in name


def _prepare(
    name: str, x: Tensor, w: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], backend: str
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Any, ...]] | None:
    """The tensors, batched and cast, and the arguments, fit to be a key; None where torch shall have the call."""
    backends.check_name(name, backend)
    recorder, complaint = autograd.recorder(), unfit(x, w, bias)
    if backend == "auto":
        if recorder or complaint or not x.numel() or not w.numel() or not (x.is_cpu or x.is_cuda):
            return None
    elif complaint is not None:
        raise complaint[0](f"{name}: {complaint[1]}; backend={backend!r} cannot take it")
    elif refusal := backends.refusal(backend, x.device.type) or autograd.refusal(recorder):
        where = "" if refusal.startswith("is not available") else f"input is on {x.device}, but "
        raise RuntimeError(f"{name}: {where}backend={backend!r} {refusal}")
    # torch reads memory that a meta tensor does not have.
    device = x.device
    if w.device != device:
        raise RuntimeError(f"{name}: weight is on {w.device}, but input is on {device}")
    if bias is not None and bias.device != device:
        raise RuntimeError(f"{name}: bias is on {bias.device}, but input is on {device}")
    try:
        return _checked(name, x, w, bias, arguments)
    except (RuntimeError, TypeError):
        if backend != "auto":
            raise
    return None


def unfit(x: Any, w: Any, bias: Any) -> tuple[type[Exception], str] | None:
    """Why the tensors are none that a native kernel takes, with the class of error for it; None if they fit."""
    for label, tensor in (("input", x), ("weight", w), ("bias", bias)):
        if tensor is None and label == "bias":
            continue
        if not isinstance(tensor, Tensor):
            return TypeError, f"{label} must be a Tensor, not {type(tensor).__name__}"
        if type(tensor) not in (Tensor, torch.nn.Parameter, FakeTensor):
            return RuntimeError, f"{label} is a {type(tensor).__name__}, a subclass of Tensor"
        if tensor.layout is not torch.strided or tensor.is_mkldnn:
            return RuntimeError, f"{label} has layout {tensor.layout}, not torch.strided"
        if tensor.dtype not in DTYPES:
            return RuntimeError, f"{label} is {tensor.dtype}, not one of fp16, bf16, fp32 and fp64"
    return None


def _checked(
    name: str, x: Tensor, w: Tensor, bias: Tensor | None, arguments: tuple[Any, ...]
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Any, ...]]:
    """Check what does not depend on sizes, cast under autocast, add a batch dimension."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, w, bias = _cast(x, dtype), _cast(w, dtype), None if bias is None else _cast(bias, dtype)
    if w.dtype != x.dtype:
        raise RuntimeError(f"{name}: weight is {w.dtype}, but input is {x.dtype}; they have to agree")
    if bias is not None and bias.dtype != x.dtype:
        raise RuntimeError(f"{name}: bias is {bias.dtype}, but input is {x.dtype}; they have to agree")
    ndim = int(name[-2])
    if w.dim() != ndim + 2:
        raise RuntimeError(f"{name}: weight has {w.dim()} dimensions, but needs {ndim + 2}: shape {tuple(w.shape)}")
    if x.dim() not in (ndim + 1, ndim + 2):
        raise RuntimeError(
            f"{name}: input has {x.dim()} dimensions, but needs {ndim + 2}, or {ndim + 1} without a batch: "
            f"shape {tuple(x.shape)}"
        )
    if x.dim() == ndim + 1:
        x = x.unsqueeze(0)
    if {*map(type, arguments)} != {int}:  # a repeated call spends its time here
        labelled = zip(_ARGUMENTS[is_transposed(name)], arguments, strict=True)
        arguments = tuple([_freeze(name, label, value) for label, value in labelled])
    return x, w, bias, arguments


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor


def _freeze(name: str, label: str, value: Any) -> Any:
    """The argument as an int or a tuple of ints, fit to be a cache's key, where 1.0 and True would pass for 1."""
    if label == "padding" and isinstance(value, str) and not is_transposed(name):
        return value
    try:
        if label != "groups" and isinstance(value, (tuple, list, Sequence)):
            return tuple([_int(v) for v in value])
        return _int(value)
    except TypeError:
        wanted = "an int" if label == "groups" else "an int or a sequence of ints"
        raise TypeError(f"{name}: {label}={value!r} must be {wanted}") from None


def _int(value: Any) -> int:
    if type(value) is int:
        return value
    if isinstance(value, bool):
        raise TypeError
    return value if isinstance(value, (int, torch.SymInt)) else operator.index(value)  # type: ignore[return-value]


def _passes_needed(name: str, tensors: tuple[Tensor | None, ...], backend: str) -> tuple[Pass, ...]:
    """The passes that a call may come to, of which a named backend has to say in the forward call if it cannot."""
    if backend not in backends.PARTIAL:
        return ()
    if torch.compiler.is_compiling() or autograd.differentiated(tensors):
        return PASSES
    return ("dgrad",) if is_transposed(name) else ("fprop",)


def _torch_suffices(name: str, plan: autograd.Plan, x: Tensor, w: Tensor) -> bool:
    """Whether torch serves the forward and every gradient that can be asked for: its own function then does it all."""
    forward: Pass
    of_input: Pass
    forward, of_input = ("dgrad", "fprop") if is_transposed(name) else ("fprop", "dgrad")
    if not plan.is_torchs(forward):
        return False
    if not torch.is_grad_enabled():
        return True
    return (plan.is_torchs(of_input) or not x.requires_grad) and (plan.is_torchs("wgrad") or not w.requires_grad)


def takes_bias(name: str, bias: Tensor | None, problem: ConvProblem, backend: str) -> bool:
    """Whether the bias has the right shape; if not, an error, unless torch is to raise its own."""
    channels = problem.c if is_transposed(name) else problem.k
    if bias is None or (bias.dim() == 1 and bias.shape[0] == channels):
        return True
    if backend == "auto":
        return False
    raise RuntimeError(f"{name}: bias has shape {tuple(bias.shape)}, but needs ({channels},)")


def plan(
    name: str, x: Tensor, w: Tensor, arguments: tuple[Any, ...], backend: str = "auto", needed: tuple[Pass, ...] = ()
) -> tuple[ConvProblem, autograd.Plan] | None:
    """The problem of a call with a batched input, and the backends of its passes.

    None where torch shall have the call: it has every pass, or the result is empty, or the call is invalid and the
    backend ``auto``.
    """
    case = (name, x, w, arguments, backend, needed)
    # In the ops that torch.jit.trace records for a named backend, sizes are constants.
    if torch.compiler.is_compiling() or autograd.is_tracing():
        return _plan(*case, stamp=0)
    stamp = choice.stamp()
    key = (name, x.shape, x.stride(), w.shape, w.stride(), arguments, x.dtype, x.device, backend, needed, stamp)
    try:
        return _plans[key]
    except KeyError:
        pass
    except TypeError:  # a symbolic size has no hash
        return _plan(*case, stamp=0)
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    return _plans.setdefault(key, _plan(*case, stamp=stamp))


def _plan(
    name: str,
    x: Tensor,
    w: Tensor,
    arguments: tuple[Any, ...],
    backend: str,
    needed: tuple[Pass, ...],
    *,
    stamp: int,
) -> tuple[ConvProblem, autograd.Plan] | None:
    """See `plan`. The stamp is `choice.stamp`: 0 where nothing measured counts."""
    dtype, device = x.dtype, x.device
    shapes = tuple(x.shape), tuple(w.shape)
    if autograd.is_tracing():  # they are tensors then
        shapes = tuple(map(int, x.shape)), tuple(map(int, w.shape))
    try:
        problem = problem_of(name, *shapes, arguments)
    except (RuntimeError, TypeError):
        if backend != "auto":
            raise
        problem = None
    if problem is None:
        return None
    for pass_ in needed:
        if reason := backends.unsupported(problem, pass_, dtype, backend):
            raise RuntimeError(f"{name}: backend={backend!r} {reason}")
    stride, _, output_padding, groups, *_ = arguments
    channels_last = results_are_channels_last(x, w, groups, *((stride, output_padding) if is_transposed(name) else ()))
    layout: Layout = "NHWC" if channels_last else "NCHW"
    found = {
        pass_: choice.choose(problem, pass_, dtype, layout, device, backend, measured=bool(stamp)) for pass_ in PASSES
    }
    served = {pass_: chosen.backend for pass_, chosen in found.items()}
    untried = frozenset(pass_ for pass_, chosen in found.items() if chosen.untried)
    if not untried and set(served.values()) == {"torch"}:
        return None
    return problem, autograd.Plan(served["fprop"], served["dgrad"], served["wgrad"], channels_last, untried)


def problem_of(name: str, x: tuple[int, ...], w: tuple[int, ...], arguments: tuple[Any, ...]) -> ConvProblem | None:
    """The problem of a call, by the shapes of its batched input and its weight, and the arguments behind the bias.

    None where a transposed convolution's result is empty. A RuntimeError or TypeError says what does not fit.
    """
    return (_transposed_problem if is_transposed(name) else _problem)(name, x, w, *arguments)


def _problem(
    name: str, x: tuple[int, ...], w: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int
) -> ConvProblem:
    ndim = len(x) - 2
    stride = _per_axis(name, "stride", stride, ndim, 1)
    dilation = _per_axis(name, "dilation", dilation, ndim, 1)
    pairs = _padding_pairs(name, padding, w[2:], stride, dilation)
    _check_groups(name, groups, ("C", x[1]), ("K", w[0]))
    if x[1] != w[1] * groups:
        raise RuntimeError(
            f"{name}: input has C={x[1]} channels, but weight {w} with groups={groups} needs {w[1] * groups}"
        )
    _check_sizes(name, x, w)
    for i, r, s, pair, d in zip(x[2:], w[2:], stride, pairs, dilation, strict=True):
        if _sized(name, output_size, i, r, s, pair, d) < 1:
            raise RuntimeError(
                f"{name}: the filter covers {d * (r - 1) + 1} positions (size {r}, dilation {d}), but the padded input "
                f"has only {i + sum(pair)}"
            )
    return ConvProblem(x[0], x[1], w[0], x[2:], w[2:], stride, pairs, dilation, groups)


def _transposed_problem(
    name: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> ConvProblem | None:
    """The convolution that is transposed; None where the result is empty, which takes no kernel."""
    ndim = len(x) - 2
    stride = _per_axis(name, "stride", stride, ndim, 1)
    dilation = _per_axis(name, "dilation", dilation, ndim, 1)
    padding = _per_axis(name, "padding", padding, ndim, 0)
    output_padding = _per_axis(name, "output_padding", output_padding, ndim, 0)
    _check_groups(name, groups, ("C", x[1]))
    if x[1] != w[0]:
        raise RuntimeError(f"{name}: input has C={x[1]} channels, but weight {w} needs {w[0]}")
    _check_sizes(name, x, w)
    sizes, pairs = [], []
    for i, r, s, p, op, d in zip(x[2:], w[2:], stride, padding, output_padding, dilation, strict=True):
        if op >= max(s, d):
            raise RuntimeError(
                f"{name}: output_padding={op} must be smaller than stride={s} or dilation={d} of its axis"
            )
        size = _sized(name, transposed_size, i, r, s, p, d, op)
        if size < 0:
            raise RuntimeError(f"{name}: padding={p} leaves an output of {size} positions for an input of {i}")
        sizes.append(size)
        # Longer by a stride or more, the output would convolve to more positions than x has: crop it at its end.
        pairs.append((p, p - (op - op % s)))
    if 0 in sizes:
        return None
    return ConvProblem(x[0], w[1] * groups, x[1], tuple(sizes), w[2:], stride, tuple(pairs), dilation, groups)


def _sized(name: str, size: Callable[..., int], *args: Any) -> int:
    try:
        return size(*args)
    except ValueError as error:
        raise RuntimeError(f"{name}: {error}") from None


def _per_axis(name: str, label: str, value: Any, ndim: int, least: int) -> tuple[int, ...]:
    """One int per axis, from an int, a sequence of one, or a sequence of as many as there are axes."""
    values: tuple[int, ...] = value if isinstance(value, tuple) else (value,)
    if len(values) == 1:
        values *= ndim
    if len(values) != ndim:
        raise RuntimeError(f"{name}: {label}={value!r} has {len(values)} entries, but there are {ndim} axes")
    if any(v < least for v in values):
        raise RuntimeError(f"{name}: {label}={value!r} must be at least {least}")
    return values


def _padding_pairs(
    name: str, padding: Any, filter: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        return ((0, 0),) * len(filter)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise RuntimeError(f"{name}: padding='same' needs stride 1, but stride={tuple(stride)}")
        totals = [d * (r - 1) for d, r in zip(dilation, filter, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise RuntimeError(f"{name}: padding={padding!r} is no padding; use 'valid', 'same' or numbers")
    return tuple((p, p) for p in _per_axis(name, "padding", padding, len(filter), 0))


def _check_groups(name: str, groups: int, *channels: tuple[str, int]) -> None:
    if groups < 1:
        raise RuntimeError(f"{name}: groups={groups} must be at least 1")
    for label, count in channels:
        if count % groups or count < 1:
            raise RuntimeError(f"{name}: groups={groups} does not divide {label}={count}")


def _check_sizes(name: str, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    for label, shape in (("input", x), ("weight", w)):
        if any(size < 1 for size in shape[1:]):
            raise RuntimeError(f"{name}: {label} has shape {shape}; all its sizes but the batch must be at least 1")
