"""Large depthwise filters on tensor cores: exact around their tiles, traffic, machine code, where they are taken."""

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

ROWS = [row for row in device.rows() if row["name"].endswith("_nchw_toeplitz")]
each_row = pytest.mark.parametrize("row", ROWS, ids=device.row_id)


@each_row
def test_long_sums_of_positive_numbers(row: dict[str, Any]):
    # Beyond 4096, where an accumulator of 16 bits would show.
    problem = ConvProblem.parse("g2ic2ih56oc2kh31ph15")
    operands = integers(problem, row["pass"].name, device.dtype_of(row), "positive")
    results, _ = device.run_row(row, operands, problem, "check profile=sm_80 order=reverse", aligned=True)
    assert_exact(results, expected(row["pass"].name, operands, problem), device.dtype_of(row))


@each_row
def test_without_bias_and_bitwise_the_same_in_every_order(row: dict[str, Any]):
    problem = ConvProblem.parse("mb2g2ic2ih30iw33oc2kh13ph6")
    generator = torch.Generator().manual_seed(0)
    dtype = device.dtype_of(row)
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    operands = Operands(*(torch.randn(shape, generator=generator).to(dtype) for shape in shapes), None)
    (name,), first = {"fprop": ("y",), "dgrad": ("dx",)}[row["pass"].name], None
    for options in ("order=forward", "order=reverse workers=1", "order=random seed=1 cp_async=late"):
        found = device.run_row(row, operands, problem, options)[0][name]
        first = found if first is None else first
        assert torch.equal(found, first)


# By counts of machine code, on the safe side: whether the FMA kernels execute more than twice the instructions.
TAKEN = {
    "mb32g128ic128ih56oc128kh31ph15": True,
    "mb32g128ic128ih56oc128kh9ph4": True,
    "mb32g96ic96ih56oc96kh7ph3": True,
    "mb32g192ic192ih28oc192kh7ph3": True,
    "mb32g128ic128ih56oc128kh51kw5ph25pw2": True,
    "mb32g128ic128ih56oc128kh5kw51ph2pw25": True,
    "mb32g256ic256ih28oc256kh29ph14": True,
    "mb32g512ic512ih14oc512kh27ph13": True,
    "mb32g1024ic1024ih7oc1024kh13ph6": True,
    "mb32g512ic512ih14oc512kh7ph3": False,
    "mb32g1024ic1024ih7oc1024kh7ph3": False,
    "g1024ic1024ih7oc1024kh13ph6": False,
    "mb32g128ic128ih56oc128kh31sh2ph15": False,
    "mb32g128ic128ih56oc128kh31ph30dh2": False,
}


@each_row
@pytest.mark.parametrize("text", TAKEN)
def test_taken_where_it_halves_the_instructions(row: dict[str, Any], text: str):
    problem = ConvProblem.parse(text)
    assert device.serves(row, problem, "sm_80") == TAKEN[text]
    assert not device.serves(row, problem, "sm_75")
    if TAKEN[text]:
        found = device.select(problem, row, "sm_80")
        assert found is not None
        assert found["name"] == row["name"]


# The most SM-L2 bytes over the compulsory ones, and wavefronts over the least that the distinct bytes need: lanes whose
# rows lie outside the plane share zeros, which makes that least smaller than what ldmatrix can reach. Channels are cut
# down: blocks share nothing but the filter.
LAYERS = {
    "mb2g4ic4ih56oc4kh31ph15": (1.15, 1.1),
    "mb2g4ic4ih56oc4kh9ph4": (1.05, 1.1),
    "mb2g4ic4ih56oc4kh51kw5ph25pw2": (1.05, 1.15),
    "mb2g8ic8ih28oc8kh29ph14": (1.3, 1.2),
}


@each_row
@pytest.mark.parametrize("text", LAYERS)
def test_traffic(row: dict[str, Any], text: str):
    problem = ConvProblem.parse(text)
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    operands = Operands(*(torch.zeros(shape, dtype=device.dtype_of(row)) for shape in shapes), None)
    (found,) = device.run_row(row, operands, problem, "trace profile=sm_90", aligned=True)[1]
    traffic, wavefronts = LAYERS[text]
    assert found["traffic_ratio"] <= traffic
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= wavefronts


@needs_code
def test_machine_code_multiplies_on_tensor_cores_and_moves_16_bytes():
    kernels = [kernel for kernel in cubins.read_kernels(LIBRARY).values() if "toeplitz" in kernel.name]
    assert kernels
    for kernel in kernels:
        assert kernel.instructions["HMMA"] > 0
        assert kernel.accesses["LDSM", 4] > 0  # the width that the table has for what names none
        assert kernel.accesses["LDGSTS", 16] > 0
        assert kernel.accesses["STG", 16] > 0
        assert {width for (operation, width) in kernel.accesses if operation == "LDG"} == {2}
        assert kernel.registers <= 128
