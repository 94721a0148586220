"""Traffic of Triton kernels, counted in the interpreter: by hand where that can be done, and within bounds."""

from __future__ import annotations

import pytest
import torch
from support import triton_rows

if triton_rows.DEVICE != "cpu":
    pytest.skip("about the interpreter", allow_module_level=True)

import convbound
from convbound.kernels import traffic
from convbound.problem import Layout, Pass
from convbound.trace_report import Trace

HALF = {"dtype": torch.float16, "kernel": "triton"}


def test_one_tap_reads_and_writes_everything_once():
    found = convbound.trace("g2ic2iw512oc2kw1", **HALF)
    (launch,) = found.launches
    assert (launch.blocks, launch.blocks_in_l1) == (2, 2)
    assert launch.load_bytes == 2 * (1024 + 32)  # a channel, and the sector of its filter
    assert launch.store_bytes == 2 * 1024
    assert found.compulsory_bytes == launch.dram_bytes == 2 * 2 * 1024 + 32
    assert found.coalescing == 1


def test_what_exceeds_l1_is_loaded_by_every_request(monkeypatch: pytest.MonkeyPatch):
    problem = "ic1iw2048oc1kw2pw1ew0"
    (within,) = convbound.trace(problem, **HALF).launches
    monkeypatch.setattr(traffic, "L1", 0)
    (beyond,) = convbound.trace(problem, **HALF).launches
    # Four programs of 512 positions: 32 sectors and one of the halo, which the first program lacks; the filter.
    assert within.load_bytes == 32 * (4 * (32 + 1) + 3)
    # Two loads each, of which the first is off by one position; and two elements of the filter.
    assert beyond.load_bytes == 32 * (4 * (32 + 32 + 2) + 3)
    assert (within.blocks_in_l1, beyond.blocks_in_l1) == (4, 0)
    assert within.dram_bytes == beyond.dram_bytes == 32 * (2 * 128 + 1)


def test_a_sector_that_is_stored_in_part_is_filled():
    (launch,) = convbound.trace("ic1iw5oc1kw1", **HALF).launches
    assert launch.store_bytes == 32
    assert launch.dram_bytes == 4 * 32  # x, w, y, and y before


def test_columns_that_no_tap_meets_are_not_loaded():
    """Of a strided dgrad with a dilation: two taps, of the filter and of dy."""
    found = convbound.trace("ic1ih1iw16oc1kh1kw2sw2pw9dw9", "dgrad", kernel="triton:transposed_dgrad_blocks49_nchw")
    (launch,) = found.launches
    assert sum(site.requests for site in launch.sites if site.kind == "load") == 2 + 2


# A plane or two of a layer, for programs are alike. At 5x5 to 1.2, as at 3x3; beyond to 1.4; wgrad to 1.3; 1-D to 1.05.
BOUNDS: list[tuple[str, Pass, Layout, float]] = [
    ("g2ic2ih56oc2kh3ph1", "fprop", "NCHW", 1.2),
    ("g2ic2ih56oc2kh5ph2", "dgrad", "NCHW", 1.2),
    ("ic1ih112oc1kh3ph1", "fprop", "NCHW", 1.2),
    ("g2ic2ih56oc2kh7ph3", "fprop", "NCHW", 1.4),
    ("g32ic32ih56oc32kh3ph1", "fprop", "NHWC", 1.2),
    ("g32ic32ih56oc32kh5ph2", "dgrad", "NHWC", 1.2),
    ("g16ic16ih56oc16kh7ph3", "fprop", "NHWC", 1.4),
    ("g32ic32ih56oc32kh3sh2ph1", "fprop", "NHWC", 1.2),
    ("g2ic2ih56oc2kh4sh2ph1", "dgrad", "NCHW", 1.2),
    ("g16ic16ih56oc16kh3sh2ph1", "dgrad", "NHWC", 1.2),
    ("ic1ih65oc1kh3ph12dh12", "fprop", "NCHW", 1.2),
    ("g16ic16ih65oc16kh3ph12dh12", "fprop", "NHWC", 1.2),
    ("g16ic16ih33oc16kh3ph6dh6", "wgrad", "NHWC", 1.3),
    ("g2ic2ih56oc2kh3ph1", "wgrad", "NCHW", 1.3),
    ("mb2ic1ih56oc1kh9ph4", "dgrad", "NCHW", 1.4),
    ("g2ic2ih56oc2kh7ph3", "wgrad", "NCHW", 1.3),
    ("mb8g16ic16ih14oc16kh3ph1", "wgrad", "NCHW", 1.3),
    ("g16ic16ih56oc16kh3ph1", "wgrad", "NHWC", 1.3),
    ("g16ic16ih56oc16kh7ph3", "wgrad", "NHWC", 1.3),
    ("g4ic4ih28oc4kh3ph1", "fprop", "NCHW", 1.2),
    ("g4ic4ih28oc4kh5ph2", "dgrad", "NCHW", 1.2),
    ("g8ic8ih14oc8kh3ph1", "dgrad", "NCHW", 1.2),
    ("g8ic8ih14oc8kh5ph2", "fprop", "NCHW", 1.2),
    ("g8ic8ih14oc8kh7ph3", "fprop", "NCHW", 1.4),
    ("g16ic16ih7oc16kh3ph1", "fprop", "NCHW", 1.2),
    ("g16ic16ih7oc16kh5ph2", "dgrad", "NCHW", 1.2),
    ("g16ic16ih7oc16kh7ph3", "fprop", "NCHW", 1.4),
    ("g8ic8ih28oc8kh3sh2ph1", "fprop", "NCHW", 1.2),
    ("g8ic8ih28oc8kh3sh2ph1", "dgrad", "NCHW", 1.2),
    ("g16ic16ih14oc16kh5sh2ph2", "dgrad", "NCHW", 1.2),
    ("mb16g16ic16ih7oc16kh5ph2", "wgrad", "NCHW", 1.3),
    ("g2ic2iw4096oc2kw4pw3ew0", "fprop", "NCHW", 1.05),
    ("g32ic32iw1024oc32kw4pw3ew0", "dgrad", "NHWC", 1.05),
    ("g2ic2iw4096oc2kw4pw3ew0", "wgrad", "NCHW", 1.05),
    ("mb2g32ic32iw1024oc32kw4pw3ew0", "wgrad", "NHWC", 1.05),
    ("g32ic32ih28oc32kh13ph6", "fprop", "NHWC", 1.4),
    ("g32ic32ih28oc32kh13ph6", "dgrad", "NHWC", 1.4),
]


@pytest.mark.parametrize(("problem", "pass_", "layout", "bound"), BOUNDS, ids=lambda value: str(value))
def test_depthwise_moves_little_more_than_its_tensors(problem: str, pass_: Pass, layout: Layout, bound: float):
    found = convbound.trace(problem, pass_, layout=layout, **HALF)
    assert "naive" not in found.kernel
    assert found.sm_l2_ratio <= bound


@pytest.mark.parametrize(
    ("problem", "pass_", "bound"),
    [
        ("g4ic4ih28oc4kh13ph6", "fprop", 1.4),
        ("g4ic4ih28oc4kh13ph6", "dgrad", 1.4),
        ("g4ic4ih28oc4kh31kw3ph15pw1", "fprop", 1.4),
        ("g4ic4ih28oc4kh13ph6", "wgrad", 6.5),  # five parts of the filter, and a workspace as large as it
    ],
)
def test_large_filters_in_single_precision(problem: str, pass_: Pass, bound: float):
    found = convbound.trace(problem, pass_, dtype=torch.float32, kernel="triton")
    assert "_large_" in found.kernel
    assert found.sm_l2_ratio <= bound


def test_the_report_leaves_out_what_is_not_known():
    found = convbound.trace("mb3g2ic2ih6oc2kh3", kernel="triton:depthwise_fprop_naive_nchw", images=1)
    assert isinstance(found, Trace)
    assert found.problem.n == 1
    report = str(found)
    assert "depthwise_fprop_naive_nchw interpreted" in report
    assert "16-byte" not in report
    assert "widths" not in report


@pytest.mark.parametrize(
    ("kernel", "gpu", "message"),
    [
        ("triton:no", "H100", "kernel='triton:no' is no row of Triton's table; there are grouped_fprop"),
        ("triton:grouped_fprop_any_nchw", "H100", "does not serve fprop of mb1g2ic2ih6oc2kh3"),
        ("triton", "A100", "counted with the L1 of H100 SXM, not of A100"),
    ],
)
def test_wrong_calls(kernel: str, gpu: str, message: str):
    with pytest.raises(ValueError, match=message):
        convbound.trace("g2ic2ih6oc2kh3", kernel=kernel, gpu=gpu)
