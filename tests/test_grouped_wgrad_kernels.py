"""Filter gradients as implicit GEMMs: what serves, traffic, waves, machine code, sums in fixed order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import cubins, device
from support.check import assert_exact, expected
from support.data import Operands, integers
from support.traced import LIBRARY, needs_code

from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

NAMES = ("grouped_wgrad_nhwc_small", "grouped_wgrad_nhwc_gemm")
ROWS = [row for row in device.rows() if row["name"] in NAMES]
SMALL = [row for row in ROWS if row["name"] == NAMES[0]]
MULTIPROCESSORS = 132


def zeros(row: dict[str, Any], problem: ConvProblem) -> Operands:
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape, (problem.k,))
    return Operands(*(torch.zeros(shape, dtype=device.dtype_of(row)) for shape in shapes))


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_several_splits_without_bias(row: dict[str, Any]):
    problem = ConvProblem.parse("mb3g4ic32ih20iw21oc32kh3ph1")
    operands = integers(problem, "wgrad", device.dtype_of(row)).without_bias()
    results, _ = device.run_row(row, operands, problem, "check", aligned=True)
    assert_exact(results, expected("wgrad", operands, problem), device.dtype_of(row))
    found = device.plan(row, problem)
    assert not isinstance(found, str)
    assert found["workspace_bytes"] > 0


@pytest.mark.parametrize("channels", [(1, 1), (1, 2), (3, 5), (4, 4), (7, 3), (8, 8), (12, 12), (16, 16)])
def test_small_groups_read_x_once(channels: tuple[int, int]):
    inputs, outputs = channels
    for row in SMALL:
        problem = ConvProblem.parse(f"g64ic{64 * inputs}ih14oc{64 * outputs}kh3ph1")
        if 32 * inputs > 64 * outputs:  # more channels of x than a box has
            assert not device.serves(row, problem)
            continue
        found = device.select(problem, row, "sm_80")
        assert found is not None
        assert found["name"] == NAMES[0] or (inputs == 1 and found["name"].startswith("depthwise"))


# The most SM-L2 bytes loaded over the compulsory ones, and wavefronts per 128 (position, channel). One tile of
# channels: others repeat it. So small a batch has more partial sums than a layer has.

LAYERS = {
    "mb2g8ic32ih56oc32kh3ph1": (1.2, 33),
    "mb2g8ic32ih28oc32kh3ph1": (1.3, 34),
    "mb4g8ic64ih14oc64kh3ph1": (1.2, 39),
    "mb8g2ic32ih7oc32kh3ph1": (1.25, 59),
    "mb2g32ic32ih56oc32kh7ph3": (1.7, 118),
}


@pytest.mark.parametrize("row", SMALL, ids=device.row_id)
@pytest.mark.parametrize("text", LAYERS)
def test_traffic_of_small_groups(row: dict[str, Any], text: str):
    problem = ConvProblem.parse(text)
    traces = device.run_row(row, zeros(row, problem), problem, "trace profile=sm_90", aligned=True)[1]
    found = traces[0]
    traffic, wavefronts = LAYERS[text]
    assert found["load_bytes"] <= traffic * found["compulsory_bytes"]
    shared = sum(site["transactions"] for site in found["sites"] if site["space"] == "shared")
    assert shared * 128 <= wavefronts * problem.n * problem.k * problem.output[0] * problem.output[1]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["name"] == NAMES[1] and row["tensor_cores"]], ids=device.row_id
)
def test_wide_tiles_are_free_of_bank_conflicts(row: dict[str, Any]):
    problem = ConvProblem.parse("mb2ic128ih9iw10oc128kh1")
    traces = device.run_row(row, zeros(row, problem), problem, "trace profile=sm_90", aligned=True)[1]
    assert traces[0]["bank_conflicts"] <= 1.1
    assert traces[0]["coalescing"] <= 1.3


# The most blocks that a layer's last wave may lack.
WAVES = {
    "mb32g32ic128ih56oc128kh3ph1": (NAMES[0], 3),
    "mb32g32ic256ih28oc256kh3ph1": (NAMES[0], 3),
    "mb32ic64ih56oc64kh3ph1": (NAMES[1], 2),
    "mb32ic3ih224oc64kh7sh2ph3": (NAMES[1], 2),
    "mb128ic512ih7oc2048kh1": (NAMES[1], 2),
}


@pytest.mark.parametrize("text", WAVES)
def test_blocks_fill_whole_waves(text: str):
    name, resident = WAVES[text]
    row = next(row for row in ROWS if (row["name"], row["dtype"].name) == (name, "fp16"))
    found = device.plan(row, ConvProblem.parse(text))
    assert not isinstance(found, str)
    waves = found["grid"][0] / (MULTIPROCESSORS * resident)
    assert waves / -(-waves // 1) >= 0.9


@needs_code
def test_machine_code():
    kernels = [k for k in cubins.read_kernels(LIBRARY).values() if any(f"{name}_kernel" in k.name for name in NAMES)]
    assert kernels
    for kernel in kernels:
        assert kernel.local_bytes == 0
        assert kernel.accesses["LDGSTS", 16] > 0
        if "<float" in kernel.name:
            assert kernel.registers <= 128
            assert kernel.instructions["FFMA"] >= 1024
        else:
            assert kernel.instructions["HMMA"] > 0
            assert kernel.accesses["LDSM", 4] > 0
            assert kernel.registers <= 255
