"""The registry of CUDA kernels: one plan for each row, and the reasons of the rows that refuse."""

from __future__ import annotations

from typing import Any

import pytest
from support import device
from support.edges import EDGES
from support.problems import PROBLEMS

from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(bool(device.ABSENT), reason=device.ABSENT or "the registry is there")

ROWS = device.rows()


def row_of(name: str, dtype: str, layout: str, filter_: int = 0) -> dict[str, Any]:
    return next(
        row
        for row in ROWS
        if (row["name"], row["dtype"].name, row["layout"].name, row["filter"]) == (name, dtype, layout, filter_)
    )


REFUSALS = {
    ("depthwise_fprop_nchw_bands", 5): [
        ("g8ic8ih9oc8kh3ph1", "made for a filter of 5x5, this is 3x3"),
        ("g8ic8ih9oc8kh5ph2sh3", "made for strides 1x1 and 2x2"),
        ("g8ic8ih9oc8kh5ph4dh2", "a dilation"),
        ("g2ic8ih9oc8kh5ph2", "not depthwise: groups=2, C=8"),
        ("g8ic8id5ih9oc8kd1kh5ph2", "three dimensions"),
        ("g8ic8ih9iw9000oc8kh5ph2", "a block would need"),
    ],
    ("depthwise_fprop_nchw_toeplitz", 0): [
        ("g8ic8ih28oc8kh5ph2", "25 taps, made for 49 to 4096"),
        ("g8ic8ih28oc8kh9ph4sh2", "made for stride 1x1, this is 2x2"),
        ("g8ic8ih3oc8kh7ph3", "tensor cores would not halve the instructions"),
    ],
    ("dilated_fprop_nchw", 0): [
        ("g8ic8ih9oc8kh3ph1", "dilation 1 along both axes"),
        ("g8ic8ih9oc1024kh3ph2dh2", "K/C = 128 filters for each channel, at most 64"),
        ("g1ic1ih1iw20000000oc1kh1kw3dw2", "input and padding along w (20000000) beyond 16777215"),
    ],
    ("depthwise_dgrad_nchw_tiled", 0): [
        ("g8ic8ih9oc16kh3ph1", "dgrad sums over 2 channels"),
    ],
    ("naive_fprop", 0): [
        ("g1ic1ih1iw4oc1kh1kw1sw536870912pw536870912", "outputs times stride along w (3) beyond 1073741823"),
    ],
}


@pytest.mark.parametrize(
    ("name", "filter_", "problem", "reason"),
    [(*row, *case) for row, cases in REFUSALS.items() for case in cases],
)
def test_a_row_says_why_it_refuses(name: str, filter_: int, problem: str, reason: str):
    row = row_of(name, "fp16", "NCHW", filter_)
    found = device.plan(row, ConvProblem.parse("mb1" + problem))
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_what_the_device_lacks_is_told():
    problem = ConvProblem.parse("mb32g8ic8ih56oc8kh9ph4")
    toeplitz = row_of("depthwise_fprop_nchw_toeplitz", "fp16", "NCHW")
    assert device.introspect.device_plan(toeplitz["index"], device.native(problem), 75, 64 << 10, 40) == (
        "needs sm_80, the device is sm_75"
    )
    found = device.introspect.device_plan(toeplitz["index"], device.native(problem), 80, 1 << 10, 108)
    assert isinstance(found, str)
    assert found.endswith("bytes of shared memory, the device has 1024")


@pytest.mark.parametrize("problem", [*PROBLEMS, *EDGES], ids=str)
def test_the_rows_above_the_chosen_one_say_why(problem: ConvProblem):
    keys = {(row["pass"].name, row["dtype"].name, row["layout"].name): row for row in ROWS}
    for key, row in keys.items():
        alike = [r for r in ROWS if (r["pass"].name, r["dtype"].name, r["layout"].name) == key]
        found = device.select(problem, row, "sm_90")
        assert found is not None
        above = [r["name"] for r in alike if r["index"] < found["index"]]
        assert [name for name, _ in found["refused"]] == above
        assert all(reason for _, reason in found["refused"])
        assert device.plan(alike[len(above)], problem) == {k: v for k, v in found.items() if k != "refused"}


def test_what_a_row_is_stands_in_columns():
    assert {row["name"] for row in ROWS if row["naive"]} == {"naive_fprop", "naive_dgrad", "naive_wgrad"}
    assert {row["family"] for row in ROWS if row["naive"]} == {"any"}
    assert {row["min_arch"] for row in ROWS if row["tensor_cores"]} == {80}
    assert len({(r["name"], r["dtype"], r["layout"], r["filter"], r["stride"]) for r in ROWS}) == len(ROWS)
