"""Strides, paddings and dilations up to 2^61, as a direct call of an op may have: right, or refused by name."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from convbound import _library

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(_library.LOADED[name] is not None, reason=str(_library.LOADED[name])))
    for name in ("cpu", "simt")
]
V = 2**62


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution, in Python's integers."""

    input: int
    filter: int
    output: int
    stride: int
    begin: int
    end: int
    dilation: int

    def meetings(self) -> list[tuple[int, int, int]]:
        """(output, tap, input) wherever a tap of an output meets the input."""
        pairs = itertools.product(range(self.output), range(self.filter))
        met = [(o, r, o * self.stride + r * self.dilation - self.begin) for o, r in pairs]
        return [(o, r, i) for o, r, i in met if 0 <= i < self.input]


def draw_axis(rng: random.Random, largest: int) -> Axis:
    """An axis of a few elements with numbers of any magnitude up to 2^largest, on which some tap meets the input."""
    size, taps, outputs = rng.randint(1, 6), rng.randint(1, 4), rng.randint(1, 3)
    stride, dilation = (rng.randint(1, 2 ** rng.choice([2, rng.randint(2, largest - 3)])) for _ in range(2))
    reach = (outputs - 1) * stride + (taps - 1) * dilation + 1
    met = rng.randrange(outputs) * stride + rng.randrange(taps) * dilation
    begin = max(0, met - rng.randrange(size))
    end = reach + rng.randrange(stride) - size - begin
    return Axis(size, taps, outputs, stride, begin, end, dilation)


def loops(axes: tuple[Axis, ...], x: Tensor, w: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """The three passes of a depthwise convolution, from their equations."""
    y, dx, dw = torch.zeros_like(dy), torch.zeros_like(x), torch.zeros_like(w)
    for along in itertools.product(*(axis.meetings() for axis in axes)):
        o, r, i = ((..., *at) for at in zip(*along, strict=True))
        y[o] += x[i] * w[:, 0][r]
        dx[i] += dy[o] * w[:, 0][r]
        dw[:, 0][r] += (dy[o] * x[i]).sum(0)
    return {"fprop": y, "dgrad": dx, "wgrad": dw}


def run_passes(backend: str, axes: tuple[Axis, ...], x: Tensor, w: Tensor, dy: Tensor, last: bool) -> dict[str, Tensor]:
    stride, dilation = [axis.stride for axis in axes], [axis.dilation for axis in axes]
    where = (stride, [p for axis in axes for p in (axis.begin, axis.end)], dilation, x.shape[1])
    ops = torch.ops.convbound
    fprop, dgrad, wgrad = (getattr(ops, f"{backend}_{pass_}") for pass_ in ("fprop", "dgrad", "wgrad"))
    return {
        "fprop": fprop(x, w, None, *where, last),
        "dgrad": dgrad(dy, w, None, list(x.shape[2:]), *where, last),
        "wgrad": wgrad(dy, x, list(w.shape[2:]), *where, False, last)[0],
    }


@pytest.mark.parametrize(("backend", "largest"), [("cpu", 61), ("cpu", 31), ("simt", 31), ("simt", 27)])
def test_numbers_of_any_magnitude(backend: str, largest: int):
    if reason := _library.LOADED[backend]:
        pytest.skip(reason)
    rng = random.Random(largest)
    served = 0
    for _ in range(300):
        axes = tuple(draw_axis(rng, largest) for _ in range(rng.randint(1, 2)))
        channels, last = rng.randint(1, 3), rng.random() < 0.5

        def operand(*shape: int) -> Tensor:
            return torch.tensor([rng.randint(-9, 9) for _ in range(torch.Size(shape).numel())]).float().view(shape)

        x = operand(2, channels, *(axis.input for axis in axes))
        w = operand(channels, 1, *(axis.filter for axis in axes))
        dy = operand(2, channels, *(axis.output for axis in axes))
        try:
            results = run_passes(backend, axes, x, w, dy, last)
        except RuntimeError as error:
            if "no CUDA kernel of convbound serves" not in str(error):
                raise
            continue
        served += 1
        for pass_, wanted in loops(axes, x, w, dy).items():
            assert torch.equal(results[pass_], wanted), (pass_, axes)
    assert served == 300 if backend == "cpu" else served > 50


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "message"),
    [
        ([V], [V, V], [V], f"stride={V} is beyond 2^61"),
        ([1], [V, V], [V], rf"padding=({V}, {V}) makes an input of more than 2^61 from one of 5"),
        ([1], [2**63 - 1, 2**63 - 1], [1], f"padding=({2**63 - 1}, {2**63 - 1}) makes an input"),
        ([1], [V, 5 - V], [1], f"padding=({V}, {5 - V}) makes an input"),
        ([1], [1, 1], [V], f"dilation={V} makes a filter of 3 reach beyond 2^61"),
        ([1], [1, 1], [2**63 - 1], f"dilation={2**63 - 1} makes a filter of 3"),
        ([1], [1, -(2**63)], [1], "the filter is larger than the padded input"),
    ],
)
def test_what_64_bits_cannot_hold_is_refused_by_name(
    backend: str, stride: list[int], padding: list[int], dilation: list[int], message: str
):
    x, w, dy = torch.ones(1, 4, 5), torch.ones(4, 1, 3), torch.ones(1, 4, 5)
    calls = {
        "fprop": (x, w, None, stride, padding, dilation, 4, False),
        "dgrad": (dy, w, None, [5], stride, padding, dilation, 4, False),
        "wgrad": (dy, x, [3], stride, padding, dilation, 4, False, False),
    }
    for pass_, arguments in calls.items():
        with pytest.raises(RuntimeError) as raised:
            getattr(torch.ops.convbound, f"{backend}_{pass_}")(*arguments)
        assert message in str(raised.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_that_64_bits_cannot_multiply(backend: str):
    dgrad = getattr(torch.ops.convbound, f"{backend}_dgrad")
    with pytest.raises(RuntimeError, match=f"groups={V} do not divide 4 filters"):
        dgrad(torch.ones(1, 4, 5), torch.ones(4, 4, 1), None, [5], [1], [0, 0], [1], V, False)


@pytest.mark.parametrize("magnitude", [40, 61, 62])
def test_no_row_of_the_registry_claims_what_it_cannot_count(magnitude: int):
    introspect = _library.introspect
    if isinstance(introspect, str) or not hasattr(introspect, "device_kernels"):
        pytest.skip("built without the registry of CUDA kernels")
    huge = 2**magnitude
    for axis, changed in itertools.product((1, 2), ("stride", "dilation", "padding")):
        sizes = {name: [1, 1, 1] for name in ("input", "filter", "output", "stride", "dilation")} | {"padding": [0] * 3}
        sizes["input"][1:] = sizes["output"][1:] = sizes["filter"][1:] = [4, 4]
        sizes[changed][axis] = huge
        problem = introspect.ConvProblem(n=1, c=8, k=8, groups=8, **sizes)
        for row in introspect.device_kernels():
            found = introspect.device_plan(row["index"], problem, 90, 227 * 1024, 132)
            assert isinstance(found, str), (row["name"], changed)
