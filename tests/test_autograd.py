"""Derivatives of every order and mode, of each pass and of mixtures of backends, in fp64 against finite differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.data import reals
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

import convbound
from convbound import autograd
from convbound.autograd import Plan
from convbound.problem import ConvProblem

# So small that finite differences of every element take no time, and still of all kinds.
PROBLEMS = [
    ConvProblem.parse(text)
    for text in (
        "mb2g2ic2ih3iw4oc4kh2ph1pw0",
        "g2ic4ih4iw3oc2kh2sh2sw1ph1",
        "mb2ic2ih4iw4oc1kh2ph1pw0dh2dw3",
        "ic1ih4iw3oc2kh3ph2eh0pw0ew1",
        "g2ic2ih4oc2kh2eh-1",
        "mb2ic2iw5oc1kw3sw2pw1",
        "g2ic2id3ih2iw2oc2kd2kh1kw2sd1sh1sw2pd1ph0pw1",
    )
]
PLANS = [
    Plan("cpu", "cpu", "cpu", False),
    Plan("cpu", "cpu", "cpu", True),
    Plan("torch", "cpu", "torch", False),
    Plan("cpu", "torch", "cpu", True),
    Plan("torch", "torch", "cpu", False),
]


def name_of(plan: Plan) -> str:
    return f"{plan.fprop}-{plan.dgrad}-{plan.wgrad}-{'NHWC' if plan.channels_last else 'NCHW'}"


def function_of(pass_: str, problem: ConvProblem, plan: Plan) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """A pass as a function of its differentiable tensors, with such tensors."""
    t = reals(problem, "dgrad" if pass_ == "dgrad" else "fprop", torch.float64)
    assert t.bias is not None
    if pass_ == "fprop":
        return lambda x, w, b: autograd.fprop(x, w, b, problem, plan), (t.x, t.w, t.bias)
    if pass_ == "dgrad":
        return lambda y, w, b: autograd.dgrad(y, w, b, problem, plan), (t.y, t.w, t.bias)
    return lambda y, x: autograd.wgrad(y, x, True, problem, plan), (t.y, t.x)


def check_derivatives(pass_: str, problem: ConvProblem, plan: Plan) -> None:
    function, inputs = function_of(pass_, problem, plan)
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    assert gradcheck(function, inputs, check_forward_ad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_derivatives(problem: ConvProblem, pass_: str):
    check_derivatives(pass_, problem, PLANS[0])


@pytest.mark.parametrize("plan", PLANS[1:], ids=name_of)
@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
def test_derivatives_of_mixed_plans(pass_: str, plan: Plan):
    check_derivatives(pass_, PROBLEMS[1], plan)


@pytest.mark.parametrize("plan", PLANS[1:3], ids=name_of)
@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
def test_batched_derivatives(pass_: str, plan: Plan):
    function, inputs = function_of(pass_, PROBLEMS[2], plan)
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    forward = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(function, inputs, check_batched_grad=True, **forward)
    assert gradgradcheck(function, inputs, check_batched_grad=True)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("needed", ["".join(c) for n in (1, 2, 3) for c in itertools.combinations("xwb", n)])
def test_only_the_gradients_that_are_needed_are_computed(needed: str, name: str, monkeypatch: pytest.MonkeyPatch):
    computed: list[str] = []
    for pass_ in ("fprop", "dgrad", "wgrad"):
        original = getattr(convbound.ops, pass_)

        def spy(*args: Any, original: Any = original, pass_: str = pass_, **kwargs: Any) -> Any:
            computed.append(pass_)
            return original(*args, **kwargs)

        monkeypatch.setattr(convbound.ops, pass_, spy)
    shapes = {"x": (2, 4, 5, 6), "w": (4, 4, 3, 3), "b": (4,)}
    tensors = {key: torch.randn(shape, dtype=torch.float64) for key, shape in shapes.items()}
    wanted = [tensors[key].requires_grad_() for key in needed]
    y = getattr(convbound, name)(*tensors.values(), padding=1, backend="cpu")
    gradients = torch.autograd.grad(y.sum(), wanted)
    torchs = torch.autograd.grad(getattr(F, name)(*tensors.values(), padding=1).sum(), wanted)
    for ours, theirs in zip(gradients, torchs, strict=True):
        torch.testing.assert_close(ours, theirs)
    forward, of_x = ("dgrad", "fprop") if "transpose" in name else ("fprop", "dgrad")
    assert computed == [forward, *([of_x] if "x" in needed else []), *(["wgrad"] if "w" in needed else [])]


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_backward_keeps_the_input_and_the_weight_and_nothing_else(name: str):
    x, w, b = (torch.randn(shape, requires_grad=True) for shape in ((2, 4, 5, 6), (4, 4, 3, 3), (4,)))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        getattr(convbound, name)(x, w, b, padding=1, backend="cpu")
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr(), w.data_ptr()}


GRADIENTS_OF_Y = {
    "expanded": lambda shape: torch.randn(1).expand(shape),
    "expanded along one axis": lambda shape: torch.randn(*shape[:-1], 1).expand(shape),
    "permuted": lambda shape: torch.randn(*reversed(shape)).permute(*reversed(range(len(shape)))),
    "channels_last": lambda shape: torch.randn(shape).contiguous(memory_format=torch.channels_last),
    "sliced": lambda shape: torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2],
    "flipped": lambda shape: torch.randn(shape).flip(2),
}


@pytest.mark.parametrize("kind", GRADIENTS_OF_Y)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_gradients_of_the_output_in_any_strides(name: str, kind: str):
    x, w, b = (torch.randn(shape, requires_grad=True) for shape in ((2, 4, 5, 6), (4, 2, 3, 3), (4,)))
    options = {"stride": 2, "padding": 1, "groups": 2}
    y, wanted = getattr(convbound, name)(x, w, b, **options, backend="cpu"), getattr(F, name)(x, w, b, **options)
    dy = GRADIENTS_OF_Y[kind](wanted.shape)
    for ours, torchs in zip(
        torch.autograd.grad(y, (x, w, b), dy), torch.autograd.grad(wanted, (x, w, b), dy), strict=True
    ):
        torch.testing.assert_close(ours, torchs)


def test_a_graph_that_is_retained_serves_twice_and_one_that_is_not_says_so():
    x, w = torch.randn(2, 4, 5, 6, requires_grad=True), torch.randn(4, 4, 3, 3, requires_grad=True)
    y = convbound.conv2d(x, w, backend="cpu").sum()
    y.backward(retain_graph=True)
    assert x.grad is not None
    once = x.grad.clone()
    y.backward()
    assert torch.equal(x.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_a_tensor_changed_in_place_before_backward_is_noticed():
    x, w = torch.randn(2, 4, 5, 6), torch.randn(4, 4, 3, 3, requires_grad=True)
    y = convbound.conv2d(x, w, backend="cpu").sum()
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_the_gradient_of_the_bias_is_the_sum_of_that_of_the_output(name: str):
    x, w = torch.randn(2, 4, 5, 6), torch.randn(4, 4, 3, 3)
    b = torch.randn(4, requires_grad=True)
    y = getattr(convbound, name)(x, w, b, backend="cpu")
    dy = torch.randint(-8, 9, y.shape).float()
    assert torch.equal(torch.autograd.grad(y, b, dy)[0], dy.sum((0, 2, 3)))


def test_a_penalty_on_gradients_trains():
    """Double backward through a layer of each kind, as WGAN-GP uses it."""

    def penalty(conv: Any, transposed: Any, **kwargs: Any) -> list[Tensor]:
        torch.manual_seed(0)
        x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
        w, wt = (torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        y = transposed(conv(x, w, groups=2, **kwargs).tanh(), wt, groups=2, stride=2, **kwargs).square().sum()
        (dx,) = torch.autograd.grad(y, x, create_graph=True)
        return list(torch.autograd.grad((dx.flatten(1).norm(dim=1) - 1).square().sum(), (x, w, wt)))

    ours = penalty(convbound.conv2d, convbound.conv_transpose2d, backend="cpu")
    for gradient, torchs in zip(ours, penalty(F.conv2d, F.conv_transpose2d), strict=True):
        torch.testing.assert_close(gradient, torchs)


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor], Tensor, Tensor], Any]] = {
    "vmap over x": lambda f, x, w: vmap(f, (0, None))(x.unflatten(0, (2, -1)), w),
    "vmap over w": lambda f, x, w: vmap(f, (None, 0))(x, torch.stack([w, 2 * w, -w])),
    "vmap over both, of different axes": lambda f, x, w: vmap(f, (1, 3))(
        torch.stack([x, 2 * x], 1), torch.stack([w, -w], 3)
    ),
    "vmap of vmap": lambda f, x, w: vmap(vmap(f, (0, None)), (None, 0))(x.unflatten(0, (2, -1)), torch.stack([w, -w])),
    "grad": lambda f, x, w: grad(lambda w: f(x, w).square().sum())(w),
    "jvp": lambda f, x, w: jvp(f, (x, w), (torch.ones_like(x), torch.ones_like(w))),
    "jacfwd": lambda f, x, w: jacfwd(lambda w: f(x, w).sum((2, 3)))(w),
    "jacrev": lambda f, x, w: jacrev(lambda w: f(x, w).sum((2, 3)))(w),
    "hessian": lambda f, x, w: jacfwd(jacrev(lambda w: f(x, w).square().sum()))(w),
    "per-sample gradients": lambda f, x, w: vmap(grad(lambda w, x: f(x[None], w).square().sum()), (None, 0))(w, x),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_function_transforms(name: str, transform: str):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 2, 4, 5), (2, 1, 2, 3)))

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return getattr(convbound, name)(x, w, stride=2, padding=1, groups=2, backend="cpu")  # type: ignore[no-any-return]

    def torchs(x: Tensor, w: Tensor) -> Tensor:
        return getattr(F, name)(x, w, stride=2, padding=1, groups=2)  # type: ignore[no-any-return]

    torch.testing.assert_close(TRANSFORMS[transform](ours, x, w), TRANSFORMS[transform](torchs, x, w))


def test_per_sample_gradients_of_a_module():
    module = torch.nn.Sequential(convbound.nn.Conv2d(2, 4, 3, groups=2, backend="cpu"), torch.nn.Tanh())
    images = torch.randn(3, 2, 5, 6)
    parameters = dict(module.named_parameters())

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(module, parameters, image[None]).square().sum()

    together = vmap(grad(loss), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        alone = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(together[name][i], gradient)


@pytest.mark.parametrize("batched", [(0, None), (None, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_an_empty_batch_is_mapped(name: str, batched: tuple[int | None, ...]):
    x, w = torch.randn(2, 4, 5, 6), torch.randn(4, 4, 3, 3)
    x, w = (t if dim is None else t.expand(0, *t.shape) for t, dim in zip((x, w), batched, strict=True))

    def conv(x: Tensor, w: Tensor) -> Tensor:
        return getattr(convbound, name)(x, w, backend="cpu")  # type: ignore[no-any-return]

    y, (dx, dw) = vmap(conv, batched)(x, w), vmap(grad(lambda x, w: conv(x, w).sum(), (0, 1)), batched)(x, w)
    assert y.shape == (0, *getattr(F, name)(torch.ones(2, 4, 5, 6), torch.ones(4, 4, 3, 3)).shape)
    assert (dx.shape, dw.shape) == ((0, 2, 4, 5, 6), (0, 4, 4, 3, 3))
