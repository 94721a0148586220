"""Depthwise wgrad in CUDA C++, in the emulator: exact at the edges of its tiles, repeatable, with little traffic."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support import device
from support.check import assert_exact, expected
from support.cubins import MULTIPROCESSORS
from support.data import integers, reals
from support.edges import TILES
from support.traced import needs_code, resident_blocks

from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

ROWS = [row for row in device.rows() if "_wgrad" in row["name"] and row["family"] in ("depthwise", "dilated")]
PROBLEMS = (*TILES["depthwise_wgrad*"], *TILES["dilated_wgrad_nhwc"])


def served(row: dict[str, Any], profile: str = "sm_90") -> list[ConvProblem]:
    """The problems that the dispatcher gives to this row."""
    found = [(problem, device.select(problem, row, profile)) for problem in PROBLEMS]
    return [problem for problem, choice in found if choice is not None and choice["index"] == row["index"]]


def row_for(problem: ConvProblem, dtype: str, layout: str) -> dict[str, Any]:
    row = next(row for row in ROWS if (row["dtype"].name, row["layout"].name) == (dtype, layout))
    found = device.select(problem, row, "sm_90")
    assert found is not None
    return next(row for row in device.rows() if row["index"] == found["index"])


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_exact_without_bias(row: dict[str, Any]):
    # Tensor cores take all that some rows serve, where there are any.
    problem = (served(row) or served(row, "sm_75"))[0]
    operands = integers(problem, "wgrad", device.dtype_of(row)).without_bias()
    results, _ = device.run_row(row, operands, problem, "check")
    assert_exact(results, expected("wgrad", operands, problem), device.dtype_of(row))


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_bitwise_repeatable(row: dict[str, Any]):
    for problem in served(row)[:4]:
        operands = reals(problem, "wgrad", device.dtype_of(row))
        orders = [
            device.run_row(row, operands, problem, options)[0]
            for options in ("order=forward workers=1", "order=reverse", "order=random seed=8")
        ]
        for other in orders[1:]:
            assert torch.equal(orders[0]["dw"], other["dw"])
            assert torch.equal(orders[0]["dbias"], other["dbias"])


# Of SM-L2 traffic over compulsory, of both launches, on tensors aligned as torch's.
TRAFFIC = {
    ("mb8g144ic144ih56oc144kh3ph1", "fp16", "NCHW"): 1.12,
    ("mb32g960ic960ih7oc960kh3ph1", "fp16", "NCHW"): 1.1,
    ("mb8g240ic240ih28oc240kh5ph2", "fp16", "NCHW"): 1.15,
    ("mb8g192ic192ih28oc192kh7ph3", "fp32", "NCHW"): 1.15,
    ("mb1g1024ic1024iw2048oc1024kw4pw3ew0", "fp16", "NCHW"): 1.05,
    ("mb32g384ic384ih14oc384kh3ph1", "fp16", "NHWC"): 1.15,
    ("mb8g96ic96ih56oc96kh3sh2ph1", "fp32", "NHWC"): 1.2,
    ("mb1g1024ic1024iw4096oc1024kw4pw3ew0", "fp16", "NHWC"): 1.05,
    ("mb8g256ic256ih33oc256kh3ph6dh6", "fp16", "NHWC"): 1.05,
    ("mb8g256ic256ih33oc256kh3ph12dh12", "fp32", "NHWC"): 1.05,
    ("mb8g256ic256ih33oc256kh3ph36dh36", "bf16", "NHWC"): 1.05,
    ("mb2g256ic256ih65oc256kh3ph24dh24", "fp16", "NHWC"): 1.05,
    ("mb4g64ic64ih128oc64kh3ph2dh2", "fp16", "NHWC"): 1.25,
    ("mb4g128ic128iw4000oc128kw2pw512ew0dw512", "fp16", "NHWC"): 1.05,
}


@pytest.mark.parametrize(("text", "dtype", "layout"), TRAFFIC)
def test_traffic(text: str, dtype: str, layout: str):
    problem = ConvProblem.parse(text)
    row = row_for(problem, dtype, layout)
    zeros = {name: torch.zeros(shape, dtype=device.dtype_of(row)) for name, shape in shapes(problem).items()}
    traces = device.introspect.simt_run(
        row["pass"],
        device.native(problem),
        row["dtype"],
        row["layout"],
        **{name: tensor.data_ptr() for name, tensor in zeros.items()},
        options="trace",
        row=row["index"],
    )
    moved = sum(trace["load_bytes"] + trace["store_bytes"] for trace in traces)
    assert moved / traces[0]["compulsory_bytes"] <= TRAFFIC[text, dtype, layout]
    assert traces[0]["coalescing"] <= 1.1


def shapes(problem: ConvProblem) -> dict[str, tuple[int, ...]]:
    return {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape, "bias": (problem.k,)}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(
    "text",
    [
        "mb32g144ic144ih56oc144kh3ph1",
        "mb32g960ic960ih7oc960kh3ph1",
        "mb32g96ic96ih56oc96kh7ph3",
        "mb32g128ic128ih56oc128kh31ph15",
        "mb1g32ic32ih112oc32kh3ph1",
        "mb8g4096ic4096iw2048oc4096kw4pw3ew0",
        "mb32g256ic256ih33oc256kh3ph12dh12",
    ],
)
def test_blocks_for_every_multiprocessor_and_a_small_workspace(text: str, dtype: str, layout: str):
    problem = ConvProblem.parse(text)
    row = row_for(problem, dtype, layout)
    found = device.select(problem, row, "sm_90")
    assert found is not None
    assert "_wgrad" in found["name"]
    assert not found["naive"]
    assert found["grid"][0] >= 132
    x_bytes = torch.Size(problem.x_shape).numel() * device.dtype_of(row).itemsize
    assert found["workspace_bytes"] <= max(x_bytes // 8, 4 << 20)


@needs_code
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(
    "text",
    [
        "mb32g144ic144ih56oc144kh3ph1",
        "mb32g96ic96ih112oc96kh3sh2ph1",
        "mb32g192ic192ih28oc192kh3ph1",
        "mb32g576ic576ih14oc576kh3ph1",
        "mb32g960ic960ih7oc960kh3ph1",
        "mb32g672ic672ih14oc672kh5ph2",
        "mb32g144ic144ih56oc144kh5sh2ph2",
        "mb32g96ic96ih56oc96kh7ph3",
        "mb32g768ic768ih7oc768kh7ph3",
        "mb32g256ic256ih33oc256kh3ph12dh12",
    ],
)
def test_resident_work(text: str, dtype: str, layout: str):
    problem = ConvProblem.parse(text)
    row = row_for(problem, dtype, layout)
    found = device.select(problem, row, "sm_90")
    assert found is not None
    operands = integers(dataclasses.replace(problem, n=1), "wgrad", device.dtype_of(row))
    launch = device.run_row(row, operands, dataclasses.replace(problem, n=1), "trace blocks=0:1")[1][0]
    threads, shared = found["block"][0], found["shared_bytes"]
    # Two stages, or three where those are small; all but one are in flight.
    stages = 3 if shared % 3 == 0 and shared < 36 << 10 else 2
    for architecture, (_, _, least) in MULTIPROCESSORS.items():
        resident = resident_blocks(launch | {"block": found["block"], "shared_bytes": shared}, architecture)
        if problem.filter[0] == 3:
            assert resident * shared * (stages - 1) // stages >= least
        else:  # bound by arithmetic: 16 warps of 8 independent sums, 14 of 25 and more, 12 with tensor cores
            assert resident * threads >= (12 if found["tensor_cores"] else 14) * 32
