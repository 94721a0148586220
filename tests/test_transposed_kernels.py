"""The kernels of strided dgrad: what they move, counted in the emulator on layers of MobileNetV2 and EfficientNet-B0,
and what their machine code says about instructions and bytes in flight.
"""

from __future__ import annotations

import pytest
from support import device
from support.cubins import MULTIPROCESSORS
from support.traced import inner_loops, needs_code, resident_blocks, trace, wide_share

from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

# Problem, dtype, and the most SM-L2 bytes over the compulsory ones and wavefronts of shared memory over the fewest.
# Small planes: each image reads the filter again. Wavefronts beyond 1.1: lanes of one store are in several rows of dx,
# or in several planes, whose lengths are no multiple of 128 bytes, so that some share banks.
PLANES = (
    ("mb32g96ic96ih112oc96kh3sh2ph1 mobilenet_v2:block2.dw", "fp16", 1.05, 1.1),
    ("mb32g96ic96ih112oc96kh3sh2ph1 mobilenet_v2:block2.dw", "fp32", 1.05, 1.1),
    ("mb32g144ic144ih56oc144kh3sh2ph1 mobilenet_v2:block4.dw", "fp16", 1.05, 1.2),
    ("mb32g144ic144ih56oc144kh5sh2ph2 efficientnet_b0:block4.dw", "fp16", 1.05, 1.7),
    ("mb32g192ic192ih28oc192kh3sh2ph1 mobilenet_v2:block7.dw", "bf16", 1.05, 1.6),
    ("mb32g576ic576ih14oc576kh3sh2ph1 mobilenet_v2:block14.dw", "fp16", 1.05, 2),
    ("mb32g576ic576ih14oc576kh3sh2ph1 mobilenet_v2:block14.dw", "fp32", 1.05, 2),
    ("mb32g672ic672ih14oc672kh5sh2ph2 efficientnet_b0:block12.dw", "fp16", 1.2, 1.8),
    ("mb32g96ic96ih56oc96kh7sh2ph3 7x7", "fp16", 1.05, 1.1),
    ("mb32g128ic128ih28oc128kh4sh2ph1 dcgan:transposed", "bf16", 1.05, 1.6),
)
CHANNELS_LAST = (
    ("mb2g96ic96ih112oc96kh3sh2ph1 mobilenet_v2:block2.dw", "fp16", 1.1),
    ("mb4g144ic144ih56oc144kh5sh2ph2 efficientnet_b0:block4.dw", "fp16", 1.2),
    ("mb8g576ic576ih14oc576kh3sh2ph1 mobilenet_v2:block14.dw", "fp16", 1.1),
    ("mb4g192ic192ih28oc192kh3sh2ph1 mobilenet_v2:block7.dw", "fp32", 1.1),
)


# Of the layers' grids a first part, which is like the rest.
PART = "blocks=0:48"


@pytest.mark.parametrize(("text", "dtype", "most", "most_wavefronts"), PLANES)
def test_traffic_of_planes(text: str, dtype: str, most: float, most_wavefronts: float):
    found = trace(ConvProblem.parse(text), "dgrad", dtype, "NCHW", f"profile=sm_90 {PART}")
    assert found["row"] == "transposed_dgrad_nchw_stride2"
    moved = (found["load_bytes"] + found["store_bytes"]) / found["blocks"]
    assert moved <= most * found["compulsory_bytes"] / found["grid"][0]
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= most_wavefronts
    assert wide_share(found) >= 0.95


def test_planes_cross_the_memory_bus_once():
    found = trace(ConvProblem.parse("mb2g288ic288ih14oc288kh3sh2ph1"), "dgrad", "fp16", "NCHW")
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]


@pytest.mark.parametrize(("text", "dtype", "most"), CHANNELS_LAST)
def test_traffic_of_channels_last(text: str, dtype: str, most: float):
    found = trace(ConvProblem.parse(text), "dgrad", dtype, "NHWC")
    assert found["row"] == "transposed_dgrad_nhwc"
    assert found["traffic_ratio"] <= most
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]
    assert found["coalescing"] <= 1.1
    assert wide_share(found) >= 0.95


@needs_code
@pytest.mark.parametrize("architecture", MULTIPROCESSORS)
@pytest.mark.parametrize(("text", "dtype", "most", "most_wavefronts"), PLANES)
def test_bytes_in_flight(text: str, dtype: str, most: float, most_wavefronts: float, architecture: str):
    # Loads are the part of the traffic that a block waits for, and their part of the bandwidth is all they can use.
    found = trace(ConvProblem.parse(text), "dgrad", dtype, "NCHW", f"profile={architecture} {PART}")
    share = found["load_bytes"] / (found["load_bytes"] + found["store_bytes"])
    per_block = found["load_bytes"] / found["blocks"]
    assert resident_blocks(found, architecture) * per_block >= share * MULTIPROCESSORS[architecture][2]


# Instructions per output of the loop that walks down dy, its least, and the least share of FMA. A step is a row of dy:
# two rows of dx, two columns of it or, at 5x5, four.
@needs_code
@pytest.mark.parametrize("architecture", MULTIPROCESSORS)
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize("dtype", ["__half", "__nv_bfloat16", "float"])
@pytest.mark.parametrize(("filter_", "outputs", "most", "share"), [(3, 4, 9, 0), (5, 8, 11, 0.6), (7, 4, 21, 0.6)])
def test_instructions(filter_: int, outputs: int, most: float, share: float, dtype: str, odd: bool, architecture: str):
    kernel = f"convbound::transposed::dgrad_nchw_stride2_kernel<{dtype}, {filter_}, {str(odd).lower()}>"
    loops = inner_loops(kernel, architecture)
    steps = [loop for loop in loops if loop.fma == filter_ * filter_ * outputs // 4]
    loop = min(steps, key=lambda step: step.instructions)
    assert loop.instructions <= most * outputs
    assert loop.fma >= share * loop.instructions
