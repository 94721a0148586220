"""torch's own convolutions on our kernels: routed per pass, only where and while that is asked for."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.preferring import native_preferred
from test_graphs import RECORDERS, TRANSFORMS, UNSUPPORTED, assert_equal, operands, ours, torchs, with_gradients
from torch import Tensor

import convbound
from convbound import choice, ops, routing
from convbound.problem import PASSES, ConvProblem, Pass

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes that native kernels run, as they do."""
    passes: list[str] = []
    for pass_ in PASSES:
        computes = getattr(ops, pass_)

        def spy(*args: Any, original: Any = computes, pass_: Pass = pass_, **kwargs: Any) -> Any:
            if kwargs["backend"] == "cpu":
                passes.append(pass_)
            return original(*args, **kwargs)

        monkeypatch.setattr(ops, pass_, spy)
    torch._dynamo.reset()
    return passes


def tensors(name: str) -> tuple[Tensor, Tensor, Tensor]:
    x, w = operands(name)
    return x, w, torch.randint(-2, 3, (2,)).double()


@pytest.mark.parametrize("wanted", ["", "x", "w", "b", "xw", "wb", "xwb"])
@pytest.mark.parametrize("name", NAMES)
def test_passes_run_natively_and_only_those_whose_result_is_wanted(name: str, wanted: str, ran: list[str]):
    inputs = dict(zip("xwb", tensors(name), strict=True))
    asked = [inputs[key].requires_grad_() for key in wanted]

    def results() -> list[Tensor]:
        y = getattr(F, name)(*inputs.values(), padding=1, groups=2)
        return [y, *(torch.autograd.grad(y.square().sum(), asked) if asked else ())]

    torchs = results()
    with native_preferred(), routing.routed():
        routed = results()
    assert_equal(routed, torchs)
    assert [r.stride() for r in routed] == [t.stride() for t in torchs]
    forward, of_x = ("dgrad", "fprop") if "transpose" in name else ("fprop", "dgrad")
    assert ran == [forward, *([of_x] if "x" in wanted else []), *(["wgrad"] if "w" in wanted else [])]


def test_a_gradient_that_nobody_asks_for_is_not_computed(ran: list[str]):
    """In eager mode a Function of ours cannot see that the filter's is unwanted; the engine tells torch's backward."""
    x, w = (tensor.requires_grad_() for tensor in operands("conv2d"))
    with native_preferred(), routing.routed():
        torch.autograd.grad(torchs("conv2d")(x, w).sum(), x)
    assert ran == ["fprop", "dgrad"]


@pytest.mark.parametrize("passes", [(), ("fprop",), ("dgrad",), ("wgrad",), ("fprop", "wgrad")], ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_what_auto_leaves_to_torch_goes_there(name: str, passes: tuple[Pass, ...], ran: list[str]):
    args = operands(name)
    wanted = with_gradients(torchs(name), *args)
    with native_preferred(passes), routing.routed():
        assert_equal(with_gradients(torchs(name), *args), wanted)
    assert sorted(ran) == sorted(passes)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.conv2d(torch.ones(1, 2, 4, 4, dtype=torch.int32), torch.ones(2, 2, 3, 3, dtype=torch.int32)),
        lambda: F.conv2d(torch.ones(0, 2, 4, 4), torch.ones(2, 2, 3, 3)),
        lambda: F.conv2d(torch.ones(1, 2, 4, 4, device="meta"), torch.ones(2, 2, 3, 3, device="meta")),
        lambda: F.conv2d(torch.ones(1, 2, 4, 4).to_mkldnn(), torch.ones(2, 2, 3, 3)).to_dense(),
        lambda: F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3), torch.ones(3)),
        lambda: F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(2, 1, 3, 3)),
        lambda: F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(2, 2, 5, 5)),
        lambda: F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3).double()),
    ],
    ids=["integers", "empty", "meta", "mkldnn", "bias", "channels", "too small", "dtypes"],
)
def test_what_is_not_ours_is_as_before(call: Any, ran: list[str]):
    def outcome() -> Any:
        try:
            result = call()
        except RuntimeError as error:
            return str(error)
        return result.shape, None if result.is_meta else result.tolist()

    wanted = outcome()
    with native_preferred(), routing.routed():
        assert outcome() == wanted
    assert not ran


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize(
    ("recorder", "transform"),
    [
        (recorder, transform)
        for recorder in RECORDERS
        for transform in ("backward", "grad", "jvp")
        # Compiled for training, a graph holds our ops themselves.
        if (recorder, transform) not in {*UNSUPPORTED, ("compile", "backward")}
    ],
)
def test_derivatives_in_a_graph(recorder: str, transform: str, name: str, ran: list[str]):
    args, record = operands(name), RECORDERS[recorder]
    with native_preferred():
        if transform == "backward":
            wanted, recorded = with_gradients(torchs(name), *args), record(ours(name), args)
        else:
            wanted, recorded = (
                TRANSFORMS[transform](torchs(name))(*args),
                record(TRANSFORMS[transform](ours(name)), args),
            )
        with routing.routed():
            results = with_gradients(recorded, *args) if transform == "backward" else recorded(*args)
    assert_equal(results, wanted)
    assert len(ran) >= 2


def test_complex_numbers_are_made_of_real_convolutions(ran: list[str]):
    x, w = torch.ones(1, 2, 4, 4, dtype=torch.complex64), torch.ones(2, 2, 3, 3, dtype=torch.complex64)
    wanted = F.conv2d(x, w)
    with native_preferred(), routing.routed():
        assert torch.equal(F.conv2d(x, w), wanted)
    assert set(ran) == {"fprop"}


def test_a_second_derivative(ran: list[str]):
    x, w = (tensor.requires_grad_() for tensor in operands("conv2d"))
    with native_preferred(), routing.routed():
        assert torch.autograd.gradgradcheck(torchs("conv2d"), (x, w))
    assert set(ran) == set(PASSES)


def test_an_other_thread_is_routed_too(ran: list[str]):
    args = operands("conv2d")
    with native_preferred(), routing.routed():
        thread = threading.Thread(target=with_gradients, args=(torchs("conv2d"), *args))
        thread.start()
        thread.join()
    assert ran == ["fprop", "dgrad", "wgrad"]


def test_autocast(ran: list[str]):
    x, w = (tensor.float() for tensor in operands("conv2d"))
    with native_preferred(), routing.routed(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torchs("conv2d")(x, w).dtype == torch.bfloat16
    assert ran == ["fprop"]


def test_our_passes_on_torch_stay_on_torch(ran: list[str]):
    """Else a measurement would time our kernel under torch's name, and routing call itself."""
    problem = ConvProblem.parse("mb2g2ic2ih4iw3oc2kh2ph1")
    x, w = operands("conv2d")
    y = torch.zeros(problem.y_shape, dtype=x.dtype)
    with native_preferred(), routing.routed():
        ops.fprop(x, w, None, problem, backend="torch", channels_last=False)
        ops.dgrad(y, w, None, problem, backend="torch", channels_last=False)
        ops.wgrad(y, x, problem, bias_grad=True, backend="torch", channels_last=False)
    assert not ran


def test_first_use_measures_what_is_routed(monkeypatch: pytest.MonkeyPatch, ran: list[str]):
    monkeypatch.setenv(choice.VARIABLE, "1")
    x, w = torch.randn(1, 8, 12, 12), torch.randn(8, 1, 3, 3)
    wanted = F.conv2d(x, w, padding=1, groups=8)
    with routing.routed():
        torch.testing.assert_close(F.conv2d(x, w, padding=1, groups=8), wanted)
    assert ran  # at least to be measured


def test_off_means_off(ran: list[str]):
    args = operands("conv2d")
    with native_preferred():
        with routing.routed(), routing.routed():
            pass
        with_gradients(torchs("conv2d"), *args)
        assert not ran
        with routing.routed():
            with routing.routed():
                pass
            with_gradients(torchs("conv2d"), *args)
        assert ran == ["fprop", "dgrad", "wgrad"]
    with pytest.raises(RuntimeError, match="are not routed"):
        routing.disable()


def test_an_import_installs_nothing():
    code = (
        "import torch, convbound, convbound.routing\n"
        "for name in ('convolution', 'convolution_backward'):\n"
        "    assert not torch._C._dispatch_has_kernel_for_dispatch_key(f'aten::{name}', 'CPU'), name\n"
    )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)


def test_the_functions_of_convbound_do_not_change(ran: list[str]):
    args = operands("conv2d")
    wanted = with_gradients(torchs("conv2d"), *args)
    with native_preferred(), routing.routed():
        assert_equal(with_gradients(ours("conv2d"), *args), wanted)
        assert ran == ["fprop", "dgrad", "wgrad"]
    assert convbound.conv2d is not F.conv2d
