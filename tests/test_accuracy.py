"""On real data every kernel errs at most twice as much as torch's own convolution in the same dtype, plus a few ulps.

The error of an element is |y - y64| / sum |x||w|: relative to what the sum would be if nothing cancelled.
fp64 is left out: there is nothing more precise to compare with, and test_exact.py holds it to the last bit.
"""

from __future__ import annotations

import pytest
import torch
from support.check import expected, relative_error, run
from support.data import reals
from support.problems import Case, cases, instruction_set
from torch import Tensor

from convbound.problem import ConvProblem

TORCH_FACTOR = 2.0
ULPS = 4.0

# Sums as long as models have them: a ConvNeXt filter, DeepLab's rates, a ResNeXt group, the wgrad of a large image.
PROBLEMS = [
    ConvProblem.parse(text)
    for text in (
        "g16ic16ih20iw21oc16kh7ph3",
        "mb2g8ic8ih30iw31oc8kh3sh2ph1",
        "g4ic4ih56oc4kh5ph2",
        "mb3g8ic8iw200oc8kw31pw15",
        "mb2g4ic64ih14oc64kh3ph1",
        "ic128ih9iw8oc8kh3ph2dh2",
        "ic16ih16oc32kh4sh2ph1",
        "g2ic4id6ih10iw12oc8kd3pd1",
    )
]


@pytest.mark.parametrize("case", cases(PROBLEMS, (torch.float16, torch.bfloat16, torch.float32)), ids=str)
def test_native_kernel(case: Case):
    problem, pass_ = case.problem, case.pass_
    operands = reals(problem, pass_, case.dtype)
    right = expected(pass_, operands, problem)
    magnitude = expected(pass_, operands.map(Tensor.abs), problem)
    torchs = run(pass_, operands, problem, "torch", case.channels_last)
    with instruction_set(case.isa):
        ours = run(pass_, operands, problem, "cpu", case.channels_last)
    for name, wanted in right.items():
        error = relative_error(ours[name], wanted, magnitude[name])
        limit = TORCH_FACTOR * relative_error(torchs[name], wanted, magnitude[name])
        assert (error <= limit + ULPS * torch.finfo(case.dtype).eps).all(), (
            f"{name}: error {error.max():.2e}, torch's {limit.max() / TORCH_FACTOR:.2e}"
        )
