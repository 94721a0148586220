"""Traffic of the depthwise kernels on NCHW planes, traced on layers of MobileNetV2, EfficientNet-B0 and ConvNeXt-T.

Channels and batch are cut down: blocks do not share what they load, so the ratios are those of the whole layers.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import cubins, device
from support.data import Operands

from convbound import _library
from convbound.problem import ConvProblem, Pass

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

LIBRARY = _library.PACKAGE / "libconvbound_cuda.so"
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


def trace(pass_: Pass, dtype: str, problem: ConvProblem, profile: str) -> dict[str, Any]:
    """What the first row that serves does with aligned tensors."""
    row = next(
        row
        for row in device.rows()
        if (row["pass"].name, row["dtype"].name, row["layout"].name) == (pass_, dtype, "NCHW")
        and device.serves(row, problem, profile)
    )
    assert "_nchw_" in row["name"]
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    operands = Operands(*(torch.zeros(shape, dtype=device.dtype_of(row)) for shape in shapes), None)
    (found,) = device.run_row(row, operands, problem, f"trace profile={profile}", aligned=True)[1]
    return found


@pytest.mark.parametrize(("pass_", "dtype", "text", "most"), LAYERS)
def test_traffic(pass_: Pass, dtype: str, text: str, most: float):
    found = trace(pass_, dtype, ConvProblem.parse(text), "sm_90")
    assert found["traffic_ratio"] <= most
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= 1.1


@pytest.mark.skipif(_library.LOADED["cuda"] is not None, reason=f"no CUDA kernels: {_library.LOADED['cuda']}")
@pytest.mark.skipif(cubins.cuobjdump() is None, reason="neither a CUDA toolkit nor triton is here")
@pytest.mark.parametrize(("pass_", "dtype", "text", "most"), LAYERS)
def test_resident_work(pass_: Pass, dtype: str, text: str, most: float):
    found = trace(pass_, dtype, ConvProblem.parse(text), "sm_90")
    for architecture, (_, _, least) in cubins.MULTIPROCESSORS.items():
        kernel = cubins.read_kernels(LIBRARY)[found["kernel"], architecture]
        resident = cubins.resident_blocks(kernel, found["block"][0], found["shared_bytes"])
        warps = resident * found["block"][0] // 32
        # 7x7 is bound by arithmetic, which wants warps instead.
        assert resident * found["load_bytes"] / found["grid"][0] >= least or ("kh7" in text and warps >= 16)
