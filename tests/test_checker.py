"""Who checks the checker: the reference against loops and against torch, and wrong results that have to be caught."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support import reference
from support.check import Results, expected, explain_inexact, poisoned_outputs, relative_error
from support.data import Operands, amid_nan, integers, reals, terms
from support.problems import PROBLEMS
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from convbound import ops
from convbound.problem import PASSES, ConvProblem, Pass

parse = ConvProblem.parse

TINY = [
    "mb2g2ic4ih4iw5oc6kh2kw3sh1sw2ph1pw0dh2dw1",
    "ic2iw6oc2kw3sw2pw2ew1dw2",
    "g2ic2id3ih2iw4oc2kd2kh1kw2sd1sh1sw2pd1ph0eh1",
    "ic1ih5oc1kh2ph1eh-1",
    "ic1ih2iw4oc1kh1kw2ph4pw1eh-3ew0",  # all of the input is cropped
]


def loops(p: ConvProblem, x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, dx and dw as csrc/conv_problem.h defines them, one multiply-add at a time."""
    out, dx, dw = torch.zeros_like(y), torch.zeros_like(x), torch.zeros_like(w)
    c_per_group, k_per_group = p.c // p.groups, p.k // p.groups
    for n, k, c in itertools.product(range(p.n), range(p.k), range(c_per_group)):
        for at in itertools.product(*map(range, p.output)):
            for tap in itertools.product(*map(range, p.filter)):
                pairs = zip(at, p.stride, tap, p.dilation, p.padding, strict=True)
                inside = tuple(o * s + r * d - begin for o, s, r, d, (begin, _) in pairs)
                if all(0 <= i < size for i, size in zip(inside, p.input, strict=True)):
                    ix, iw, iy = (n, k // k_per_group * c_per_group + c, *inside), (k, c, *tap), (n, k, *at)
                    out[iy] += x[ix] * w[iw]
                    dx[ix] += y[iy] * w[iw]
                    dw[iw] += y[iy] * x[ix]
    return out, dx, dw


@pytest.mark.parametrize("problem", [parse(text) for text in TINY], ids=str)
def test_the_reference_is_the_equation(problem: ConvProblem):
    t = integers(problem, "wgrad", torch.float64).without_bias()
    y, dx, dw = loops(problem, t.x, t.w, t.y)
    assert torch.equal(reference.fprop(t.x, t.w, None, problem), y)
    assert torch.equal(reference.dgrad(t.y, t.w, None, problem), dx)
    assert torch.equal(reference.wgrad(t.y, t.x, problem)[0], dw)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_reference_is_what_torch_computes(problem: ConvProblem):
    p, t = problem, integers(problem, "wgrad", torch.float32).map(Tensor.double)
    x, w, bias = (tensor.requires_grad_() for tensor in (t.x, t.w, t.bias) if tensor is not None)
    padded = F.pad(x, [amount for pair in reversed(p.padding) for amount in pair])
    y = getattr(F, f"conv{p.ndim}d")(padded, w, bias, p.stride, 0, p.dilation, p.groups)
    dx, dw, dbias = torch.autograd.grad(y, (x, w, bias), t.y)
    with torch.no_grad():
        assert torch.equal(reference.fprop(x, w, bias, p), y)
        assert torch.equal(reference.dgrad(t.y, w, None, p), dx)
        assert torch.equal(reference.wgrad(t.y, x, p)[0], dw)
        assert torch.equal(reference.wgrad(t.y, x, p)[1], dbias)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_positive_data_is_more_than_half_precision_can_count(problem: ConvProblem, pass_: Pass):
    for dtype in (torch.float16, torch.bfloat16):
        operands = integers(problem, pass_, dtype, "positive")
        largest = next(iter(expected(pass_, operands, problem).values())).abs().max()
        assert 4096 < largest < 65504 or (dtype == torch.bfloat16 and 4096 < largest < 2**24)


@pytest.mark.parametrize("pass_", PASSES)
def test_data_is_exact_in_any_order_of_summation(pass_: Pass):
    for problem, dtype in itertools.product(PROBLEMS, (torch.float16, torch.bfloat16, torch.float32, torch.float64)):
        t = integers(problem, pass_, dtype, "positive")
        exact_up_to = 2.0**53 if dtype == torch.float64 else 2.0**24
        assert expected(pass_, t, problem)["dw" if pass_ == "wgrad" else "dx" if pass_ == "dgrad" else "y"].max() <= (
            exact_up_to
        )
        assert all(torch.equal(tensor, tensor.double().round().to(dtype)) for tensor in (t.x, t.w, t.y))


# Wrong results, as bugs of kernels would give them: (operands, problem) -> results. Each is made of the reference.
Wrong = Callable[[Operands, ConvProblem], Results]


def halo_off_by_one(t: Operands, p: ConvProblem) -> Results:
    (begin, end), *rest = reversed(p.padding)
    return expected("fprop", t, dataclasses.replace(p, padding=(*reversed(rest), (begin + 1, end - 1))))


def one_tap_missing(t: Operands, p: ConvProblem) -> Results:
    w = t.w.clone()
    w[..., -1] = 0
    return expected("fprop", dataclasses.replace(t, w=w), p)


def flipped_filter(t: Operands, p: ConvProblem) -> Results:
    return expected("fprop", dataclasses.replace(t, w=t.w.flip(*range(2, t.w.dim()))), p)


def swapped_axes(t: Operands, p: ConvProblem) -> Results:
    return expected("fprop", dataclasses.replace(t, w=t.w.flatten(2).roll(1, 2).view_as(t.w)), p)


def filters_of_another_group(t: Operands, p: ConvProblem) -> Results:
    return expected("fprop", dataclasses.replace(t, w=t.w.roll(1, 0)), p)


def no_bias(t: Operands, p: ConvProblem) -> Results:
    return expected("fprop", t.without_bias(), p)


def never_written(t: Operands, p: ConvProblem) -> Results:
    y = expected("fprop", t, p)["y"]
    y[..., -1][0, -1] = torch.nan
    return {"y": y}


def last_channel_zero(t: Operands, p: ConvProblem) -> Results:
    y = expected("fprop", t, p)["y"]
    y[:, -1] = 0
    return {"y": y}


def added_twice(t: Operands, p: ConvProblem) -> Results:
    y = expected("fprop", t, p)["y"]
    y[0, 0].view(-1)[0] *= 2
    return {"y": y}


def read_beside_the_tensor(t: Operands, p: ConvProblem) -> Results:
    """A row read one element too far, into the memory that lies beside the tensor."""
    x = amid_nan(t.x, channels_last=False)
    beyond = torch.as_strided(x, x.shape, x.stride(), x.storage_offset() + 1)
    return expected("fprop", dataclasses.replace(t, x=beyond), p)


def accumulated_in(narrow: torch.dtype) -> Wrong:
    """Every partial sum rounded to a narrower type."""

    def wrong(t: Operands, p: ConvProblem) -> Results:
        whole = torch.zeros(p.y_shape, dtype=torch.float64)
        for tap in itertools.product(*map(range, p.filter)):
            w = torch.zeros_like(t.w)
            w[(..., *tap)] = t.w[(..., *tap)]
            for c in range(p.c // p.groups):
                one = torch.zeros_like(w)
                one[:, c] = w[:, c]
                whole = (whole + reference.fprop(t.x, one, None, p)).to(narrow).double()
        assert t.bias is not None
        return {"y": whole + t.bias.double().reshape(-1, *[1] * p.ndim)}

    return wrong


def multiplied_in_tf32(t: Operands, p: ConvProblem) -> Results:
    def drop_13_bits(tensor: Tensor) -> Tensor:
        return (tensor.float().view(torch.int32) & ~0x1FFF).view(torch.float32)

    return expected("fprop", dataclasses.replace(t, x=drop_13_bits(t.x), w=drop_13_bits(t.w)), p)


def cut_off_instead_of_rounded(t: Operands, p: ConvProblem) -> Results:
    y = expected("fprop", t, p)["y"]
    return {"y": (y.float().view(torch.int32) & ~0xFFFF).view(torch.float32).double()}


ANY_DTYPE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WRONG: dict[str, tuple[Wrong, tuple[torch.dtype, ...]]] = {
    "halo off by one": (halo_off_by_one, ANY_DTYPE),
    "one tap missing": (one_tap_missing, ANY_DTYPE),
    "flipped filter": (flipped_filter, ANY_DTYPE),
    "filter axes mixed up": (swapped_axes, ANY_DTYPE),
    "filters of another group": (filters_of_another_group, ANY_DTYPE),
    "bias forgotten": (no_bias, ANY_DTYPE),
    "an element never written": (never_written, ANY_DTYPE),
    "last channel left zero": (last_channel_zero, ANY_DTYPE),
    "an element added twice": (added_twice, ANY_DTYPE),
    "read beside the tensor": (read_beside_the_tensor, ANY_DTYPE),
    "accumulated in fp16": (accumulated_in(torch.float16), (torch.float16,)),
    "accumulated in bf16": (accumulated_in(torch.bfloat16), (torch.bfloat16, torch.float32)),
    "accumulated in fp32": (accumulated_in(torch.float32), (torch.float64,)),
    "multiplied in tf32": (multiplied_in_tf32, (torch.float32, torch.float64)),
    "cut off instead of rounded": (cut_off_instead_of_rounded, (torch.bfloat16,)),
}
SUBJECTS = [parse(text) for text in ("mb2g4ic4ih7iw9oc4kh3ph1", "g2ic6ih8iw7oc4kh3kw2sh2sw1ph1pw0", "ic4iw20oc3kw5pw2")]


@pytest.mark.parametrize("problem", SUBJECTS, ids=str)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_results_are_caught(wrong: str, problem: ConvProblem):
    make, dtypes = WRONG[wrong]
    for dtype in dtypes:
        caught = []
        for sign in ("signed", "positive"):
            operands = integers(problem, "fprop", dtype, sign)
            right = expected("fprop", operands, problem)
            assert not explain_inexact({"y": right["y"].to(dtype)}, right, dtype)
            results = {"y": make(operands, problem)["y"].to(dtype)}
            caught.append(explain_inexact(results, right, dtype))
        assert any(caught), f"{wrong} passed unseen in {dtype}"


def test_results_of_another_kind_are_caught():
    problem = SUBJECTS[0]
    right = expected("wgrad", integers(problem, "wgrad", torch.float32), problem)
    single = {name: tensor.float() for name, tensor in right.items()}
    assert not explain_inexact(single, right, torch.float32)
    assert "dw is torch.float64" in explain_inexact(right, right, torch.float32)
    assert "results are ['dw']" in explain_inexact({"dw": single["dw"]}, right, torch.float32)
    assert "dbias is torch.float32 (2, 2)" in explain_inexact(
        {**single, "dbias": single["dbias"].view(2, 2)}, right, torch.float32
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_accumulating_in_half_shows_on_real_data_too(dtype: torch.dtype):
    problem = parse("ic64ih6oc4kh3ph1")
    operands = reals(problem, "fprop", dtype).map(Tensor.abs)
    right = expected("fprop", operands, problem)["y"]
    wrong = accumulated_in(dtype)(operands, problem)["y"].to(dtype)
    epsilon = torch.finfo(dtype).eps
    assert relative_error(right.to(dtype), right, magnitude=right).max() <= epsilon
    assert relative_error(wrong, right, magnitude=right).max() > 5 * epsilon


def test_what_is_no_number_is_an_infinite_error():
    nothing, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert relative_error(one * torch.nan, one, one) == math.inf
    assert relative_error(one, nothing, nothing) == math.inf
    assert relative_error(nothing, nothing, nothing) == 0


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
def test_the_outputs_of_the_native_ops_are_poisoned(pass_: Pass, channels_last: bool):
    problem = parse("mb2g4ic4ih7iw9oc4kh3ph1")
    # Dense in the layout, so that the ops make no copies beside their outputs.
    t = reals(problem, pass_, torch.float32).map(lambda tensor: amid_nan(tensor, channels_last))
    where = {"backend": "cpu", "channels_last": channels_last}
    with poisoned_outputs(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        if pass_ == "fprop":
            ops.fprop(t.x, t.w, t.bias, problem, **where)
        elif pass_ == "dgrad":
            ops.dgrad(t.y, t.w, t.bias, problem, **where)
        else:
            ops.wgrad(t.y, t.x, problem, bias_grad=True, **where)
    calls = {event.key: event.count for event in profiler.key_averages()}
    assert calls["aten::fill_"] == calls["aten::empty"] == (2 if pass_ == "wgrad" else 1)


def test_terms_is_the_length_of_the_longest_sum():
    problem = parse("mb2g2ic6ih8iw7oc4kh3kw2")
    assert [terms(problem, pass_) for pass_ in PASSES] == [3 * 6, 2 * 6, 2 * 6 * 6]
