"""Errors are of torch's classes, and name the function, the argument, its value and what would be right."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.dispatched import Dispatched
from support.preferring import native_preferred

import convbound

X = torch.ones(2, 4, 6, 7)
W = torch.ones(6, 2, 3, 3)
WT = torch.ones(4, 3, 3, 3)  # of a transposed convolution


def call(name: str, *args: Any, **kwargs: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return name, args, kwargs


WRONG_CALLS = [
    (call("conv2d", X, W, groups=3), "groups=3 does not divide C=4"),
    (call("conv2d", X, torch.ones(5, 2, 3, 3), groups=2), "groups=2 does not divide K=5"),
    (call("conv2d", X, W), r"input has C=4 channels, but weight \(6, 2, 3, 3\) with groups=1 needs 2"),
    (call("conv2d", X, W, groups=0), "groups=0 must be at least 1"),
    (call("conv2d", X, W, groups=-2), "groups=-2 must be at least 1"),
    (call("conv2d", X, W, groups=2.0), "groups=2.0 must be an int"),
    (call("conv2d", X, W, groups="2"), "groups='2' must be an int"),
    (call("conv2d", X, W, stride=0, groups=2), "stride=0 must be at least 1"),
    (call("conv2d", X, W, stride=(1, -1), groups=2), r"stride=\(1, -1\) must be at least 1"),
    (call("conv2d", X, W, stride=(1, 2, 3), groups=2), r"stride=\(1, 2, 3\) has 3 entries, but there are 2 axes"),
    (call("conv2d", X, W, stride=(), groups=2), r"stride=\(\) has 0 entries, but there are 2 axes"),
    (call("conv2d", X, W, stride=1.5, groups=2), "stride=1.5 must be an int or a sequence of ints"),
    (call("conv2d", X, W, stride=(1.0, 1), groups=2), r"stride=.*1\.0.* must be an int or a sequence of ints"),
    (call("conv2d", X, W, stride="1", groups=2), "stride='1' must be an int or a sequence of ints"),
    (call("conv2d", X, W, stride=None, groups=2), "stride=None must be an int or a sequence of ints"),
    (call("conv2d", X, W, padding=-1, groups=2), "padding=-1 must be at least 0"),
    (call("conv2d", X, W, padding=1.0, groups=2), "padding=1.0 must be an int or a sequence of ints"),
    (call("conv2d", X, W, padding=(1, 1, 1), groups=2), r"padding=\(1, 1, 1\) has 3 entries"),
    (call("conv2d", X, W, padding="full", groups=2), "padding='full' is no padding; use 'valid', 'same' or numbers"),
    (call("conv2d", X, W, padding="same", stride=2, groups=2), r"padding='same' needs stride 1, but stride=\(2, 2\)"),
    (call("conv2d", X, W, dilation=0, groups=2), "dilation=0 must be at least 1"),
    (
        call("conv2d", X, W, dilation=(1, 9), groups=2),
        r"the filter covers 19 positions \(size 3, dilation 9\), but the padded input has only 7",
    ),
    (call("conv2d", X, torch.ones(6, 2, 9, 1), padding=1, groups=2), "covers 9 positions .* has only 8"),
    (call("conv2d", X, torch.ones(6, 2, 3), groups=2), r"weight has 3 dimensions, but needs 4: shape \(6, 2, 3\)"),
    (
        call("conv2d", torch.ones(6, 7), W, groups=2),
        r"input has 2 dimensions, but needs 4, or 3 without a batch: shape \(6, 7\)",
    ),
    (call("conv3d", X[0], torch.ones(1, 1, 1, 1, 1)), "input has 3 dimensions, but needs 5, or 4 without a batch"),
    (call("conv2d", X, W, torch.ones(5), groups=2), r"bias has shape \(5,\), but needs \(6,\)"),
    (call("conv2d", X, W, torch.ones(6, 1), groups=2), r"bias has shape \(6, 1\), but needs \(6,\)"),
    (
        call("conv2d", X, W.double(), groups=2),
        "weight is torch.float64, but input is torch.float32; they have to agree",
    ),
    (call("conv2d", X, W, torch.ones(6).half(), groups=2), "bias is torch.float16, but input is torch.float32"),
    (call("conv2d", "x", W), "input must be a Tensor, not str"),
    (call("conv2d", X, None), "weight must be a Tensor, not NoneType"),
    (call("conv2d", X, W, 3), "bias must be a Tensor, not int"),
    (
        call("conv2d", torch.ones(2, 4, 0, 7), W, groups=2),
        r"input has shape \(2, 4, 0, 7\); all its sizes",
    ),
    (call("conv2d", X, torch.ones(6, 2, 0, 3), groups=2), r"weight has shape \(6, 2, 0, 3\)"),
    (call("conv2d", X, torch.ones(0, 2, 3, 3), groups=2), "K=0"),
    (call("conv1d", X[0], torch.ones(6, 6, 2), stride=(1, 2)), r"stride=\(1, 2\) has 2 entries, but there are 1 axes"),
    (call("conv_transpose2d", X, WT, groups=3), "groups=3 does not divide C=4"),
    (call("conv_transpose2d", X, WT[:3]), r"input has C=4 channels, but weight \(3, 3, 3, 3\) needs 3"),
    (
        call("conv_transpose2d", X, WT, output_padding=1),
        "output_padding=1 must be smaller than stride=1 or dilation=1 of its axis",
    ),
    (call("conv_transpose2d", X, WT, stride=2, output_padding=-1), "output_padding=-1 must be at least 0"),
    (call("conv_transpose2d", X, WT, padding=9), "padding=9 leaves an output of -10 positions for an input of 6"),
    (call("conv_transpose2d", X, WT, padding="same"), "padding='same' must be an int or a sequence of ints"),
    (call("conv_transpose2d", X, WT, torch.ones(4)), r"bias has shape \(4,\), but needs \(3,\)"),
    (call("conv_transpose2d", X, WT, stride=0), "stride=0 must be at least 1"),
    (call("conv_transpose2d", X, WT, dilation=0), "dilation=0 must be at least 1"),
]
IDS = [f"{name}: {message}" for (name, _, _), message in WRONG_CALLS]


@pytest.mark.parametrize(("wrong", "message"), WRONG_CALLS, ids=IDS)
def test_class_and_message(wrong: Any, message: str):
    name, args, kwargs = wrong
    with pytest.raises((RuntimeError, TypeError)) as torchs:
        getattr(F, name)(*args, **kwargs)
    with pytest.raises(torchs.type, match=f"^{name}: .*{message}"):
        getattr(convbound, name)(*args, **kwargs, backend="cpu")
    with native_preferred(), pytest.raises(torchs.type) as autos:
        getattr(convbound, name)(*args, **kwargs, backend="auto")
    # A TypeError of torch says how the arguments were passed, by position or by name; the rest is the same.
    first = {re.split(r" - got| \(position|: argument", str(error.value))[0] for error in (autos, torchs)}
    assert len(first) == 1


@pytest.mark.parametrize(
    "wrong", [{"stride": 1.0}, {"padding": (0, 0.0)}, {"dilation": (1.0,)}, {"groups": 2.0}, {"stride": True}], ids=str
)
def test_the_class_does_not_depend_on_earlier_calls(wrong: dict[str, Any]):
    """Numbers that are equal to ints and are none: a plan cached for those must not serve these."""
    right = {key: tuple(map(int, value)) if isinstance(value, tuple) else int(value) for key, value in wrong.items()}
    convbound.conv2d(X, W, **{"groups": 2, **right}, backend="cpu")
    with pytest.raises(TypeError):
        F.conv2d(X, W, **{"groups": 2, **wrong})
    with pytest.raises(TypeError, match=next(iter(wrong))):
        convbound.conv2d(X, W, **{"groups": 2, **wrong}, backend="cpu")


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_tensors_on_different_devices(backend: str):
    """Stricter than torch, which reads memory that a meta tensor does not have."""
    with pytest.raises(RuntimeError, match="conv2d: weight is on meta, but input is on cpu"):
        convbound.conv2d(X, W.to("meta"), groups=2, backend=backend)


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="conv2d: backend='cudnn' is unknown; choose one of auto, cpu, "):
        convbound.conv2d(X, W, groups=2, backend="cudnn")


def test_blanks_around_the_name_of_a_backend(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBOUND_BACKEND", " cpu ")
    with Dispatched() as dispatched:
        convbound.conv2d(X, W, groups=2)
    assert dispatched.native == ["cpu_fprop"]
    monkeypatch.setenv("CONVBOUND_BACKEND", "CPU")
    with pytest.raises(ValueError, match="backend='CPU' is unknown"):
        convbound.conv2d(X, W, groups=2)


HUGE = {f"2**{power}{less or ''}": 2**power + less for power, less in [(61, 0), (62, 0), (63, -1), (63, 0), (70, 0)]}


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
def test_sizes_that_cannot_be_counted(name: str, value: int):
    """Never a result that torch does not give: ``auto`` gives torch's error, a named backend an error."""
    x, w = torch.ones(1, 4, 5), torch.ones(4, 1, 3)

    def outcome(function: Callable[..., torch.Tensor], **options: Any) -> Any:
        try:
            return function(x, w, **options).tolist()
        except (RuntimeError, ValueError) as error:
            return type(error), str(error)

    labels = ["stride", "padding", "dilation", *(["output_padding"] if "transpose" in name else [])]
    for number in range(1, len(labels) + 1):
        for chosen in itertools.combinations(labels, number):
            options = {"groups": 4, **dict.fromkeys(chosen, value)}
            wanted = outcome(getattr(F, name), **options)
            with native_preferred():
                assert outcome(getattr(convbound, name), **options, backend="auto") == wanted
            with pytest.raises(RuntimeError, match=r"more than 536870912, the most that|output_padding=.* smaller"):
                getattr(convbound, name)(x, w, **options, backend="cpu")
    with pytest.raises(RuntimeError, match="groups="):
        getattr(convbound, name)(x, w, groups=value, backend="cpu")


@pytest.mark.parametrize("value", [2**16, 2**28, 2**29], ids=str)
def test_large_arguments_that_can_be_counted(value: int):
    x, w = torch.arange(20.0).reshape(1, 4, 5), torch.arange(12.0).reshape(4, 1, 3)
    for options in ({"stride": value}, {"stride": value // 2, "padding": value // 2, "dilation": value // 2}):
        wanted = F.conv1d(x, w, groups=4, **options)
        assert torch.equal(convbound.conv1d(x, w, groups=4, **options, backend="cpu"), wanted)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_out_of_memory_says_how_much_for_what(name: str):
    """A result of 16 TiB, which no allocator promises."""
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    geometry = {"stride": 2**20} if "transpose" in name else {"padding": 2**20}
    with pytest.raises(
        torch.OutOfMemoryError,
        match=r"out of memory: .* \d{14} bytes for a result .*(fprop|dgrad) of mb1ic1\S+, backend='cpu'",
    ):
        getattr(convbound, name)(x, w, **geometry, backend="cpu")
