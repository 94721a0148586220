"""On integers every kernel is exactly right: its result is the fp64 result rounded once to the dtype.

Each row of the kernel table, on each instruction set that the machine has, with each dtype and layout; outputs are NaN
before each run, and operands lie amid NaN.
"""

from __future__ import annotations

import pytest
import torch
from support.check import assert_exact, expected, run
from support.data import Operands, integers
from support.problems import PROBLEMS, Case, cases, instruction_set, kernel_rows, serving_row

from convbound.problem import DTYPES, LAYOUTS, PASSES, ConvProblem, Layout, Pass

CASES = cases(PROBLEMS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_kernel(case: Case):
    for sign in ("signed", "positive"):
        operands = integers(case.problem, case.pass_, case.dtype, sign)
        with instruction_set(case.isa):
            assert serving_row(case.problem, case.pass_, case.dtype, case.layout) == case.row
            results = run(case.pass_, operands, case.problem, "cpu", case.channels_last)
        assert_exact(results, expected(case.pass_, operands, case.problem), case.dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_torch_backend(problem: ConvProblem, pass_: Pass, layout: Layout):
    for dtype in DTYPES:
        # ATen accumulates some passes in the 16-bit dtype itself; what is tested here is our use of it.
        operands = integers(problem, pass_, dtype, narrow=True)
        results = run(pass_, operands, problem, "torch", layout == "NHWC")
        assert_exact(results, expected(pass_, operands, problem), dtype)


@pytest.mark.parametrize("row", [row["name"] for row in kernel_rows()])
def test_every_row_of_the_kernel_table_is_tested(row: str):
    assert row in {case.row for case in CASES}


def test_without_bias():
    problem = ConvProblem.parse("mb2g6ic6ih9iw20oc6kh3ph1")
    for case in cases([problem], [torch.float32]):
        operands = integers(problem, case.pass_, torch.float32).without_bias()
        with instruction_set(case.isa):
            results = run(case.pass_, operands, problem, "cpu", case.channels_last)
        assert_exact(results, expected(case.pass_, operands, problem), torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_every_16_bit_number_is_read_and_rounded_as_torch_does(dtype: torch.dtype, layout: Layout):
    """A 1x1 filter on all 65536 bit patterns: subnormals, ties, overflow to infinity, infinities and NaN."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    factors = torch.tensor([1.0, -1.0, 1 / 3, 1.5, 2.0**-9, 2.0**-14, 1000.0], dtype=dtype)
    problem = ConvProblem(1, 1, len(factors), (2**8, 2**8), (1, 1))
    operands = Operands(
        numbers.view(problem.x_shape), factors.view(problem.w_shape), torch.zeros(problem.y_shape), None
    )
    results = run("fprop", operands, problem, "cpu", layout == "NHWC")["y"]
    # The product of two 16-bit numbers is exact in fp32.
    wanted = (numbers.float() * factors.float()[:, None]).to(dtype).view(problem.y_shape)
    assert torch.equal(results.isnan(), wanted.isnan())
    assert torch.equal(results.nan_to_num(nan=0.0), wanted.nan_to_num(nan=0.0))
