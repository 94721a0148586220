"""Running one pass and judging its results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from convbound import ops
from convbound.problem import ConvProblem, Pass
from support import reference
from support.data import Operands, amid_nan

Results = dict[str, Tensor]


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """New tensors are full of NaN, those that the ops allocate included: an element never written shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")  # as torch.use_deterministic_algorithms, which loads Inductor besides
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def run(pass_: Pass, operands: Operands, problem: ConvProblem, backend: str, channels_last: bool) -> Results:
    """The results of a pass by name, computed by a backend from operands amid NaN into outputs of NaN."""
    amid = operands.map(lambda tensor: amid_nan(tensor, channels_last))
    with poisoned_outputs():
        return compute(pass_, amid, problem, backend, channels_last)


def compute(pass_: Pass, operands: Operands, problem: ConvProblem, backend: str, channels_last: bool) -> Results:
    """The results of a pass by name, computed by a backend from operands as they are."""
    t = operands
    where = {"backend": backend, "channels_last": channels_last}
    if pass_ == "fprop":
        return {"y": ops.fprop(t.x, t.w, t.bias, problem, **where)}
    if pass_ == "dgrad":
        return {"dx": ops.dgrad(t.y, t.w, t.bias, problem, **where)}
    dw, dbias = ops.wgrad(t.y, t.x, problem, bias_grad=t.bias is not None, **where)
    return {"dw": dw} if dbias is None else {"dw": dw, "dbias": dbias}


def expected(pass_: Pass, operands: Operands, problem: ConvProblem) -> Results:
    """The same in fp64."""
    t = operands
    if pass_ == "fprop":
        return {"y": reference.fprop(t.x, t.w, t.bias, problem)}
    if pass_ == "dgrad":
        return {"dx": reference.dgrad(t.y, t.w, t.bias, problem)}
    dw, dbias = reference.wgrad(t.y, t.x, problem)
    return {"dw": dw} if t.bias is None else {"dw": dw, "dbias": dbias}


def explain_inexact(results: Results, references: Results, dtype: torch.dtype) -> str:
    """What is wrong with results that should be the fp64 ones rounded once; empty where nothing is."""
    if results.keys() != references.keys():
        return f"results are {list(results)}, not {list(references)}"
    for name, wanted in references.items():
        got, rounded = results[name], wanted.to(dtype)
        if got.shape != wanted.shape or got.dtype != dtype:
            return f"{name} is {got.dtype} {tuple(got.shape)}, not {dtype} {tuple(wanted.shape)}"
        if not torch.equal(got, rounded):
            wrong = (got != rounded).nonzero()
            at = tuple(wrong[0].tolist())
            return (
                f"{name}: {len(wrong)} of {got.numel()} elements are wrong, {int(got.isnan().sum())} of them NaN; "
                f"first at {at}: {got[at].item()}, not {rounded[at].item()}"
            )
    return ""


def assert_exact(results: Results, references: Results, dtype: torch.dtype) -> None:
    """The results are the fp64 ones, rounded once."""
    complaint = explain_inexact(results, references, dtype)
    assert not complaint, complaint


def relative_error(result: Tensor, wanted: Tensor, magnitude: Tensor) -> Tensor:
    """Per element |y - y64| / sum |x||w|; infinite where the result is NaN, or not zero though nothing was summed."""
    difference = (result.double() - wanted).abs()
    relative = torch.where(magnitude > 0, difference / magnitude, torch.where(difference > 0, torch.inf, difference))
    return relative.nan_to_num(nan=torch.inf, posinf=torch.inf)
