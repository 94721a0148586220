"""The ops of the backend ``triton`` as users meet them: layouts, derivatives, transforms, compilers, wrong tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import triton_rows
from support.check import assert_exact, expected, poisoned_outputs
from support.data import integers, reals
from support.dispatched import Dispatched
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import convbound
from convbound import autograd, ops
from convbound.kernels import depthwise_planes, table
from convbound.kernels import ops as triton_ops
from convbound.kernels.launch import Launch, Plan
from convbound.layout import to_layout
from convbound.problem import LAYOUTS, PASSES, ConvProblem, Layout, Pass

PROBLEM = ConvProblem.parse("g2ic2ih4iw5oc4kh3kw2sh2sw1ph1pw0ew1")
DEVICE = triton_rows.DEVICE


def arguments(pass_: Pass, layout: Layout = "NCHW") -> tuple[Any, ...]:
    """Arguments of an op for PROBLEM."""
    p, last = PROBLEM, layout == "NHWC"
    t = reals(p, pass_, torch.float32).map(lambda t: to_layout(t, last and t.dim() > 1).to(DEVICE))
    window = (p.stride, [amount for pair in p.padding for amount in pair], p.dilation, p.groups)
    if pass_ == "fprop":
        return t.x, t.w, t.bias, *window, last
    return (t.y, t.w, t.bias, p.input, *window, last) if pass_ == "dgrad" else (t.y, t.x, p.filter, *window, True, last)


def op(pass_: Pass) -> Any:
    return getattr(torch.ops.convbound, f"triton_{pass_}").default


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
def test_opcheck(pass_: Pass, layout: Layout):
    torch.library.opcheck(op(pass_), arguments(pass_, layout))


@pytest.mark.parametrize("view", ["other layout", "expanded", "sliced"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
def test_operands_in_any_strides(pass_: Pass, layout: Layout, view: str):
    def as_view(t: Tensor) -> Tensor:
        if view == "other layout":
            return to_layout(t, t.dim() > 1 and layout == "NCHW")
        return t[:1].expand(t.shape) if view == "expanded" else torch.stack([t * torch.nan, t], -1)[..., 1]

    t = integers(PROBLEM, pass_, torch.float32).map(as_view)
    on_device = t.map(lambda tensor: tensor.to(DEVICE))
    where = {"backend": "triton", "channels_last": layout == "NHWC"}
    with poisoned_outputs():
        if pass_ == "fprop":
            results = {"y": ops.fprop(on_device.x, on_device.w, on_device.bias, PROBLEM, **where)}
        elif pass_ == "dgrad":
            results = {"dx": ops.dgrad(on_device.y, on_device.w, on_device.bias, PROBLEM, **where)}
        else:
            dw, dbias = ops.wgrad(on_device.y, on_device.x, PROBLEM, bias_grad=True, **where)
            results = {"dw": dw, "dbias": dbias}
    for name, result in results.items():
        assert result.is_contiguous() or result.is_contiguous(memory_format=torch.channels_last), name
    assert_exact({name: r.cpu() for name, r in results.items()}, expected(pass_, t, PROBLEM), torch.float32)


@pytest.mark.parametrize("groups", [1, 2], ids=["dense", "depthwise"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
def test_results_and_gradients_are_torchs_in_value_and_strides(name: str, channels_last: bool, groups: int):
    x = torch.randint(-4, 5, (2, 2, 4, 5), device=DEVICE).float()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    w, b = (torch.randint(-4, 5, shape, device=DEVICE).float() for shape in ((2, 2 // groups, 3, 2), (2,)))
    inputs = [tensor.requires_grad_() for tensor in (x, w, b)]
    both = []
    for conv in (getattr(convbound, name), getattr(F, name)):
        backend = {"backend": "triton"} if conv.__module__.startswith("convbound") else {}
        y = conv(*inputs, stride=2, padding=1, groups=groups, **backend)
        both.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for ours, torchs in zip(*both, strict=True):
        assert torch.equal(ours, torchs)
        assert ours.stride() == torchs.stride()


@pytest.mark.parametrize("pass_", PASSES)
def test_derivatives(pass_: Pass):
    problem = ConvProblem.parse("g2ic2ih2iw3oc2kh2kw1ph1eh0")
    plan = autograd.Plan("triton", "triton", "triton", False)
    t = reals(problem, pass_, torch.float64).map(lambda tensor: tensor.to(DEVICE).requires_grad_())
    if pass_ == "wgrad":
        function, inputs = lambda y, x: autograd.wgrad(y, x, True, problem, plan), (t.y, t.x)
    else:
        derivative = getattr(autograd, pass_)
        function = lambda one, w, b: derivative(one, w, b, problem, plan)  # noqa: E731
        inputs = (t.x if pass_ == "fprop" else t.y, t.w, t.bias)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("pass_", PASSES)
def test_vmap(pass_: Pass):
    first, *rest = arguments(pass_)
    mapped = torch.vmap(lambda one: op(pass_)(one, *rest))(torch.stack([first, 2 * first]))
    alone = op(pass_)(first, *rest)
    for together, one in zip(*((mapped, alone) if pass_ == "wgrad" else ((mapped,), (alone,))), strict=True):
        torch.testing.assert_close(together[0], one)


def test_whole_graphs_compile_once_for_all_sizes():
    def layer(conv: Any, x: Tensor, w: Tensor, b: Tensor, **options: Any) -> Tensor:
        y: Tensor = conv(x, w, b, padding=1, groups=2, **options)
        return y.relu()

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda *inputs: layer(convbound.conv2d, *inputs, backend="triton"), fullgraph=True, backend=counter
    )
    for shape in ((2, 2, 4, 5), (3, 2, 5, 4), (4, 2, 3, 6)):
        inputs = [torch.randint(-2, 3, s, device=DEVICE).float().requires_grad_() for s in (shape, (2, 1, 3, 3), (2,))]
        ours, torchs = compiled(*inputs), layer(F.conv2d, *inputs)
        assert torch.equal(ours, torchs)
        gradients = [torch.autograd.grad(y.square().sum(), inputs) for y in (ours, torchs)]
        assert all(map(torch.equal, *gradients))
    assert counter.frame_count <= 2
    torch._dynamo.reset()


def test_launches_are_made_on_the_device_of_the_tensors(monkeypatch: pytest.MonkeyPatch):
    """Triton launches on the current stream of the current device."""
    current: list[torch.device | None] = [None]
    launched: list[torch.device | None] = []

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda **arguments: launched.append(current[-1])

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    first, second = (torch.device("cuda", index) for index in range(2))
    plan = Plan((Launch(Kernel(), 1, {"x": torch.float32}, {}, {}, warps=1),) * 2)
    for place in (second, first):
        tensor: Any = SimpleNamespace(device=place, data_ptr=lambda: 0)
        plan.run({"x": tensor})
    assert (launched, current) == ([second, second, None, None], [None])  # the first is the current one


def test_a_repeated_call_neither_selects_nor_plans(monkeypatch: pytest.MonkeyPatch):
    for pass_ in PASSES:
        op(pass_)(*arguments(pass_))

    def again(*_: Any) -> Any:
        raise AssertionError("the table was searched again")

    monkeypatch.setattr(table, "select", again)
    for pass_ in PASSES:
        op(pass_)(*arguments(pass_))


def test_what_a_plan_depends_on_is_told_apart():
    """Shapes, dtype, layout, bias, and how fp32 is multiplied, which matters to matrix products alone."""
    x, w, bias = (torch.ones(shape, device=DEVICE) for shape in ((1, 4, 5, 5), (4, 2, 3, 3), (4,)))
    calls: list[Any] = [
        lambda x, w: convbound.conv2d(x, w, groups=2, backend="triton"),
        lambda x, w: convbound.conv2d(x, w, bias.to(x.dtype), groups=2, backend="triton"),
        lambda x, w: convbound.conv2d(x, w, groups=2, padding=1, backend="triton"),
        lambda x, w: convbound.conv2d(x[..., 1:], w, groups=2, backend="triton"),
        lambda x, w: convbound.conv2d(x.to(memory_format=torch.channels_last), w, groups=2, backend="triton"),
        lambda x, w: convbound.conv2d(x.half(), w.half(), groups=2, backend="triton"),
    ]
    triton_ops.prepare.cache_clear()
    allowed = torch.backends.cudnn.allow_tf32
    try:
        for tf32 in (True, False):
            torch.backends.cudnn.allow_tf32 = tf32
            for call in calls * 2:
                call(x, w)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    assert triton_ops.prepare.cache_info().misses == 2 * len(calls) - 1  # fp16 knows no tf32


def test_the_dispatcher_is_passed_by_where_nobody_could_tell(monkeypatch: pytest.MonkeyPatch):
    """It takes as long as all else that a call of an op in Python costs the host."""
    real, dispatched = ops._NATIVE["triton"]["fprop"], []

    def watched(*args: Any) -> Tensor:
        dispatched.append(args)
        result: Tensor = real(*args)
        return result

    monkeypatch.setitem(ops._NATIVE["triton"], "fprop", watched)
    x, w, bias, *_ = arguments("fprop")
    call = lambda x: ops.fprop(x, w, bias, PROBLEM, backend="triton", channels_last=False)  # noqa: E731
    alone = call(x)
    assert not dispatched
    with torch.profiler.profile() as profiler:
        assert torch.equal(call(x), alone)
    assert "convbound::triton_fprop" in {event.name for event in profiler.events()}
    for mode in (Dispatched(), torch.device(DEVICE), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode:
            call(x)
    torch.vmap(call)(x[None])
    assert len(dispatched) == 5


def test_compiled_calls_are_refused_like_others():
    compiled = torch.compile(lambda x, w: convbound.conv3d(x, w, backend="triton"), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="1 and 2 spatial dimensions"):
        compiled(torch.ones(1, 4, 5, 5, 5, device=DEVICE), torch.ones(4, 4, 3, 3, 3, device=DEVICE))


def test_tensors_that_do_not_fit_are_refused():
    x, w, bias, *rest = arguments("fprop")
    with pytest.raises(RuntimeError, match=r"triton_fprop: w is torch\.float16"):
        op("fprop")(x, w.half(), bias, *rest)
    with pytest.raises(RuntimeError, match=r"triton_fprop: bias is .*\(3,\).* needs torch\.float32 \(4,\)"):
        op("fprop")(x, w, bias[:3], *rest)
    with pytest.raises(RuntimeError, match=r"a filter of shape \(4, 2, 3, 2\) does not fit"):
        op("fprop")(x, w.expand(4, 2, 3, 2), bias, *rest)
    dy, w, *rest = arguments("dgrad")
    with pytest.raises(RuntimeError, match=r"triton_dgrad: dy is .* needs"):
        op("dgrad")(dy[..., 1:], w, *rest)


def test_an_error_in_a_kernel_names_kernel_grid_and_problem(monkeypatch: pytest.MonkeyPatch):
    class Broken:
        __name__ = "broken"

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            raise ValueError("out of resources")

    monkeypatch.setattr(depthwise_planes, "depthwise_planes", Broken())
    monkeypatch.setattr(triton_ops, "prepare", triton_ops.prepare.__wrapped__)
    message = "depthwise_fprop_planes_fp32_nchw served .*: broken on a grid of 1 programs of 4 warps: out of resources"
    with pytest.raises(RuntimeError, match=f"while {message}"):
        op("fprop")(*arguments("fprop"))


def test_where_memory_ends_the_error_says_what_for_and_keeps_its_class(monkeypatch: pytest.MonkeyPatch):
    plan = Plan((), {"partials": (2**50, torch.float32)})
    with pytest.raises(RuntimeError, match=f"no memory for a workspace of {2**52} bytes, partials: "):
        plan.run({"x": torch.ones(1, device=DEVICE)})

    def out_of_memory(self: Plan, tensors: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Plan, "run", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match=r"while depthwise_wgrad_.* served .*: CUDA out of memory"):
        op("wgrad")(*arguments("wgrad"))
