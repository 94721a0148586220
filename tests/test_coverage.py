"""No layer of the benchmark falls to a naive CUDA kernel: neither in 16 bits nor in fp32, in no pass and no layout."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from support import device

from convbound.bench.tables import load_suites
from convbound.problem import LAYOUTS, PASSES, Layout, Pass

pytestmark = pytest.mark.skipif(not device.rows(), reason=f"no registry of CUDA kernels: {device.ABSENT}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_fast_row_serves_every_layer(pass_: Pass, layout: Layout, dtype: torch.dtype):
    like = next(
        row
        for row in device.rows()
        if (row["pass"].name, device.dtype_of(row), row["layout"].name) == (pass_, dtype, layout)
    )
    served: Counter[str] = Counter()
    for suite in load_suites().values():
        for layer in suite.layers:
            row = device.select(replace(layer.problem, n=max(layer.problem.n, 1)), like, "sm_80")
            assert row is not None
            served[row["name"]] += 1
            assert not row["naive"], f"{row['name']} serves {layer.problem} of {suite.name}"
    assert sum(served.values()) > 400
