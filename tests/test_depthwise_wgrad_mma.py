"""Depthwise wgrad on tensor cores: exact, repeatable, traffic, machine code, where it is taken."""

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

ROWS = [row for row in device.rows() if row["name"] == "depthwise_wgrad_nchw_mma"]
each_row = pytest.mark.parametrize("row", ROWS, ids=device.row_id)


@each_row
@pytest.mark.parametrize("text", ["mb2g2ic2ih56oc2kh7ph3", "mb32g3ic3ih14oc3kh3ph1"])
def test_long_sums_of_positive_numbers(row: dict[str, Any], text: str):
    # Beyond 4096, where an accumulator of 16 bits would show.
    problem = ConvProblem.parse(text)
    operands = integers(problem, "wgrad", device.dtype_of(row), "positive")
    results, _ = device.run_row(row, operands, problem, "check profile=sm_80 order=reverse", aligned=True)
    assert_exact(results, expected("wgrad", operands, problem), device.dtype_of(row))


@each_row
@pytest.mark.parametrize("text", ["mb9g3ic3ih9iw20oc3kh5ph2", "mb9g3ic3ih9iw11oc3kh5ph2"])
def test_nothing_beside_the_tensors_and_the_rows_counts(row: dict[str, Any], text: str):
    # Neighbours of a row, of a plane and of the last image lie in shared memory, too. Large numbers there would show.
    problem = ConvProblem.parse(text)
    operands = integers(problem, "wgrad", device.dtype_of(row))
    operands.x[..., 0] = operands.x[..., -1] = 64
    operands.y[..., 0] = operands.y[..., -1] = 64
    for aligned in (False, True):
        results, _ = device.run_row(row, operands, problem, "check cp_async=late", aligned=aligned)
        assert_exact(results, expected("wgrad", operands, problem), device.dtype_of(row))


TAKEN = {
    "mb32g96ic96ih56oc96kh7ph3": True,
    "mb32g144ic144ih112oc144kh3sh2ph1": True,
    "mb32g960ic960ih7oc960kh3ph1": True,
    "mb8g32ic32ih224oc32kh3ph1": True,
    "mb32g96ic96ih56oc96kh9ph4": False,
    "mb32g96ic96ih56oc96kh3ph2dh2": False,
    "mb32g96ic96ih56oc96kh3sh3ph1": False,
    "mb32g96ic96iw1000oc96kw4pw3ew0": False,
    "mb1g96ic96ih64iw1000oc96kh3ph1": False,
}


@each_row
@pytest.mark.parametrize("text", TAKEN)
def test_where_it_is_taken(row: dict[str, Any], text: str):
    problem = ConvProblem.parse(text)
    assert device.serves(row, problem, "sm_80") == TAKEN[text]
    assert not device.serves(row, problem, "sm_75")
    if TAKEN[text]:
        found = device.select(problem, row, "sm_80")
        assert found is not None
        assert found["name"] == row["name"]


# The most SM-L2 bytes over the compulsory ones, and wavefronts over the least that the distinct bytes need. The last
# problem has too few planes for a GPU, and is cut into strips.
LAYERS = {
    "mb8g40ic40ih56oc40kh3ph1": (1.01, 1.1),
    "mb8g40ic40ih56oc40kh7ph3": (1.03, 1.2),
    "mb32g8ic8ih28oc8kh7ph3": (1.05, 1.3),
    "mb32g16ic16ih14oc16kh7ph3": (1.15, 1.7),
    "mb64g16ic16ih7oc16kh3ph1": (1.15, 1.3),
    "mb4g4ic4ih112oc4kh3sh2ph1": (1.05, 1.6),
    "mb2g4ic4ih112oc4kh3ph1": (1.06, 1.8),
}


@each_row
@pytest.mark.parametrize("text", LAYERS)
def test_traffic(row: dict[str, Any], text: str):
    problem = ConvProblem.parse(text)
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    operands = Operands(*(torch.zeros(shape, dtype=device.dtype_of(row)) for shape in shapes), None)
    found = device.run_row(row, operands, problem, "trace profile=sm_90", aligned=True)[1][0]
    traffic, wavefronts = LAYERS[text]
    assert found["traffic_ratio"] <= traffic
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= wavefronts


@needs_code
def test_machine_code_multiplies_on_tensor_cores_and_copies_16_bytes():
    kernels = [kernel for kernel in cubins.read_kernels(LIBRARY).values() if "wgrad_nchw_mma" in kernel.name]
    assert kernels
    for kernel in kernels:
        assert kernel.instructions["HMMA"] > 0
        assert kernel.accesses["LDGSTS", 16] > 0
        assert kernel.instructions["WARPSYNC"] < 8  # the loops' branches are known not to diverge
        # At stride 2 even and odd columns of x have sums of their own.
        assert kernel.registers <= (168 if ", 2>" in kernel.name else 128)
