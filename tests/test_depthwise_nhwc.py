"""What the depthwise NHWC and NCL kernels move, counted by the emulator on the layers of real models.

The bounds: SM-L2 bytes over compulsory, DRAM bytes, coalescing, wavefronts of shared memory, the share of 16-byte
accesses; and the bytes that resident blocks keep in flight, with the registers that nvcc gave them. Batches are those
that give each of 132 multiprocessors two blocks.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from support import cubins, device
from support.data import integers

from convbound import _library
from convbound.problem import ConvProblem

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

LIBRARY = _library.PACKAGE / "libconvbound_cuda.so"
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


def serving(problem: ConvProblem, layout: str, pass_: str, dtype: str) -> dict[str, Any]:
    """The row that the dispatcher takes on an H100."""
    like = next(
        row
        for row in device.rows()
        if (row["layout"].name, row["pass"].name, row["dtype"].name) == (layout, pass_, dtype)
    )
    row = device.select(problem, like, "sm_90")
    assert row is not None
    return next(known for known in device.rows() if known["index"] == row["index"])


def trace(row: dict[str, Any], problem: ConvProblem) -> dict[str, Any]:
    operands = integers(problem, row["pass"].name, device.dtype_of(row)).without_bias()
    (found,) = device.run_row(row, operands, problem, "trace profile=sm_90", aligned=True)[1]
    return cast(dict[str, Any], found)


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
    row = serving(problem, layout, pass_, dtype)
    assert row["family"] == "depthwise"
    found = trace(row, problem)
    assert found["grid"][0] >= 2 * 132
    assert found["traffic_ratio"] <= most
    assert found["dram_bytes"] <= 1.02 * found["compulsory_bytes"]
    assert found["coalescing"] <= 1.1
    assert found["bank_conflicts"] <= 1.1
    by_width = torch.tensor(found["loaded_bytes_by_width"]) + torch.tensor(found["stored_bytes_by_width"])
    assert by_width[4] >= 0.95 * by_width.sum()


@pytest.mark.parametrize(("problem", "layout", "most", "pass_", "dtype"), cases("fp16", "fp32")[::7])
@pytest.mark.skipif(_library.LOADED["cuda"] is not None, reason=f"no CUDA kernels: {_library.LOADED['cuda']}")
@pytest.mark.skipif(cubins.cuobjdump() is None, reason="neither a CUDA toolkit nor triton is here")
def test_bytes_in_flight(problem: ConvProblem, layout: str, most: float, pass_: str, dtype: str):
    found = trace(serving(problem, layout, pass_, dtype), problem)
    for architecture, (_, _, least) in cubins.MULTIPROCESSORS.items():
        kernel = cubins.read_kernels(LIBRARY)[found["kernel"], architecture]
        resident = cubins.resident_blocks(kernel, found["block"][0], found["shared_bytes"])
        assert resident * found["load_bytes"] / found["grid"][0] >= least
