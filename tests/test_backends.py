"""Which backend serves: named ones are taken at their word, ``auto`` never fails where torch works."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import device
from support.dispatched import Dispatched
from support.preferring import REASON, native_preferred
from torch import Tensor

import convbound
from convbound import _library
from convbound.choice import backends, choose, cpu_table
from convbound.problem import PASSES, ConvProblem, Pass

X = torch.ones(2, 4, 6, 7)
W = torch.ones(6, 2, 3, 3)
PROBLEM = ConvProblem.parse("mb2g2ic4ih6iw7oc6kh3")


def served(*args: Any, **kwargs: Any) -> list[str]:
    """The native ops that a call and its backward ran."""
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with Dispatched() as dispatched:
        convbound.conv2d(x, w, *args, groups=2, **kwargs).sum().backward()
    return dispatched.native


def test_backends_lists_them_with_reasons():
    found = {backend.name: backend for backend in convbound.backends()}
    assert list(found) == ["cpu", "cuda", "triton", "simt", "torch"]
    assert found["cpu"].available
    assert found["torch"].available
    assert all((backend.absent is None) == backend.available for backend in found.values())


def test_named_backends_serve_all_passes():
    assert served(backend="cpu") == ["cpu_fprop", "cpu_dgrad", "cpu_wgrad"]
    assert served(backend="torch") == []


@pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")
def test_the_emulator_serves_all_passes():
    assert served(backend="simt") == ["simt_fprop", "simt_dgrad", "simt_wgrad"]


def test_a_backend_of_another_device_says_so():
    with pytest.raises(RuntimeError, match="backend='cuda'"):
        convbound.conv2d(X, W, groups=2, backend="cuda")


def test_the_environment_variable_is_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBOUND_BACKEND", "cpu")
    assert served() == ["cpu_fprop", "cpu_dgrad", "cpu_wgrad"]
    assert served(backend="torch") == []
    monkeypatch.setenv("CONVBOUND_BACKEND", "torch")
    assert served() == []
    with native_preferred():
        assert served(backend="auto") == ["cpu_fprop", "cpu_dgrad", "cpu_wgrad"]
        monkeypatch.setenv("CONVBOUND_BACKEND", "")
        assert served() == ["cpu_fprop", "cpu_dgrad", "cpu_wgrad"]
    monkeypatch.setenv("CONVBOUND_BACKEND", "gpu")
    with pytest.raises(ValueError, match="backend='gpu' is unknown"):
        served()


def test_the_instruction_set_that_is_asked_for_has_to_exist(monkeypatch: pytest.MonkeyPatch):
    for value, understood in (("", ""), (" ", ""), ("avx2", "avx2"), (" generic\n", "generic")):
        monkeypatch.setenv("CONVBOUND_CPU_ISA", value)
        _library.check_isa()
        assert os.environ["CONVBOUND_CPU_ISA"] == understood
    monkeypatch.setenv("CONVBOUND_CPU_ISA", "AVX3")
    with pytest.raises(ValueError, match="CONVBOUND_CPU_ISA='AVX3' must be one of generic, avx2, avx512"):
        _library.check_isa()


@pytest.mark.parametrize(
    "passes", [combination for n in range(4) for combination in itertools.combinations(PASSES, n)], ids=str
)
def test_auto_chooses_for_each_pass(passes: tuple[Pass, ...]):
    with native_preferred(passes):
        assert served(backend="auto") == [f"cpu_{pass_}" for pass_ in passes]
        choices = [choose(PROBLEM, pass_, torch.float32, "NCHW", torch.device("cpu")) for pass_ in PASSES]
    assert [choice.backend for choice in choices] == ["cpu" if pass_ in passes else "torch" for pass_ in PASSES]
    assert all(choice.reason == REASON for choice in choices if choice.backend == "cpu")
    assert all(choice.reason for choice in choices)


def test_auto_takes_torch_on_an_instruction_set_that_was_not_measured():
    with native_preferred(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_table, "MEASURED_ISAS", ())
        assert served(backend="auto") == []
        choice = choose(PROBLEM, "fprop", torch.float32, "NCHW", torch.device("cpu"))
    assert backends.CPU_ISA in choice.reason


def test_auto_takes_torch_on_other_devices():
    with native_preferred():
        for device in ("cuda", "meta"):
            choice = choose(PROBLEM, "fprop", torch.float32, "NCHW", torch.device(device), measured=False)
            assert choice.backend == "torch"
        assert convbound.conv2d(X.to("meta"), W.to("meta"), groups=2).device.type == "meta"


class Tagged(Tensor):
    """A subclass of Tensor, as libraries make them."""


UNCOVERED = {
    "complex": (X.cfloat(), W.cfloat()),
    "int": (X.int(), W.int()),
    "mkldnn": (X.to_mkldnn(), W),
    "meta": (X.to("meta"), W.to("meta")),
    "no channels": (torch.ones(2, 0, 6, 7), torch.ones(6, 0, 3, 3)),
    "subclass": (X.as_subclass(Tagged), W),
    "a weight of a subclass": (X, W.as_subclass(Tagged)),
}


@pytest.mark.parametrize("kind", UNCOVERED)
def test_auto_leaves_to_torch_what_no_kernel_covers(kind: str):
    x, w = UNCOVERED[kind]
    with native_preferred(), Dispatched() as dispatched:
        result = convbound.conv2d(x, w, groups=1 if kind == "no channels" else 2, backend="auto")
    wanted = F.conv2d(x, w, groups=1 if kind == "no channels" else 2)
    assert dispatched.native == []
    assert (type(result), result.dtype, result.device, result.layout) == (
        type(wanted),
        wanted.dtype,
        wanted.device,
        wanted.layout,
    )
    assert result.shape == wanted.shape
    if wanted.device.type == "cpu":
        assert torch.equal(result.to_dense(), wanted.to_dense())


@pytest.mark.parametrize(
    ("x", "w"),
    [
        (X.bool(), W.bool()),
        (torch.ones(2, 4, 0, 7), W),
        (torch.ones(2, 4, 0, 7), torch.ones(0, 2, 3, 3)),
        (X.to_sparse(), W),
    ],
    ids=["bool", "no rows", "no filters", "sparse"],
)
def test_auto_leaves_the_errors_of_what_no_kernel_covers_to_torch(x: Tensor, w: Tensor):
    with pytest.raises(Exception) as torchs:  # noqa: PT011
        F.conv2d(x, w, groups=2)
    with native_preferred(), pytest.raises(torchs.type) as ours:
        convbound.conv2d(x, w, groups=2, backend="auto")
    assert ours.type is torchs.type
    assert str(ours.value) == str(torchs.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("complex", "input is torch.complex64, not one of fp16, bf16, fp32 and fp64"),
        ("int", "input is torch.int32, not one of"),
        ("mkldnn", "input has layout torch._mkldnn, not torch.strided"),
        ("meta", "runs on cpu tensors, not on meta"),
        ("no channels", "C=0"),
        ("subclass", "input is a Tagged, a subclass of Tensor"),
        ("a weight of a subclass", "weight is a Tagged, a subclass of Tensor"),
    ],
)
def test_a_named_backend_says_in_the_forward_call_what_it_cannot_take(kind: str, message: str):
    x, w = UNCOVERED[kind]
    with pytest.raises(RuntimeError, match=message):
        convbound.conv2d(x, w, groups=1 if kind == "no channels" else 2, backend="cpu")


@pytest.mark.parametrize("number", [np.int64(2), torch.tensor(2)], ids=["numpy", "tensor"])
@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_numbers_that_torch_takes_for_ints(backend: str, number: Any):
    with native_preferred():
        wanted = F.conv2d(X, W, None, number, number, number, number)
        assert torch.equal(convbound.conv2d(X, W, None, number, number, number, number, backend=backend), wanted)
        wanted = F.conv2d(X, W, None, (number,), (number, 1), number, 2)
        assert torch.equal(convbound.conv2d(X, W, None, (number,), (number, 1), number, 2, backend=backend), wanted)
