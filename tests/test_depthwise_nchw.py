"""Traffic of the depthwise kernels on NCHW planes, traced on layers of MobileNetV2, EfficientNet-B0 and ConvNeXt-T.

Channels and batch are cut down: blocks do not share what they load, so the ratios are those of the whole layers.
"""

from __future__ import annotations

import pytest
from support import device
from support.cubins import MULTIPROCESSORS
from support.traced import needs_code, resident_blocks, trace

from convbound.problem import ConvProblem, Pass

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

# Pass, dtype, problem, the most SM-L2 bytes over the compulsory ones.
LAYERS: tuple[tuple[Pass, str, str, float], ...] = (
    ("fprop", "fp16", "g8ic8ih112oc8kh3ph1", 1.05),
    ("fprop", "fp32", "g8ic8ih112oc8kh3sh2ph1", 1.05),
    ("fprop", "bf16", "g32ic32ih56oc32kh3ph1", 1.02),
    ("dgrad", "fp16", "g32ic32ih56oc32kh3ph1", 1.02),
    ("fprop", "fp16", "g32ic32ih56oc32kh5sh2ph2", 1.02),
    ("fprop", "fp32", "g64ic64ih28oc64kh5ph2", 1.05),
    ("fprop", "fp16", "g128ic128ih14oc128kh3ph1", 1.05),
    ("fprop", "fp16", "g128ic128ih14oc128kh5sh2ph2", 1.15),
    ("dgrad", "bf16", "g256ic256ih7oc256kh3ph1", 1.15),
    ("fprop", "fp32", "g32ic32ih56oc32kh7ph3", 1.05),
    ("fprop", "fp32", "g64ic64ih14oc64kh7ph3", 1.15),
)


@pytest.mark.parametrize(("pass_", "dtype", "text", "most"), LAYERS)
def test_traffic(pass_: Pass, dtype: str, text: str, most: float):
    found = trace(ConvProblem.parse(text), pass_, dtype, "NCHW")
    assert "_nchw_" in found["row"]
    assert found["traffic_ratio"] <= most
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= 1.1


@needs_code
@pytest.mark.parametrize("architecture", MULTIPROCESSORS)
@pytest.mark.parametrize(("pass_", "dtype", "text", "most"), LAYERS)
def test_resident_work(pass_: Pass, dtype: str, text: str, most: float, architecture: str):
    found = trace(ConvProblem.parse(text), pass_, dtype, "NCHW")
    resident = resident_blocks(found, architecture)
    in_flight, warps = resident * found["load_bytes"] / found["grid"][0], resident * found["block"][0] // 32
    # 7x7 is bound by arithmetic, which wants warps instead.
    assert in_flight >= MULTIPROCESSORS[architecture][2] or ("kh7" in text and warps >= 16)
