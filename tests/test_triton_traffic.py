"""Traffic of Triton kernels, counted in the interpreter: by hand where that can be done, and within bounds."""

from __future__ import annotations

import pytest
import torch
from support import triton_rows

if triton_rows.DEVICE != "cpu":
    pytest.skip("about the interpreter", allow_module_level=True)

from convbound.kernels import traffic


def test_one_tap_reads_and_writes_everything_once():
    found = traffic.count("g2ic2iw512oc2kw1", "fprop", torch.float16, "NCHW")
    assert (found.programs, found.programs_in_l1) == (2, 2)
    assert found.load_bytes == 2 * (1024 + 32)  # a channel, and the sector of its filter
    assert found.store_bytes == 2 * 1024
    assert found.compulsory_bytes == 2 * 2 * 1024 + 32


def test_what_exceeds_l1_is_loaded_by_every_request(monkeypatch: pytest.MonkeyPatch):
    problem = "ic1iw2048oc1kw2pw1ew0"
    within = traffic.count(problem, "fprop", torch.float16, "NCHW")
    monkeypatch.setattr(traffic, "L1", 0)
    beyond = traffic.count(problem, "fprop", torch.float16, "NCHW")
    # Four programs of 512 positions: 32 sectors and one of the halo, which the first program lacks; the filter.
    assert within.load_bytes == 32 * (4 * (32 + 1) + 3)
    # Two loads each, of which the first is off by one position; and two elements of the filter.
    assert beyond.load_bytes == 32 * (4 * (32 + 32 + 2) + 3)
    assert (within.programs_in_l1, beyond.programs_in_l1) == (4, 0)


def test_depthwise_reads_its_input_little_more_than_once():
    found = traffic.count("g2ic2ih28iw56oc2kh3ph1", "fprop", torch.float16, "NCHW")
    assert found.kernel == "depthwise_fprop_rows49_nchw"
    assert found.sm_l2_ratio <= 1.2
