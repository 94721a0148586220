"""What the depthwise NHWC and NCL kernels move, counted by the emulator on the layers of real models.

The bounds: SM-L2 bytes over compulsory, DRAM bytes, coalescing, wavefronts of shared memory, the share of 16-byte
accesses; and the bytes that resident blocks keep in flight, with the registers that nvcc gave them. Batches are those
that give each of 132 multiprocessors two blocks.
"""

from __future__ import annotations

from typing import Any

import pytest
from support import device
from support.cubins import MULTIPROCESSORS
from support.traced import needs_code, resident_blocks, trace, wide_share

from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

# Problem, layout and the most SM-L2 traffic. fprop and dgrad are one kernel: dgrad is traced where GRADIENTS says.
LAYERS = {
    "mb8g32ic32ih112oc32kh3ph1 mobilenet_v2:block1.dw": ("NHWC", 1.2),
    "mb8g96ic96ih56oc96kh3sh2ph1 mobilenet_v2:at 56x56, stride 2": ("NHWC", 1.2),
    "mb8g144ic144ih56oc144kh3ph1 mobilenet_v2:block3.dw": ("NHWC", 1.2),
    "mb16g384ic384ih14oc384kh3ph1 mobilenet_v2:block8.dw": ("NHWC", 1.2),
    "mb32g576ic576ih7oc576kh3ph1 mobilenet_v2:block15.dw, 576 channels": ("NHWC", 1.2),
    "mb8g144ic144ih56oc144kh5sh2ph2 efficientnet_b0:block4.dw": ("NHWC", 1.2),
    "mb16g240ic240ih28oc240kh5ph2 efficientnet_b0:block5.dw": ("NHWC", 1.2),
    "mb16g480ic480ih14oc480kh5ph2 efficientnet_b0:block9.dw": ("NHWC", 1.2),
    "mb16g1152ic1152ih7oc1152kh5ph2 efficientnet_b0:block13.dw": ("NHWC", 1.2),
    "mb8g96ic96ih56oc96kh7ph3 convnext_t:stage1.dwconv": ("NHWC", 1.4),
    "mb16g192ic192ih28oc192kh7ph3 convnext_t:stage2.dwconv": ("NHWC", 1.4),
    "mb12g384ic384ih14oc384kh7ph3 convnext_t:stage3.dwconv": ("NHWC", 1.4),
    "mb32g768ic768ih7oc768kh7ph3 convnext_t:stage4.dwconv": ("NHWC", 1.4),
    "mb2g512ic512iw2048oc512kw4pw3ew0 mamba:conv1d": ("NHWC", 1.05),
    "mb2g1024ic1024iw2048oc1024kw4pw3ew0 mamba:conv1d": ("NCHW", 1.05),
    "mb4g256ic256iw1024oc256kw3pw1 centred": ("NCHW", 1.05),
    "mb2g512ic512iw2048oc512kw8pw7ew0 causal, eight taps": ("NCHW", 1.05),
}
GRADIENTS = ("mobilenet_v2:block8.dw", "efficientnet_b0:block9.dw", "convnext_t:stage3.dwconv", "mamba:conv1d")


def cases(*dtypes: str) -> list[Any]:
    found = []
    for text, (layout, most) in LAYERS.items():
        problem = ConvProblem.parse(text)
        for pass_ in ("fprop", "dgrad") if problem.origin in GRADIENTS else ("fprop",):
            for dtype in dtypes:
                found.append(
                    pytest.param(problem, layout, most, pass_, dtype, id=f"{problem}-{layout}-{pass_}-{dtype}")
                )
    return found


@pytest.mark.parametrize(("problem", "layout", "most", "pass_", "dtype"), cases("fp16"))
def test_traffic(problem: ConvProblem, layout: str, most: float, pass_: str, dtype: str):
    found = trace(problem, pass_, dtype, layout, family="depthwise")
    assert found["family"] == "depthwise"
    assert found["grid"][0] >= 2 * 132
    assert found["traffic_ratio"] <= most
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= 1.1
    assert wide_share(found) >= 0.95


@pytest.mark.parametrize("pass_", ["fprop", "dgrad"])
@pytest.mark.parametrize("text", ["mb2g96ic96ih28oc96kh13ph6", "mb2g64ic64ih14oc64kh27ph13"])
def test_large_filters_come_by_sixteen_bytes(text: str, pass_: str):
    found = trace(ConvProblem.parse(text), pass_, "fp16", "NHWC")
    assert found["row"] == f"depthwise_{pass_}_nhwc_general"
    assert wide_share(found) >= 0.95
    assert found["coalescing"] <= 1.3


@needs_code
@pytest.mark.parametrize(("problem", "layout", "most", "pass_", "dtype"), cases("fp16", "fp32")[::7])
def test_bytes_in_flight(problem: ConvProblem, layout: str, most: float, pass_: str, dtype: str):
    found = trace(problem, pass_, dtype, layout, family="depthwise")
    for architecture, (_, _, least) in MULTIPROCESSORS.items():
        assert resident_blocks(found, architecture) * found["load_bytes"] / found["grid"][0] >= least
