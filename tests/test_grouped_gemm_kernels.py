"""The implicit GEMM: it serves whatever no special kernel does in NHWC; its traffic, and its machine code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import cubins, device
from support.check import assert_exact, expected
from support.data import Operands, integers
from support.edges import EDGES, TILES
from support.problems import PROBLEMS
from support.traced import LIBRARY, needs_code

from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

ROWS = [row for row in device.rows() if row["name"] in ("grouped_fprop_nhwc_gemm", "grouped_dgrad_nhwc_gemm")]
each_row = pytest.mark.parametrize("row", ROWS, ids=device.row_id)


def row_of(pass_: str, dtype: str) -> dict[str, Any]:
    return next(row for row in ROWS if (row["pass"].name, row["dtype"].name) == (pass_, dtype))


def trace(row: dict[str, Any], problem: ConvProblem, options: str) -> dict[str, Any]:
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    operands = Operands(*(torch.zeros(shape, dtype=device.dtype_of(row)) for shape in shapes), None)
    (found,) = device.run_row(row, operands, problem, f"trace profile=sm_90 {options}", aligned=True)[1]
    return found


@each_row
@pytest.mark.parametrize("problem", [*PROBLEMS, *EDGES, *TILES["grouped_?????_nhwc_gemm"]], ids=str)
def test_nothing_is_left_to_the_naive_kernels(row: dict[str, Any], problem: ConvProblem):
    found = device.select(problem, row, f"sm_{row['min_arch']}")
    assert found is not None
    assert not found["name"].startswith("naive")


@each_row
def test_long_sums_of_positive_numbers(row: dict[str, Any]):
    # Beyond 4096, where an accumulator of 16 bits would show.
    problem = ConvProblem.parse("mb2ic192ih3oc72kh3ph1")
    operands = integers(problem, row["pass"].name, device.dtype_of(row), "positive")
    results, _ = device.run_row(row, operands, problem, "check profile=sm_90", aligned=True)
    assert_exact(results, expected(row["pass"].name, operands, problem), device.dtype_of(row))


REFUSALS = {
    "g16385ic16385iw9oc16385kw3": "16385 groups of one channel, at most 16384",
    "mb1ic8ih1iw4oc8kh1kw1sw536870912pw536870912": "outputs times stride along w",
    "mb1ic4096ih1iw5000oc2kh1kw4000pw2000": "taps times channels of a group beyond 8388607",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_says_why_it_refuses(text: str):
    for row in ROWS:
        found = device.plan(row, ConvProblem.parse(text))
        assert isinstance(found, str)
        assert found.startswith(REFUSALS[text])


# Positions and channels of the tile that is taken, and blocks.
TAKEN = (
    ("mb32ic256ih14oc256kh3ph1 resnet50:layer3", "fprop", (128, 128), 49 * 2),
    ("mb64ic64ih56oc64kh3ph1 resnet50:layer1", "fprop", (256, 64), 784),
    ("mb32g32ic1024ih14oc1024kh3ph1 resnext50:layer4", "fprop", (128, 32), 49 * 32),
    ("mb32g32ic256ih28oc256kh3ph1 resnext50:layer2", "dgrad", (128, 16), 196 * 32),
    ("mb64ic64ih32oc128kh4sh2ph1 dcgan", "dgrad", (256, 64), 64 * 4),
    ("mb64ic3ih224oc768kh16sh16 vit", "fprop", (128, 128), 98 * 6),
)
SHARED_BYTES = {(128, 128): 69632, (256, 64): 69632, (128, 32): 45056, (128, 16): 40960}


@pytest.mark.parametrize(("text", "pass_", "tile", "blocks"), TAKEN)
def test_tile(text: str, pass_: str, tile: tuple[int, int], blocks: int):
    found = device.plan(row_of(pass_, "fp16"), ConvProblem.parse(text))
    assert not isinstance(found, str)
    assert (found["shared_bytes"], found["grid"]) == (SHARED_BYTES[tile], (blocks, 1, 1))


# Problem, pass, tile, and the most wavefronts of shared memory for each mma of the whole kernel.
LAYERS = (
    ("mb64ic256ih14oc256kh3ph1 resnet50:layer3", "fprop", (128, 128), 1.6),
    ("mb64ic256ih14oc256kh3ph1 resnet50:layer3", "dgrad", (128, 128), 1.6),
    ("mb64ic256ih56oc64kh1 resnet50:layer1", "fprop", (256, 64), 2.125),
    ("mb64ic64ih56oc256kh1 resnet50:layer1", "dgrad", (256, 64), 2.125),
    ("mb32g32ic1024ih14oc1024kh3ph1 resnext50:layer4", "fprop", (128, 32), 3.87),
    ("mb32g32ic1024ih14oc1024kh3ph1 resnext50:layer4", "dgrad", (128, 32), 4.62),
)


@pytest.mark.parametrize(("text", "pass_", "tile", "most"), LAYERS)
def test_shared_memory_keeps_up_with_tensor_cores(text: str, pass_: str, tile: tuple[int, int], most: float):
    problem, row = ConvProblem.parse(text), row_of(pass_, "fp16")
    found = trace(row, problem, "blocks=0:2")
    assert found["shared_bytes"] == SHARED_BYTES[tile]
    assert found["coalescing"] == 1
    assert set(found["loaded_bytes_by_width"][:4]) == set(found["stored_bytes_by_width"][:4]) == {0}
    depth = (problem.k if pass_ == "dgrad" else problem.c) // problem.groups * problem.filter[0] * problem.filter[1]
    products = found["blocks"] * tile[0] // 16 * tile[1] // 8 * depth // 16
    wavefronts = sum(site["transactions"] for site in found["sites"] if site["space"] == "shared")
    assert wavefronts <= most * products


@each_row
def test_strides_and_groups_move_whole_sectors(row: dict[str, Any]):
    for text in ("mb8ic128ih28oc128kh3sh2ph1", "mb8g4ic128ih14oc128kh3ph1"):
        assert trace(row, ConvProblem.parse(text), "blocks=0:4")["coalescing"] == 1


@needs_code
def test_machine_code_multiplies_on_tensor_cores_and_moves_16_bytes():
    kernels = [kernel for kernel in cubins.read_kernels(LIBRARY).values() if "grouped_gemm<" in kernel.name]
    assert kernels
    for kernel in kernels:
        assert kernel.local_bytes == 0
        assert kernel.accesses["LDGSTS", 16] > 0
        assert kernel.accesses["STG", 16] > 0
        assert (kernel.instructions["HMMA"] > 0) == ("GemmMma" in kernel.name)
        assert (kernel.instructions["FFMA"] >= 64) == ("GemmFma" in kernel.name)
