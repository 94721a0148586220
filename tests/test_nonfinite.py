"""Infinities and NaNs: no kernel misses one, and none spreads them further than convbound/nonfinite.py says."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import device, reference
from support.check import Results, compute
from support.data import Operands, amid_nan
from support.edges import walk
from support.problems import PROBLEMS, available_isas, instruction_set, serving_row
from torch import Tensor

import convbound
from convbound import nonfinite
from convbound.problem import LAYOUTS, PASSES, ConvProblem, Pass

Masks = dict[str, Tensor]
MULTIPLIED: dict[Pass, tuple[str, str]] = {"fprop": ("x", "w"), "dgrad": ("y", "w"), "wgrad": ("x", "y")}


def over_real_taps(pass_: Pass, t: Operands, p: ConvProblem) -> Masks:
    """Where the result is not finite in fp64 if nothing is multiplied with padding."""
    if pass_ == "dgrad":  # a sum over what dy has
        return {"dx": ~reference.dgrad(t.y, t.w, t.bias, p).isfinite()}
    inside = reference._pad(torch.ones(1, 1, *p.input, dtype=torch.float64), p) > 0
    padded = reference._split(reference._pad(t.x.double(), p), p, 1)
    filters, gradient = reference._split(t.w, p, 0), reference._split(t.y, p, 1)
    y, dw = torch.zeros_like(gradient), torch.zeros_like(filters)
    for tap, met in reference._taps(p):
        there = inside[met].unsqueeze(2)
        y += torch.where(there, torch.einsum("ngc...,gkc->ngk...", padded[met], filters[tap]), 0.0)
        dy, x = (torch.where(there, tensor, 0.0) for tensor in (gradient, padded[met]))
        dw[tap] = torch.einsum("ngk...,ngc...->gkc", dy, x)
    if pass_ == "fprop":
        assert t.bias is not None
        return {"y": ~reference._add_bias(y.flatten(1, 2), t.bias).isfinite()}
    return {"dw": ~dw.flatten(0, 1).isfinite(), "dbias": ~t.y.double().sum([0, *range(2, t.y.dim())]).isfinite()}


def allowed(text: str, pass_: Pass, t: Operands, p: ConvProblem, needed: Masks) -> Masks:
    """What a kernel of which the table says this may make non-finite."""
    masks = {name: mask.clone() for name, mask in needed.items()}
    of_group = p.k // p.groups
    if nonfinite.WEIGHT_TO_OUTPUTS in text:
        masks["y"][:, ~t.w.isfinite().flatten(1).all(1)] = True
    if nonfinite.WEIGHT_TO_DX in text:
        for k, c, *tap in (~t.w.isfinite()).nonzero().tolist():
            met = torch.ones(p.input, dtype=torch.bool)
            for axis, (size, stride, (begin, _), dilation, r) in enumerate(
                zip(p.input, p.stride, p.padding, p.dilation, tap, strict=True)
            ):
                along = (torch.arange(size) + begin - r * dilation) % stride == 0
                met &= along.view(-1, *[1] * (p.ndim - axis - 1))
            masks["dx"][:, k // of_group * (p.c // p.groups) + c] |= met
    if nonfinite.ALONG_ROWS in text:  # stride and dilation 1
        source, target = (t.x, masks["y"]) if pass_ == "fprop" else (t.y, masks["dx"])
        for n, c, *place in (~source.isfinite()).nonzero().tolist():
            reach: list[slice | int] = [n, slice(c * of_group, (c + 1) * of_group) if pass_ == "fprop" else c]
            for axis, (at, taps, (begin, _)) in enumerate(zip(place, p.filter, p.padding, strict=True)):
                first = at + begin - taps + 1 if pass_ == "fprop" else at - begin
                further = 40 if axis == p.ndim - 1 else 0
                reach.append(slice(max(0, first - further), max(0, first + taps + further)))
            target[tuple(reach)] = True
    if nonfinite.TO_GROUPS in text:
        source, target = (t.x, masks["y"]) if pass_ == "fprop" else (t.y, masks["dx"])
        for n, _, *place in (~source.isfinite()).nonzero().tolist():
            met = torch.ones(target.shape[2:], dtype=torch.bool)
            for axis, (at, taps, stride, (begin, _), dilation) in enumerate(
                zip(place, p.filter, p.stride, p.padding, p.dilation, strict=True)
            ):
                of = torch.arange(target.shape[2 + axis])
                reached = at + begin - of * stride if pass_ == "fprop" else of + begin - at * stride
                along = (reached >= 0) & (reached < taps * dilation) & (reached % dilation == 0)
                met &= along.view(-1, *[1] * (p.ndim - axis - 1))
            target[n] |= met
    if text in (nonfinite.DY_TO_TAPS, nonfinite.BOTH_TO_TAPS):
        masks["dw"][~t.y.isfinite().transpose(0, 1).flatten(1).all(1)] = True
    if text == nonfinite.BOTH_TO_TAPS:
        channels = (~t.x.isfinite().transpose(0, 1).flatten(1).all(1)).view(p.groups, -1)
        masks["dw"][channels.repeat_interleave(of_group, 0)] = True
    return masks


def spoiled(pass_: Pass, p: ConvProblem, dtype: torch.dtype) -> Iterator[Operands]:
    """Operands of small integers, one of which is not finite at one place."""
    generator = random.Random(f"{pass_} {p} {dtype}")

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.tensor(generator.choices((-2, -1, 0, 1, 2), k=math.prod(shape)), dtype=dtype).view(shape)

    for name in MULTIPLIED[pass_]:
        bias = draw((p.c if pass_ == "dgrad" else p.k,))
        operands = Operands(draw(p.x_shape), draw(p.w_shape), draw(p.y_shape), bias)
        tensor = getattr(operands, name).clone()
        # A first or last tap is what meets padding most often.
        places = (0, tensor.numel() - 1) if name == "w" else range(tensor.numel())
        tensor.view(-1)[generator.choice(places)] = generator.choice((math.nan, math.inf, -math.inf))
        yield replace(operands, **{name: tensor})


def spreads(text: str, pass_: Pass, t: Operands, p: ConvProblem, results: Results) -> bool:
    """Whether a kernel of which the table says this made more non-finite than it had to; it must not make too much."""
    needed = over_real_taps(pass_, t, p)
    most = allowed(text, pass_, t, p, needed)
    more = False
    for name, result in results.items():
        spoilt = ~result.isfinite()
        assert not (needed[name] & ~spoilt).any(), f"{p}: {name} misses a value that is not finite"
        assert not (spoilt & ~most[name]).any(), f"{p}: {name} has values that are not finite without a reason"
        more = more or bool((spoilt & ~needed[name]).any())
    return more


def small(problems: tuple[ConvProblem, ...], count: int) -> list[ConvProblem]:
    """A few of the problems, none of which takes long, from all over the list."""
    some = [p for p in problems if p.n > 0 and math.prod(p.y_shape) * math.prod(p.filter) * (p.c // p.groups) < 60_000]
    return some[:: max(1, len(some) // count)]


def check_row(row: dict[str, Any]) -> bool:
    pass_, name, dtype = row["pass"].name, row["name"], device.dtype_of(row)
    text = nonfinite.spread("cuda", name, pass_, row["layout"].name)
    problems = tuple(problem for problem in walk(name) if device.serves(row, problem))
    found = False
    for i, problem in enumerate(small(problems, 6) or problems[:1]):
        for operands in spoiled(pass_, problem, dtype):
            results, _ = device.run_row(row, operands, problem, "workers=1", aligned=i % 2 == 1)
            found = spreads(text, pass_, operands, problem, results) or found
    return found


@pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")
@pytest.mark.parametrize("name", sorted({row["name"] for row in device.rows()}))
def test_cuda_kernels(name: str):
    rows = [row for row in device.rows() if row["name"] == name]
    found = [check_row(row) for row in rows]
    text = nonfinite.spread("cuda", name, rows[0]["pass"].name, rows[0]["layout"].name)
    assert any(found) == bool(text), "the table names a kernel that spreads nothing"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
def test_cpu_kernels(pass_: Pass, layout: str):
    found: dict[str, bool] = {}
    for isa in available_isas():
        with instruction_set(isa):
            for problem in small(PROBLEMS, len(PROBLEMS)):
                dtype = random.Random(str(problem)).choice((torch.float16, torch.bfloat16, torch.float32))
                kernel = serving_row(problem, pass_, dtype, layout)
                text = nonfinite.spread("cpu", kernel, pass_, layout)
                for operands in spoiled(pass_, problem, dtype):
                    amid = operands.map(lambda tensor: amid_nan(tensor, layout == "NHWC"))
                    results = compute(pass_, amid, problem, "cpu", layout == "NHWC")
                    more = spreads(text, pass_, operands, problem, results)
                    found[kernel] = more or found.get(kernel, False)
    for kernel, more in found.items():
        assert more == bool(nonfinite.spread("cpu", kernel, pass_, layout)), f"{kernel}: the table names it in vain"


def test_explain_says_it():
    problem = "mb2g8ic8ih9iw11oc8kh3ph1"
    if device.ABSENT is None:
        told = str(convbound.explain(problem, backend="simt"))
        assert f"non-finite values: {nonfinite.WEIGHT_TO_OUTPUTS}" in told
    assert "non-finite values" not in str(convbound.explain(problem, dtype=torch.float64, backend="cpu"))


def test_the_document_has_the_table():
    document = (Path(__file__).parent.parent / "docs" / "nonfinite.md").read_text()
    assert f"\n{nonfinite.markdown()}\n" in document
