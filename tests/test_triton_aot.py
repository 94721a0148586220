"""The Triton kernels, compiled for GPUs that are not there: no spills, and vectors wherever channels lie side by side.

A small part of what ``python -m convbound.kernels.aot`` compiles, in one process per architecture, without
TRITON_INTERPRET; and proof that what the rows should not have would be seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import triton_rows  # noqa: F401  (skips where there is no Triton)

from convbound.kernels import aot, machine_code, table

ARCHITECTURES = [80, 90, 100]
ALIGNED = "mb16g32ic32ih64oc32kh3ph1"  # channels and planes divisible by 16
REGISTERS = 65536  # of an SM


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="module", params=ARCHITECTURES, ids="sm_{}".format)
def compiled(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    without = ["none"] if request.param == 90 else []
    architecture = ["--arch", f"sm_{request.param}", "--dtype", "fp16", "--problem", ALIGNED]
    return aot.report(*architecture, "--specialised", *without, "div16+eq1")


def test_resources_and_widths(compiled: list[dict[str, Any]]):
    assert {record["row"] for record in compiled} == {row.name for row in table.KERNELS}
    for record in compiled:
        name, code = f"{record['kernel']} of {record['row']}, {record['specialised']}", record["code"]
        assert code["spill_loads"] == code["spill_stores"] == code["local"] == code["stack"] == 0, name
        assert 4 * 32 * record["warps"] * (code["registers"] + 7) // 8 * 8 <= REGISTERS, f"{name}: 4 do not fit an SM"
        assert record["shared"] <= 1024, name
        assert code["tensor_core"] == code["ptx_tensor_core"] == {}, name
        if record["specialised"] == "none":
            assert set(code["loads"]) | set(code["stores"]) <= {"2", "4"}, f"{name}: vectors of unknown alignment"
            assert not any(form.startswith("v") for form in (*code["ptx_loads"], *code["ptx_stores"])), name
        elif record["row"].endswith("_nhwc") or record["kernel"] == "depthwise_wgrad_sum":
            assert "16" in code["loads"], name
            assert any(form.startswith("v4") for form in code["ptx_loads"]), name
        if record["specialised"] != "none" and record["row"].endswith("_nhwc") and "wgrad" not in record["row"]:
            assert set(code["stores"]) == {"16"}, name


@pytest.mark.parametrize(
    ("architecture", "ptx", "sass"),
    [(80, "mma.sync", "HMMA"), (90, "wgmma.mma_async", "HGMMA"), (100, "tcgen05.mma", "UTCHMMA")],
    ids=["sm_80", "sm_90", "sm_100"],
)
def test_tensor_cores_and_asynchronous_copies_are_seen(architecture: int, ptx: str, sass: str):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).parent / "support" / "triton_dot.py"
    command = [sys.executable, str(script), str(architecture)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    code = json.loads(result.stdout)
    assert list(code["ptx_tensor_core"]) == [ptx]
    assert list(code["tensor_core"]) == [sass]
    assert code["ptx_loads"].keys() == {"cp.async 16"}
    assert code["loads"].keys() == {"16"}


USAGE = " Function k:\n  REG:40 STACK:24 SHARED:0 LOCAL:8 TEXTURE:0"
SASS = """
        /*0000*/                   LDC R1, c[0x0][0x37c] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E.U16.CONSTANT R4, desc[UR4][R2.64] ;
        /*0030*/                   LDGSTS.E.BYPASS.64 [R3], desc[UR4][R2.64] ;
        /*0040*/               @P1 STL [R1+0x4], R6 ;
        /*0050*/                   LDL.LU R6, [R1+0x4] ;
        /*0060*/                   STG.E desc[UR4][R2.64], R6 ;
        /*0070*/                   NOP ;
"""
PTX = """
	@%p1 ld.global.L1::evict_last.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	ld.global.b16 { %rs1 }, [ %rd1 + 0 ];
	st.global.b32 [ %rd2 + 0 ], { %r1 };
"""


def test_reading_machine_code():
    assert machine_code.parse(USAGE, SASS, PTX) == machine_code.MachineCode(
        registers=40,
        stack=24,
        local=8,
        spill_loads=1,
        spill_stores=1,
        instructions=7,
        loads={"16": 1, "2": 1, "8": 1},
        stores={"4": 1},
        tensor_core={},
        ptx_loads={"b16": 1, "v4.b32": 1},
        ptx_stores={"b32": 1},
        ptx_tensor_core={},
    )
    with pytest.raises(ValueError, match="no kernel in the output"):
        machine_code.parse("", "", "")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "convbound.kernels.aot", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_command_prints_a_table():
    result = run("--kernel", "fprop_naive_nchw", "--arch", "80", "--specialised", "none", "--problem", ALIGNED)
    assert result.returncode == 0, result.stderr
    heading, line = result.stdout.splitlines()
    assert heading.split()[:4] == ["row", "kernel", "arch", "dtype"]
    assert line.split()[:5] == ["depthwise_fprop_naive_nchw", "depthwise_fprop", "80", "fp16", ALIGNED]
    assert "1 kernels to compile" in result.stderr


def test_a_kernel_that_no_row_has():
    result = run("--kernel", "grouped")
    assert result.returncode == 2
    assert "no row serves that; the rows are depthwise_fprop_naive_nchw" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "hopper"], "'hopper' is no architecture; write 90 or sm_90"),
        (["--problem", "ic3"], "problem 'ic3' has no oc"),
        ([], "unset TRITON_INTERPRET"),
    ],
)
def test_wrong_calls(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="2"):
        aot.main(arguments)
    assert message in capsys.readouterr().err
