"""The check before timing: right kernels of every kind pass, an error where nobody would look does not."""

from __future__ import annotations

import math

import pytest
import torch
from support.data import reals
from support.problems import PROBLEMS
from torch import Tensor

from convbound.choice import first_use
from convbound.choice.first_use import Work, WrongResultError
from convbound.layout import to_layout
from convbound.problem import DTYPE_NAMES, DTYPES, PASSES, ConvProblem, Pass


def work_of(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype = torch.float32, *, channels_last: bool = False
) -> Work:
    t = reals(problem, pass_, dtype).map(lambda t: to_layout(t, channels_last and t.dim() > 1))
    if pass_ == "wgrad":
        return Work(pass_, problem, channels_last, t.y, t.x, bias_grad=True)
    return Work(pass_, problem, channels_last, t.x if pass_ == "fprop" else t.y, t.w, t.bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES.values())
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_right_kernels_pass(problem: ConvProblem, pass_: Pass, dtype: torch.dtype):
    work = work_of(problem, pass_, dtype)
    first_use.check(work, work.results("cpu"), work.results("torch"))


@pytest.mark.parametrize(
    ("slice_bytes", "channels_last"), [(1 << 30, False), (1, True)], ids=["whole NCHW", "NHWC in slices"]
)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_wrong_element_is_seen(
    monkeypatch: pytest.MonkeyPatch, problem: ConvProblem, pass_: Pass, slice_bytes: int, channels_last: bool
):
    """Wrong by as much as one product may count among those that it sums; in the bias gradient, too."""
    monkeypatch.setattr(first_use, "SLICE_BYTES", slice_bytes)
    work = work_of(problem, pass_, channels_last=channels_last)
    expected = work.results("torch")
    scales = work.map(Tensor.abs).results("torch")
    for i, scale in enumerate(scales):
        results = [result.clone() for result in expected]
        place = (-1,) * results[i].dim()
        results[i][place] += scale[place] / max(work.terms, 100) + 1e-30
        with pytest.raises(WrongResultError, match="the error is"):
            first_use.check(work, results, expected)


def test_where_torch_errs_more_than_rounding_fp64_is_the_judge():
    """A backend may then err as much; one that is right is not blamed, one that errs more than twice as much is."""
    work = work_of(ConvProblem.parse("mb2g4ic4ih9iw11oc4kh3ph1"), "fprop")
    right = work.results("cpu")
    scale = work.map(Tensor.abs).run("torch")
    errors = {factor: [right[0] + factor * 1e-3 * scale] for factor in (1.0, -1.9, 2.2)}
    first_use.check(work, right, errors[1.0])
    first_use.check(work, errors[-1.9], errors[1.0])
    with pytest.raises(WrongResultError, match=r"the error is 2\.2e-03, torch's own 1\.0e-03"):
        first_use.check(work, errors[2.2], errors[1.0])


def test_equal_data_rounds_alike_and_is_no_error():
    """A long sum of equal terms errs far more than one of random ones, and differently in each order."""
    problem = ConvProblem.parse("mb8g2ic2ih56oc2kh3ph1")
    x, dy = torch.full(problem.x_shape, 0.1), torch.full(problem.y_shape, 0.3)
    work = Work("wgrad", problem, False, dy, x, bias_grad=True)
    first_use.check(work, work.results("cpu"), work.results("torch"))


def test_copies_are_made_of_slices(monkeypatch: pytest.MonkeyPatch):
    problem = ConvProblem.parse("mb7g4ic4ih9iw11oc4kh3ph1")
    work = work_of(problem, "wgrad")
    monkeypatch.setattr(first_use, "SLICE_BYTES", 2 * 8 * 2 * 4 * 9 * 11)
    parts = list(work.slices())
    assert [len(part.first) for _, part in parts] == [2, 2, 2, 1]
    assert all(part.first.shape[0] == part.second.shape[0] == part.problem.n for _, part in parts)
    torch.testing.assert_close(sum(part.run("torch")[0] for _, part in parts), work.run("torch")[0])


def test_terms_are_the_products_that_one_output_sums():
    problem = ConvProblem.parse("mb2g2ic8ih9iw11oc6kh3kw2")
    for pass_ in PASSES:
        work = work_of(problem, pass_)
        ones = work.map(torch.ones_like)
        assert ones.results("torch")[0].max() - (0 if work.bias is None else 1) == work.terms
    assert math.prod(problem.output) * 2 == work_of(problem, "wgrad").terms
