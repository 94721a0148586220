"""The table of Triton kernels, and running one row of it: interpreted on CPU tensors, or on a GPU.

tests/conftest.py turns the interpreter on unless TRITON_INTERPRET says otherwise: with TRITON_INTERPRET=0 the same
tests run on a GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convbound import _library, fakes
from convbound.kernels import ops as triton_ops
from convbound.problem import ConvProblem
from support.check import Results, poisoned_outputs
from support.data import Operands, amid_nan

DEVICE = "cpu" if triton_ops.INTERPRETING else "cuda"

# Why there is nothing to run them on, or None.
ABSENT: str | None = _library.ABSENT["triton"]
if ABSENT is None and DEVICE == "cuda" and not torch.cuda.is_available():
    ABSENT = "there is no GPU, and TRITON_INTERPRET=0 turns the interpreter off"
if ABSENT is not None:
    pytest.skip(f"no Triton kernels: {ABSENT}", allow_module_level=True)

from convbound.kernels.table import Kernel  # noqa: E402


def run_row(row: Kernel, operands: Operands, problem: ConvProblem) -> Results:
    """The results of one row by name, from operands amid NaN into outputs of NaN amid NaN.

    Raises
    ------
    AssertionError
        Where the row wrote beside an output.
    """
    channels_last = row.layout == "NHWC"
    t = operands.map(lambda tensor: amid_nan(tensor.to(DEVICE), channels_last))

    def output(shape: tuple[int, ...]) -> Tensor:
        like = fakes.empty_dense(t.x.new_empty(0), shape, channels_last and len(shape) > 1)
        return amid_nan(like.fill_(torch.nan), channels_last)

    bias = t.bias is not None
    if row.pass_ == "fprop":
        inputs, results = {"x": t.x, "w": t.w, "bias": t.bias}, {"y": output(problem.y_shape)}
    elif row.pass_ == "dgrad":
        inputs, results = {"dy": t.y, "w": t.w, "bias": t.bias}, {"dx": output(problem.x_shape)}
    else:
        inputs, results = {"dy": t.y, "x": t.x, "dbias": None}, {"dw": output(problem.w_shape)}
        results |= {"dbias": output((problem.k,))} if bias else {}
    with poisoned_outputs():  # so that workspaces are
        row.plan(problem, t.x.dtype, bias).run(inputs | results)
    for name, result in results.items():
        around = torch.as_strided(result, (result._base.numel(),), (1,), 0)
        beside = torch.cat([around[:65], around[65 + result.numel() :]])
        assert beside.isnan().all(), f"{row.name} wrote beside {name}"
    return {name: result.cpu() for name, result in results.items()}
