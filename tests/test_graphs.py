"""Derivatives of graphs: recorded and then differentiated, or recorded from a function that differentiates.

Nothing here goes through the autograd Functions of convbound: torch.func inside of torch.compile, torch.export,
torch.jit.trace and make_fx see ops only, which have no derivative of their own. Once those gave zeros, or None, and a
warning. `opcheck` passed all the while, and could not see it: it compares an op with the op itself, eager against
traced, on inputs that require no gradient (with others it asks for a formula, which is right in some graphs only), and
it knows nothing of the Functions that the derivatives are in.

Integers in fp64: all results are exact, and equal torch's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.preferring import native_preferred
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_leaves

import convbound

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own about tracing; a lost gradient fails the comparison

Function = Callable[..., Any]
NAMES = ["conv2d", "conv_transpose2d"]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    with native_preferred():
        yield
    torch._dynamo.reset()


class _Module(torch.nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, w: Tensor) -> Any:
        return self.function(x, w)


RECORDERS: dict[str, Callable[[Function, tuple[Tensor, ...]], Function]] = {
    "compile": lambda f, args: torch.compile(f, backend="aot_eager", fullgraph=True),
    "export": lambda f, args: torch.export.export(_Module(f), args).module(),
    "jit.trace": lambda f, args: torch.jit.trace(f, args),
    "make_fx": lambda f, args: make_fx(f)(*args),
    "make_fx symbolic": lambda f, args: make_fx(f, tracing_mode="symbolic")(*args),
}


def total(f: Function) -> Function:
    return lambda x, w: f(x, w).sum()


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: grad(total(f), (0, 1)),
    "jvp": lambda f: lambda x, w: jvp(f, (x, w), (x + 1, w - 1)),
    "jacrev": lambda f: jacrev(f, (0, 1)),
    "jacfwd": lambda f: jacfwd(f, (0, 1)),
    "hessian": lambda f: hessian(total(f), (0, 1)),
    "vmap": lambda f: lambda x, w: vmap(f, (0, None))(x.unsqueeze(1), w),
}

# What torch cannot do with its own convolution either, and how it fails. None: with a result that is wrong, or fake.
UNSUPPORTED: dict[tuple[str, str], str | None] = {
    ("export", "grad"): None,
    ("export", "jacrev"): None,
    ("export", "jacfwd"): "has no attribute 'constant'",
    ("export", "hessian"): "has no attribute 'constant'",
    ("jit.trace", "grad"): "doesn't have storage",
    ("jit.trace", "jacrev"): "requires grad as a constant",
    ("jit.trace", "jacfwd"): None,
    ("jit.trace", "hessian"): "Unsupported value kind",
    ("make_fx symbolic", "hessian"): "INTERNAL ASSERT FAILED",
}


def operands(name: str) -> tuple[Tensor, Tensor]:
    ndim = int(name[-2])
    shapes = ((2, 2, *(4, 3, 2)[:ndim]), (2, 1, *(2, 2, 2)[:ndim]))
    return tuple(torch.randint(-2, 3, shape).double() for shape in shapes)  # type: ignore[return-value]


def model(name: str, conv: Function, **options: Any) -> Function:
    geometry = {"stride": 2, "padding": 1} if "transpose" in name else {"padding": 1}
    return lambda x, w: conv(x, w, groups=2, **geometry, **options).square()


def ours(name: str, backend: str = "auto") -> Function:
    return model(name, getattr(convbound, name), backend=backend)


def torchs(name: str) -> Function:
    return model(name, getattr(F, name))


def with_gradients(f: Function, x: Tensor, w: Tensor) -> list[Tensor]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = f(x, w)
    return [y.detach(), *torch.autograd.grad(y.sum(), (x, w))]


def assert_equal(results: Any, wanted: Any) -> None:
    pairs = list(zip(tree_leaves(results), tree_leaves(wanted), strict=True))
    assert pairs
    assert all(torch.equal(result, want) for result, want in pairs)


def check(recorder: str, transform: str, name: str) -> None:
    args = operands(name)
    record = RECORDERS[recorder]
    if transform == "backward":
        assert_equal(with_gradients(record(ours(name), args), *args), with_gradients(torchs(name), *args))
        return
    change = TRANSFORMS[transform]
    wanted = change(torchs(name))(*args)
    if (recorder, transform) not in UNSUPPORTED:
        assert_equal(record(change(ours(name)), args)(*args), wanted)
        return
    message = UNSUPPORTED[recorder, transform]
    try:
        results = tree_leaves(record(change(torchs(name)), args)(*args))
    except (AttributeError, RuntimeError) as error:
        assert message is None or message in str(error)  # noqa: PT017
    else:
        assert message is None
        assert any(type(r) is FakeTensor or not torch.equal(r, w) for r, w in zip(results, tree_leaves(wanted)))  # noqa: B905


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transform", ["backward", *TRANSFORMS])
@pytest.mark.parametrize("recorder", RECORDERS)
def test_derivatives_in_a_graph(recorder: str, transform: str, name: str):
    check(recorder, transform, name)


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "conv_transpose1d", "conv_transpose3d"])
@pytest.mark.parametrize("transform", ["backward", "grad"])
@pytest.mark.parametrize("recorder", RECORDERS)
def test_derivatives_in_a_graph_in_1d_and_3d(recorder: str, transform: str, name: str):
    check(recorder, transform, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transform", ["grad", "jvp", "hessian"])
@pytest.mark.parametrize("recorder", ["export", "jit.trace", "make_fx", "make_fx symbolic"])
def test_derivatives_of_a_graph(recorder: str, transform: str, name: str):
    args, change = operands(name), TRANSFORMS[transform]
    recorded = RECORDERS[recorder](ours(name), args)
    assert_equal(change(recorded)(*args), change(torchs(name))(*args))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recorder", ["export", "jit.trace", "make_fx", "make_fx symbolic"])
def test_the_graph_of_a_named_backend_is_right_and_refuses_to_be_differentiated(recorder: str, name: str):
    args = operands(name)
    recorded = RECORDERS[recorder](ours(name, "cpu"), args)
    assert_equal(recorded(*args), torchs(name)(*args))
    assert_equal(recorded(args[0].clone().requires_grad_(), args[1]), torchs(name)(*args))
    for differentiate in (
        lambda: with_gradients(recorded, *args),
        lambda: grad(total(recorded))(*args),
        lambda: jvp(recorded, args, args),
    ):
        with pytest.raises(RuntimeError, match="has no derivative in a recorded graph"):
            differentiate()


@pytest.mark.parametrize("transform", ["grad", "jvp", "jacfwd"])
@pytest.mark.parametrize("recorder", ["compile", "export"])
def test_a_named_backend_refuses_a_transform_in_a_graph(recorder: str, transform: str):
    args = operands("conv2d")
    with pytest.raises(Exception, match=r"backend='cpu' does not go with torch\.func"):
        RECORDERS[recorder](TRANSFORMS[transform](ours("conv2d", "cpu")), args)(*args)


def test_a_named_backend_maps_in_a_compiled_graph():
    args, change = operands("conv2d"), TRANSFORMS["vmap"]
    assert_equal(RECORDERS["compile"](change(ours("conv2d", "cpu")), args)(*args), change(torchs("conv2d"))(*args))


def test_forward_mode_in_a_compiled_graph():
    def tangent(x: Tensor, w: Tensor) -> Any:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            return torch.autograd.forward_ad.unpack_dual(f(dual, w)).tangent

    args = operands("conv2d")
    f = torchs("conv2d")
    wanted = tangent(*args)
    f = ours("conv2d")
    assert_equal(RECORDERS["compile"](tangent, args)(*args), wanted)


@pytest.mark.parametrize("backend", ["auto", "cpu"])
@pytest.mark.parametrize("name", NAMES)
def test_fake_tensors_of_symbolic_sizes(name: str, backend: str):
    x, w = operands(name)
    y = torchs(name)(x, w)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fake = [mode.from_tensor(tensor.requires_grad_()) for tensor in (x, w)]
        result = ours(name, backend)(*fake)
        assert all(isinstance(size, torch.SymInt) for size in result.shape[2:])
        assert (*map(int, result.shape),) == y.shape
        gradients = torch.autograd.grad(result.sum(), fake)
    assert [(*map(int, g.shape),) for g in gradients] == [x.shape, w.shape]


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])
def test_a_trace_takes_other_sizes(name: str):
    x, w = operands(name)
    traced = torch.jit.trace(ours(name), (x, w))
    larger = F.pad(x, [1, 2] * (x.dim() - 2))
    assert_equal(traced(larger, w), torchs(name)(larger, w))


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_a_replaced_model_is_traced_and_passes_the_check(backend: str | None):
    layers = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4), torch.nn.ConvTranspose2d(4, 4, 2, 2)
    net, x = torch.nn.Sequential(*layers), torch.randn(2, 4, 6, 7)
    wanted = net(x)
    convbound.replace_convs(net, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # a result that differs is a warning
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python|Using len to get")
        traced = torch.jit.trace(net, x, check_trace=True)
    torch.testing.assert_close(traced(x), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_trace_records_torchs_function(name: str):
    graph = torch.fx.symbolic_trace(_Module(ours(name)))
    assert getattr(F, name) in {node.target for node in graph.graph.nodes}
    args = operands(name)
    assert_equal(with_gradients(graph, *args), with_gradients(torchs(name), *args))
    with pytest.raises(TypeError, match=f"{name}: input must be a Tensor, not Proxy"):
        torch.fx.symbolic_trace(_Module(ours(name, "cpu")))


@pytest.mark.parametrize("name", NAMES)
def test_meta_tensors(name: str):
    x, w = (tensor.to("meta") for tensor in operands(name))
    assert ours(name)(x, w).shape == torchs(name)(x, w).shape
    with pytest.raises(RuntimeError, match=f"{name}: input is on meta, but backend='cpu' runs on cpu tensors"):
        ours(name, "cpu")(x, w)
