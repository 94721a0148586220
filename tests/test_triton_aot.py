"""The Triton kernels, compiled for GPUs that are not there: no spills, and vectors wherever channels lie side by side.

A small subset of ``python -m convbound.kernels.aot``, one process per architecture, without TRITON_INTERPRET.
"""

from __future__ import annotations

from typing import Any

import pytest

from convbound.kernels import table

ALIGNED = "mb16g32ic32ih64oc32kh3ph1"  # channels and planes divisible by 16


@pytest.fixture(scope="module", params=[80, 90, 100], ids="sm_{}".format)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        from convbound.kernels import aot

        arguments = ["--arch", str(request.param), "--dtype", "fp16", "--problem", ALIGNED]
        without = ["none"] if request.param == 90 else []
        return aot.report(*arguments, "--specialised", *without, "div16+eq1")


def test_resources_and_widths(compiled: list[dict[str, Any]]):
    assert {record["row"] for record in compiled} == {row.name for row in table.KERNELS}
    for record in compiled:
        name, code = f"{record['kernel']} of {record['row']}, {record['specialised']}", record["code"]
        threads = 32 * record["warps"]
        assert code["spill_loads"] == code["spill_stores"] == code["local"] == code["stack"] == 0, name
        assert -(-code["registers"] // 8) * 8 * threads <= 65536 // 4, f"{name}: fewer than 4 programs fit on an SM"
        assert record["shared"] <= 1024, name
        assert code["tensor_core"] == {}, name
        widths = set(code["loads"]) | set(code["stores"])
        if record["specialised"] == "none":
            assert widths <= {"2", "4"}, f"{name}: vectors, though nothing is known about alignment"
        elif record["row"].endswith("_nhwc") or record["kernel"] == "depthwise_wgrad_sum":
            assert "16" in code["loads"], name
            assert any(form.startswith("v4") for form in code["ptx_loads"]), name
        if record["specialised"] != "none" and record["row"].endswith("_nhwc") and "wgrad" not in record["row"]:
            assert set(code["stores"]) == {"16"}, name
