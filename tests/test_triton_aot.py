"""The Triton kernels, compiled for GPUs that are not there: no spills, and vectors wherever channels lie side by side.

A small part of what ``python -m convbound.kernels.aot`` compiles, in one process per architecture, without
TRITON_INTERPRET; and proof that what the rows should not have would be seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from support import triton_rows  # noqa: F401  (skips where there is no Triton)

from convbound.kernels import aot, machine_code, table
from convbound.problem import ConvProblem

ARCHITECTURES = [80, 90, 100]
ALIGNED = "mb16g32ic32ih64oc32kh3ph1"  # channels and planes divisible by 16
PRODUCT, STRIDED = "mb16ic256ih32oc256kh3ph1", "mb16ic256ih32oc256kh3sh2ph1"
PRODUCTS = ["grouped_fprop_128x128", "grouped_fprop_packs_nhwc", "grouped_dgrad_128x64_nchw", "grouped_wgrad_128x128"]
REGISTERS = 65536  # of an SM
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # of one program
LINE, LARGE = "mb16g64ic64iw256oc64kw4pw3ew0", "mb16g32ic32ih64oc32kh7ph3"
# For each architecture a part of the depthwise rows, those that are selected for these, for a kernel takes a second or
# two to compile.
BEYOND, BEYOND_STRIDED = "mb16g32ic32ih32oc32kh13kw9ph6pw4", "mb16g32ic32ih32oc32kh13sh2ph6"  # registers
TRANSPOSED = "mb16g32ic32ih64oc32kh4sh2ph1"
DEPTHWISE = {
    80: ["--problem", ALIGNED, LARGE, BEYOND, "--kernel", "dgrad"],
    90: ["--problem", ALIGNED, LARGE, LINE, BEYOND_STRIDED, "--kernel", "fprop", "wgrad"],
    100: ["--problem", TRANSPOSED, "--kernel", "dgrad", "--specialised", "div16", "none"],
}
# Rows of whole small planes.
PLANES = {
    80: ["depthwise_dgrad_planes_nchw", "mb16g32ic32ih14oc32kh5ph2"],
    90: ["depthwise_fprop_planes_nchw", "mb16g32ic32ih28oc32kh3ph1"],
    100: ["transposed_dgrad_planes_nchw", "mb16g32ic32ih14oc32kh3sh2ph1"],
}
STRIDED_PLANES = "mb16g32ic32ih27oc32kh3sh2ph2dh2"
# A launch compiles a kernel of its own where a size is 1, which then is a constant to Triton, without a type. Here each
# size is 1 at least once, alone and with others; every row serves some of these problems.
LONG_LINE = "mb2g3ic3iw300oc3kw64pw63ew0"
ONES = f"""
ic1ih1oc1kh1 everything
ic1iw20oc1kw3pw1 one image and channel, in one dimension
{LONG_LINE} a long filter in one dimension
g4ic4ih9iw1oc4kh3ph1 one column
g2ic2ih3iw4oc4kh3kw4 one output and a multiplier
g2ic2ih9iw8oc2kh2kw3sh1sw3ph1pw2dh3dw1 a stride in W, a dilation in H
ic1ih1iw8oc1kh7ph3 one row, on tensor cores
g2ic2iw9oc4kw3pw1sw2 one image, a multiplier and a stride in one dimension
ic1ih5oc1kh1sh2 one tap of a strided filter
ic2ih1oc1kh1 a dense layer with one output
mb2g2ic4ih1iw9oc2kh3ph1 one filter in a group, one row
g3ic3ih5iw1oc6kh2sh2dh2ph1 one channel in a group, one column
g2ic80ih3oc80kh3 one output of groups of 40 channels
mb2ic256ih1oc256kh1 a dense layer, aligned
ic256iw9oc256kw3pw1sw1 a dense layer in one dimension, aligned
g2ic64iw9oc128kw3pw1sw2 groups, aligned
"""
# In PTX and in SASS.
TENSOR_CORE = {80: ("mma.sync", "HMMA"), 90: ("wgmma.mma_async", "HGMMA"), 100: ("tcgen05.mma", "UTCHMMA")}


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="module", params=ARCHITECTURES, ids="sm_{}".format)
def compiled(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    architecture = ["--arch", f"sm_{request.param}", "--dtype", "fp16"]
    depthwise = ["--selected", "--specialised", "div16", *DEPTHWISE[request.param]]
    planes, small = PLANES[request.param]
    others = ["--problem", PRODUCT, small, "--kernel", *PRODUCTS, planes, "--specialised", "div16+eq1"]
    return aot.report(*architecture, *depthwise) + aot.report(*architecture, *others)


@pytest.fixture(scope="module")
def unspecialised() -> list[dict[str, Any]]:
    """Channels and planes that are not divisible by 16, each loaded by an address of its own."""
    products = ["grouped_fprop_any_nhwc", "transposed_dgrad_any_nchw", "grouped_wgrad_64x64_nhwc"]
    depthwise = ["fprop_naive_nhwc", "fprop_rows49_nhwc", "fprop_toeplitz", "fprop_planes_nchw", "wgrad_rows49"]
    rows = [*products, *(f"depthwise_{row}" for row in depthwise)]
    beyond = ["--problem", BEYOND, "--dtype", "fp32", "--kernel", "fprop_large", "wgrad_large"]
    return [
        *aot.report(
            "--arch", "90", "--problem", STRIDED, LARGE, STRIDED_PLANES, "--kernel", *rows, "--specialised", "none"
        ),
        *aot.report("--arch", "90", *beyond, "--specialised", "none"),
    ]


def is_product(record: dict[str, Any]) -> bool:
    return str(record["kernel"]).startswith(("grouped", "depthwise_toeplitz"))


def test_resources_and_widths(compiled: list[dict[str, Any]]):
    rows = {record["row"] for record in compiled}
    assert all(any(text in row for row in rows) for text in [*PRODUCTS, PLANES[compiled[0]["arch"]][0]])
    if compiled[0]["arch"] == 90:
        designed = [row for row in table.KERNELS if row.depthwise and not row.naive and row.pass_ != "dgrad"]
        left_out = {"depthwise_fprop_rows25_nhwc", "depthwise_fprop_planes_fp32_nchw"}
        assert {row.name for row in designed} - rows == left_out
    for record in compiled:
        if is_product(record):
            continue
        name, code = f"{record['kernel']} of {record['row']}, {record['specialised']}", record["code"]
        assert code["spill_loads"] == code["spill_stores"] == code["local"] == code["stack"] == 0, name
        assert 512 * ((code["registers"] + 7) // 8 * 8) <= REGISTERS, f"{name}: 16 warps do not fit an SM"
        assert code["registers"] >= record["least_registers"], f"{name}: L1 is shared by more programs than assumed"
        assert record["shared"] <= (16384 if "planes" in name else 4096), name
        assert code["tensor_core"] == code["ptx_tensor_core"] == {}, name
        if "planes" in name:
            assert set(code["stores"]) == {"16"}, name
        if record["kernel"] == "partial_sums":
            assert "16" in code["loads"], name
            assert any(form.startswith("v4") for form in code["ptx_loads"]), name
        elif record["row"].endswith(("rows9_nhwc", "rows25_nhwc", "line_nhwc")):
            assert {"4", "8", "16"} & set(code["loads"]), f"{name}: single elements"
        if "_line_" in record["row"] and "wgrad" not in record["row"]:
            assert set(code["stores"]) == {"8" if record["row"].endswith("nchw") else "16"}, name


def test_products_are_on_tensor_cores(compiled: list[dict[str, Any]]):
    for record in filter(is_product, compiled):
        name, code = f"{record['kernel']} of {record['row']}, sm_{record['arch']}", record["code"]
        assert code["spill_loads"] == code["spill_stores"] == code["local"] == code["stack"] == 0, name
        assert 32 * record["warps"] * code["registers"] <= REGISTERS, name
        assert record["shared"] <= SHARED[record["arch"]], name
        ptx, sass = TENSOR_CORE[record["arch"]]
        assert set(code["ptx_tensor_core"]) == {ptx}, name
        assert set(code["tensor_core"]) == {sass}, name
        if record["row"].endswith("_nhwc"):
            assert "2" not in code["loads"], f"{name}: single elements"
            assert max(code["loads"], key=code["loads"].get) == "16", name
        if "toeplitz" in record["row"]:
            assert set(code["loads"]) == {"2", "16"}, f"{name}: the band by elements, x by 16 bytes"
            assert "cp.async 16" not in code["ptx_loads"], f"{name}: from L2 for each row of the filter"
        if record["row"].endswith(("fprop_128x128_nhwc", "wgrad_128x128_nhwc")):
            assert "cp.async 16" in code["ptx_loads"], f"{name}: no asynchronous copies"
        if "wgrad" not in record["row"]:
            assert set(code["stores"]) == {"16"}, name


def test_unaligned_channels_do_not_spill(unspecialised: list[dict[str, Any]]):
    assert len({record["row"] for record in unspecialised}) == 13
    for record in unspecialised:
        name, code = f"{record['kernel']} of {record['row']}", record["code"]
        assert code["spill_loads"] == code["spill_stores"] == code["local"] == code["stack"] == 0, name
        assert not any(form.startswith("v") for form in code["ptx_loads"]), f"{name}: vectors of unknown alignment"
        assert bool(code["tensor_core"]) == is_product(record), name


def test_every_row_is_compiled_where_sizes_are_one():
    problems = [ConvProblem.parse(line) for line in ONES.strip().splitlines()]
    for row in table.KERNELS:
        assert any(row.serves(p, row.pass_, row.dtypes[0], row.layout) for p in problems), row.name
    wide = ["--parse", "--arch", "90", "--specialised", "div16+eq1", "--problem", *map(str, problems)]
    for chosen in (["fp16"], ["fp32", "--kernel", "fp32"], ["fp64", "--kernel", "fp64"]):
        result = run(*wide, "--dtype", *chosen)
        assert result.returncode == 0, result.stderr
        assert "kernels parsed" in result.stdout
    assert aot.report("--arch", "80", "--specialised", "eq1", "--problem", LONG_LINE, "--kernel", "fprop_large_nchw")


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


@pytest.mark.parametrize(
    ("arguments", "interpret", "message"),
    [
        (["--arch", "hopper"], "0", "'hopper' is no architecture; write 90 or sm_90"),
        (["--problem", "ic3"], "0", "problem 'ic3' has no oc"),
        (["--kernel", "naive_grouped"], "0", "no row serves that; the rows are grouped_fprop_128x256_nhwc"),
        ([], "1", "unset TRITON_INTERPRET"),
    ],
)
def test_wrong_calls(
    arguments: list[str],
    interpret: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    with pytest.raises(SystemExit, match="2"):
        aot.main(arguments)
    assert message in capsys.readouterr().err
