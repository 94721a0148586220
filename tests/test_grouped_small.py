"""Small groups on tensor cores: exact sums, traffic and wavefronts of layers, machine code, where they are taken."""

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

ROWS = [row for row in device.rows() if "_nhwc_small" in row["name"]]
each_row = pytest.mark.parametrize("row", ROWS, ids=device.row_id)


def row_named(name: str) -> dict[str, Any]:
    return next(row for row in ROWS if row["name"] == name and row["dtype"].name == "fp16")


# Channels in a group of x and of y: 8 or 16 fill slabs, the others begin within them.
GROUPS = [(1, 1), (1, 3), (2, 2), (3, 5), (4, 8), (5, 4), (7, 7), (8, 1), (12, 12), (15, 16), (16, 16)]


@each_row
@pytest.mark.parametrize(("inputs", "outputs"), GROUPS)
def test_groups_of_any_size(row: dict[str, Any], inputs: int, outputs: int):
    groups = 5 if inputs < 8 else 3
    problem = ConvProblem.parse(f"mb2g{groups}ic{groups * inputs}ih5iw9oc{groups * outputs}kh3ph1")
    if not device.serves(row, problem):
        assert row["name"].endswith("march")
        return
    operands = integers(problem, row["pass"].name, device.dtype_of(row), "positive")
    results, _ = device.run_row(row, operands, problem, "check order=reverse", aligned=True)
    assert_exact(results, expected(row["pass"].name, operands, problem), device.dtype_of(row))


# The most SM-L2 bytes over the compulsory ones, and wavefronts of shared memory for 128 outputs.
LAYERS = {
    "mb32g32ic128ih56oc128kh3ph1 resnext50": (1.2, 16),
    "mb32g144ic144ih56oc144kh3ph1 mobilenet_v2": (1.15, 16),
    "mb32g192ic192ih28oc192kh3ph1 mobilenet_v2": (1.2, 20),
    "mb32g576ic576ih14oc576kh3ph1 mobilenet_v2": (1.1, 20),
    "mb32g240ic240ih28oc240kh5ph2 efficientnet_b0": (1.25, 32),
    "mb32g192ic192ih28oc192kh7ph3 7x7": (1.25, 42),
    "mb32g384ic384ih14oc384kh7ph3 7x7": (1.1, 43),
}


@pytest.mark.parametrize("pass_", ["fprop", "dgrad"])
@pytest.mark.parametrize("text", LAYERS)
def test_traffic(text: str, pass_: str):
    problem = ConvProblem.parse(text)
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    operands = Operands(*(torch.zeros(shape, dtype=torch.float16) for shape in shapes), None)
    row = row_named(f"grouped_{pass_}_nhwc_small_march")
    (found,) = device.run_row(row, operands, problem, "trace profile=sm_90 blocks=0:16", aligned=True)[1]
    traffic, wavefronts = LAYERS[text]
    share = found["blocks"] / found["grid"][0]
    assert found["load_bytes"] + found["store_bytes"] <= traffic * share * found["compulsory_bytes"]
    shared = sum(site["transactions"] for site in found["sites"] if site["space"] == "shared")
    assert shared <= wavefronts * share * operands.y.numel() / 128


# Whether the dispatcher takes the row for fprop.
TAKEN = {
    "mb32g144ic144ih56oc144kh3ph1": "grouped_fprop_nhwc_small_march",
    "mb32g16ic256ih28oc256kh3ph1": "grouped_fprop_nhwc_small_march",
    "mb4g32ic128ih28oc128kh3sh2ph1": "grouped_fprop_nhwc_small",
    "mb4g32ic128ih28oc128kh3ph4dh4": "grouped_fprop_nhwc_small",
    "mb4g8ic256ih28oc256kh3ph1": None,
    "mb4g32ic128ih28oc128kh3ph4000dh4000": None,
}


@pytest.mark.parametrize("text", TAKEN)
def test_taken(text: str):
    found = device.select(ConvProblem.parse(text), row_named("grouped_fprop_nhwc_small"), "sm_80")
    assert found is not None
    assert (found["name"] if "_nhwc_small" in found["name"] else None) == TAKEN[text]


@needs_code
def test_machine_code_multiplies_on_tensor_cores_and_moves_16_bytes():
    kernels = [kernel for kernel in cubins.read_kernels(LIBRARY).values() if "grouped_nhwc_small" in kernel.name]
    assert kernels
    for kernel in kernels:
        assert kernel.instructions["HMMA"] > 0
        assert kernel.accesses["LDGSTS", 16] > 0
        assert kernel.accesses["STG", 16] > 0
        assert kernel.registers <= (96 if "march" not in kernel.name else 128)
        assert not any(operation in ("LDL", "STL") for operation, _ in kernel.accesses)
