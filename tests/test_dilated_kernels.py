"""The dilated kernels: what they move, counted in the emulator at DeepLab's and WaveNet's rates, and what their machine
code says about instructions and bytes in flight.
"""

from __future__ import annotations

import pytest
from support import device
from support.cubins import MULTIPROCESSORS
from support.traced import inner_loops, needs_code, resident_blocks, trace, wide_share

from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

# Pass, dtype, layout, problem, and the most wavefronts of shared memory over the fewest. At rates from 6 on lanes whose
# tap lies in the padding read one zero, which now and then shares its bank with another lane's value.
LAYERS = (
    ("fprop", "fp16", "NCHW", "mb8g528ic528ih33oc528kh3ph6dh6 deeplab:rate 6", 1.15),
    ("fprop", "fp16", "NCHW", "mb8g528ic528ih33oc528kh3ph12dh12 deeplab:rate 12", 1.15),
    ("dgrad", "bf16", "NCHW", "mb8g528ic528ih33oc528kh3ph18dh18 deeplab:rate 18", 1.2),
    ("fprop", "fp16", "NCHW", "mb8g528ic528ih33oc528kh3ph36dh36 deeplab:rate 36", 1.2),
    ("fprop", "fp16", "NCHW", "g264ic264ih65oc264kh3ph12dh12 deeplab:rate 12 at 65", 1.3),
    ("dgrad", "fp16", "NCHW", "g264ic264ih65oc264kh3ph24dh24 deeplab:rate 24 at 65", 1.3),
    ("fprop", "fp32", "NCHW", "g264ic264ih65oc264kh3ph36dh36 deeplab:rate 36 at 65", 1.3),
    ("fprop", "fp16", "NCHW", "g16ic16ih128oc16kh3ph2dh2 rate 2 at 128", 1.1),
    ("fprop", "fp32", "NCHW", "g16ic16ih128oc16kh3ph2dh2 rate 2 at 128", 1.1),
    ("fprop", "fp16", "NCHW", "g64ic64iw16000oc64kw2pw512ew0dw512 wavenet:rate 512", 1.1),
    ("fprop", "fp16", "NCHW", "g256ic256iw4000oc256kw2pw8ew0dw8 wavenet:rate 8", 1.1),
    ("dgrad", "fp32", "NCHW", "g64ic64iw16000oc64kw2pw64ew0dw64 wavenet:rate 64", 1.1),
    ("fprop", "fp16", "NHWC", "mb2g512ic512ih33oc512kh3ph12dh12 deeplab:rate 12", 4),
    ("dgrad", "fp16", "NHWC", "mb1g256ic256ih65oc256kh3ph24dh24 deeplab:rate 24 at 65", 4),
)


# Of the grids a first part, which is like the rest in NCHW; in NHWC classes of rows differ.
PARTS = {"NCHW": "blocks=0:32", "NHWC": ""}


@pytest.mark.parametrize(("pass_", "dtype", "layout", "text", "most_wavefronts"), LAYERS)
def test_traffic(pass_: str, dtype: str, layout: str, text: str, most_wavefronts: float):
    found = trace(ConvProblem.parse(text), pass_, dtype, layout, f"profile=sm_90 {PARTS[layout]}")
    assert found["family"] == "dilated"
    moved = (found["load_bytes"] + found["store_bytes"]) / found["blocks"]
    assert moved <= 1.1 * found["compulsory_bytes"] / found["grid"][0]
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= most_wavefronts
    assert wide_share(found) >= 0.95


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_planes_cross_the_memory_bus_once(layout: str):
    found = trace(ConvProblem.parse("mb2g256ic256ih33oc256kh3ph12dh12"), "fprop", "fp16", layout)
    assert found["traffic_ratio"] <= 1.1
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]


@needs_code
@pytest.mark.parametrize("architecture", MULTIPROCESSORS)
@pytest.mark.parametrize(("pass_", "dtype", "layout", "text", "most_wavefronts"), LAYERS)
def test_bytes_in_flight(pass_: str, dtype: str, layout: str, text: str, most_wavefronts: float, architecture: str):
    found = trace(ConvProblem.parse(text), pass_, dtype, layout, f"profile={architecture} {PARTS[layout]}")
    # NCHW: all that a block loads. NHWC: two of the 18 loads of 16 bytes that a thread has before it waits for any.
    per_block = found["load_bytes"] / found["blocks"] if layout == "NCHW" else found["block"][0] * 4 * 16
    assert resident_blocks(found, architecture) * per_block >= MULTIPROCESSORS[architecture][2]


# A turn of the loop at 3x3: three rows of two columns, 54 FMA, while every tap meets the plane.
@needs_code
@pytest.mark.parametrize("architecture", MULTIPROCESSORS)
@pytest.mark.parametrize("dtype", ["__half", "__nv_bfloat16", "float"])
def test_instructions(dtype: str, architecture: str):
    loops = inner_loops(f"convbound::dilated::nchw_kernel<{dtype}, 3>", architecture)
    (loop,) = (loop for loop in loops if loop.fma == 54)
    assert loop.instructions <= 32 * 6
