"""Which Triton kernel serves what, what none of them serves, and that convbound does without Triton where it can."""

from __future__ import annotations

import ast
import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import triton_rows

import convbound
from convbound import _library
from convbound.kernels import limits, table
from convbound.kernels.tile import PositionTile
from convbound.problem import DTYPES, LAYOUTS, PASSES, ConvProblem, Layout, Pass

DEPTHWISE = ConvProblem.parse("mb2g4ic4ih6iw5oc4kh3ph1")
FOLDER = Path(table.__file__).parent


def test_a_second_copy_of_the_package_is_refused():
    spec = importlib.util.spec_from_file_location("kernels", FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"import convbound\.kernels, not kernels"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_names_are_family_pass_and_layout():
    assert len({row.name for row in table.KERNELS}) == len(table.KERNELS)
    for row in table.KERNELS:
        assert row.name.startswith(f"{row.family}_{row.pass_}_")
        assert row.layout.lower() in row.name.split("_")
        assert row.naive == ("naive" in row.name)
        assert row.tensor_cores == (not row.depthwise or "toeplitz" in row.name)
        if row.naive:
            assert isinstance(row.tile, PositionTile)
            assert row.tile.positions >= limits.LEAST_POSITIONS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
def test_a_row_serves_every_problem(pass_: Pass, layout: Layout, dtype: torch.dtype):
    depthwise = "g4ic4ih6oc12kh5kw3sh2dh3ph9", "g2ic2iw9oc2kw4pw3ew0", "ic1ih4oc3kh3"
    for text in (*depthwise, "g2ic4ih6oc12kh5kw3sh2dh3ph9", "ic256ih9oc512kh3", "ic3iw9oc2kw4pw3ew0"):
        row = table.select(ConvProblem.parse(text), pass_, dtype, layout, 80)
        assert (row.pass_, row.layout) == (pass_, layout)


@pytest.mark.parametrize(
    ("text", "pass_", "reason"),
    [
        ("mb70000ic2ih256oc2kh3ph1", "fprop", "counts the positions .* up to 4659480000"),
        ("g4ic4id5ih5iw5oc4kd3", "dgrad", "for 1 and 2 spatial dimensions, .* has 3"),
        ("g65536ic65536ih256oc65536kh3ph1", "fprop", "needs up to 4362338304 elements"),
        ("mb70000g2ic2ih256oc2kh3ph1", "wgrad", "counts the positions .* 4659480000"),
        ("mb70000g70000ic70000ih1oc70000kh1", "dgrad", "a grid of up to 4900000000 programs"),
        ("g1500000000ic1500000000iw1oc1500000000kw1", "wgrad", "needs up to 3000000000 elements"),
        ("mb61085ic398948iw192oc11kw2sw300pw1ew0", "dgrad", "a grid of more than .* programs for mb61085ic398948"),
    ],
)
def test_what_no_row_serves_is_named(text: str, pass_: Pass, reason: str):
    with pytest.raises(RuntimeError, match=f"{pass_}: backend='triton' .*{reason}"):
        table.select(ConvProblem.parse(text), pass_, torch.float32, "NCHW")


def test_rows_whose_programs_cover_too_little_leave_huge_problems_to_others():
    """Rows of all images that are more than 32 bits count, and a program for each row of a large dilation."""
    tall = ConvProblem.parse("mb100000ic1ih60000iw1oc1kh40kw1ph0")
    assert "toeplitz" not in table.select(tall, "fprop", torch.float16, "NCHW").name
    dilated = ConvProblem.parse("mb77297g5ic5iw1oc5kw3pw69511dw52737")
    serving = {row.name for row in table.KERNELS if row.serves(dilated, "fprop", torch.float32, "NHWC")}
    assert "depthwise_fprop_naive_nhwc" in serving
    assert "depthwise_fprop_large_nhwc" not in serving


def test_huge_problems_are_counted_by_32_bits_or_refused():
    """What a launch is told fits 32 bits, whatever sizes, strides, paddings and dilations are."""
    draw = random.Random(0)

    def upto(bits: int) -> int:
        return int(2 ** draw.uniform(0, bits))

    plans = 0
    for _ in range(200):
        axes = draw.choice((1, 2))
        sizes, filters = (
            [draw.choice(choices()) for _ in range(axes)]
            for choices in (lambda: (1, upto(31)), lambda: (1, 3, upto(12)))
        )
        strides, dilations = ([draw.choice((1, 2, upto(10), upto(62))) for _ in range(axes)] for _ in range(2))
        padding = [(draw.choice((0, upto(31))), draw.choice((0, upto(31)))) for _ in range(axes)]
        c, depthwise = upto(20), draw.random() < 0.6
        k, groups = (c * upto(4), c) if depthwise else (upto(12), 1)
        try:
            problem = ConvProblem(
                upto(31), c, k, tuple(sizes), tuple(filters), tuple(strides), tuple(padding), tuple(dilations), groups
            )
        except ValueError:
            continue  # the output would be empty
        for row in table.KERNELS:
            if row.serves(problem, row.pass_, row.dtypes[0], row.layout):
                plan = row.plan(problem, row.dtypes[0], bias=True)
                plans += len(plan.launches)
                for launch in plan.launches:
                    pointers = [f"{name}_ptr" for name in launch.tensors]
                    assert launch.kernel.arg_names[: len(pointers)] == pointers
                    assert 0 < launch.programs <= limits.LARGEST
                    assert all(-(2**31) <= size < 2**31 for size in launch.sizes.values()), f"{row.name}: {problem}"
    assert plans > 500


def test_tiles_are_by_channels_alignment_and_architecture():
    def name(text: str, arch: int, dtype: torch.dtype = torch.float16, pass_: Pass = "fprop") -> str:
        return table.select(ConvProblem.parse(text), pass_, dtype, "NHWC", arch).name

    assert name("ic256ih9oc256kh3", 90) == "grouped_fprop_128x256_nhwc"
    assert name("ic256ih9oc256kh3", 80) == "grouped_fprop_128x128_nhwc"
    assert name("g4ic256ih9oc256kh3", 90) == "grouped_fprop_128x64_nhwc"
    assert name("g32ic128ih9oc128kh3", 90) == "grouped_fprop_packs_nhwc"
    assert name("g4ic96ih9oc96kh3", 90) == "grouped_fprop_any_nhwc"
    assert name("g4ic256ih9oc256kh3sh2", 90, pass_="dgrad") == "transposed_dgrad_128x64_nhwc"
    assert name("ic256ih9oc256kh3", 90, torch.float32, "wgrad") == "grouped_wgrad_64x64_nhwc"


DEPTHWISE_PROBLEMS = {
    "small": "g4ic4ih9oc4kh3ph1",
    "multiplier": "g4ic4ih9oc16kh5ph2",
    "large": "g4ic4ih40oc4kh13ph6",
    "very large": "g4ic4ih60oc4kh51kw5ph25pw2",
    "wide": "g4ic4ih60oc4kh5kw51ph2pw25",
    "large, dilated": "g4ic4ih40oc4kh9ph8dh2",
    "large, strided": "g4ic4ih40oc4kh9ph4sh2",
    "large, one dimension": "g4ic4iw200oc4kw64pw63ew0",
    "stride of more than four": "g4ic4ih400oc4kh5ph2sh5",
    "stride and dilation": "g4ic4ih100oc4kh5ph4sh2dh2",
}
# What version 0 is for, besides fp64. A strided dgrad is transposed_depthwise's, whose filter is in registers.
NAIVE: dict[Pass, set[str]] = {
    "fprop": {"stride of more than four", "stride and dilation"},
    "dgrad": {"large, strided", "stride of more than four"},
    "wgrad": {"stride of more than four", "stride and dilation"},
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
def test_what_version_0_is_for(pass_: Pass, layout: Layout, dtype: torch.dtype):
    problems = {name: ConvProblem.parse(text) for name, text in DEPTHWISE_PROBLEMS.items()}
    naive = {name for name, problem in problems.items() if table.select(problem, pass_, dtype, layout).naive}
    assert naive == NAIVE[pass_]


@pytest.mark.parametrize(
    ("text", "pass_", "half", "single"),
    [
        ("g4ic4ih28oc4kh3ph1", "fprop", "depthwise_fprop_planes_nchw", "depthwise_fprop_planes_fp32_nchw"),
        ("g4ic4ih14oc8kh3ph1", "dgrad", "depthwise_dgrad_planes_nchw", "depthwise_dgrad_planes_fp32_nchw"),
        ("g4ic4ih14oc4kh3sh2ph1", "dgrad", "transposed_dgrad_planes_nchw", "transposed_dgrad_planes_fp32_nchw"),
        # Rows of 48 bytes, and of 96: whole sectors.
        ("g4ic4ih24oc4kh3ph1", "fprop", "depthwise_fprop_planes_nchw", "depthwise_fprop_rows49_nchw"),
        ("g4ic4ih16oc4kh3ph1", "fprop", "depthwise_fprop_rows49_nchw", "depthwise_fprop_rows49_nchw"),
        # Too large: y, x, the filter, and what an unrolled kernel would be.
        ("g4ic4ih33oc4kh3ph1", "fprop", "depthwise_fprop_rows49_nchw", "depthwise_fprop_rows49_nchw"),
        ("g4ic4ih56oc4kh3sh2ph1", "fprop", "depthwise_fprop_rows49_nchw", "depthwise_fprop_rows49_nchw"),
        ("g4ic4ih14oc8kh7ph3", "dgrad", "depthwise_dgrad_toeplitz_nchw", "depthwise_dgrad_large_nchw"),
        ("g4ic4ih30oc4kh5kw6ph2", "fprop", "depthwise_fprop_rows49_nchw", "depthwise_fprop_rows49_nchw"),
        # Three phases are not put in turn; one dimension has no small planes.
        ("g4ic4ih14oc4kh3sh3ph1", "dgrad", "transposed_dgrad_blocks49_nchw", "transposed_dgrad_blocks49_nchw"),
        ("g4ic4iw14oc4kw3pw1", "fprop", "depthwise_fprop_line_nchw", "depthwise_fprop_line_nchw"),
    ],
)
def test_whole_planes_where_their_rows_are_no_whole_sectors(text: str, pass_: Pass, half: str, single: str):
    for dtype, name in (torch.float16, half), (torch.bfloat16, half), (torch.float32, single):
        assert table.select(ConvProblem.parse(text), pass_, dtype, "NCHW", 90).name == name


def test_other_dtypes_and_older_architectures_are_refused():
    with pytest.raises(RuntimeError, match=r"not for torch\.int32"):
        table.select(DEPTHWISE, "fprop", torch.int32, "NCHW")
    with pytest.raises(RuntimeError, match="has no kernel for sm_75"):
        table.select(DEPTHWISE, "fprop", torch.float32, "NCHW", 75)


def test_the_forward_call_refuses_what_a_pass_that_it_needs_cannot_do(monkeypatch: pytest.MonkeyPatch):
    """Here a wgrad that no kernel serves: a call that asks for no gradient has no need of it."""

    def no_wgrad(problem: ConvProblem, pass_: Pass, dtype: torch.dtype) -> str | None:
        return "has no wgrad" if pass_ == "wgrad" else None

    monkeypatch.setattr(limits, "unsupported", no_wgrad)
    for name in ("conv2d", "conv_transpose2d"):
        conv = getattr(convbound, name)
        x, w = torch.ones(1, 4, 7, 9, device=triton_rows.DEVICE), torch.ones(4, 1, 3, 3, device=triton_rows.DEVICE)
        assert conv(x, w, groups=4, backend="triton").shape[1] == 4
        with pytest.raises(RuntimeError, match=f"{name}: backend='triton' has no wgrad"):
            conv(x, w.requires_grad_(), groups=4, backend="triton")
        with torch.no_grad():
            assert conv(x, w, groups=4, backend="triton").shape[1] == 4


def test_explain_names_row_tile_and_launches():
    told = convbound.explain(DEPTHWISE, layout="NHWC", device=triton_rows.DEVICE, backend="triton")
    for explained in told.passes:
        row = table.select(DEPTHWISE, explained.pass_, torch.float32, "NHWC")
        assert explained.kernel == row.name
        assert str(row.tile) in explained.tile
        launches = row.plan(DEPTHWISE, torch.float32, bias=False).launches
        for told_launch, launch in zip(explained.launches, launches, strict=True):
            assert told_launch.function == launch.kernel.__name__
            assert (told_launch.grid, told_launch.block) == ((launch.programs, 1, 1), (32 * launch.warps, 1, 1))
            assert str(told_launch) in str(told)
    told = convbound.explain("ic4id6ih6iw6oc4kd3kh3kw3", device=triton_rows.DEVICE, backend="triton")
    assert all("1 and 2 spatial dimensions" in explained.reason for explained in told.passes)


def without(code: str, **variables: str) -> str:
    """What a new Python process prints, with these environment variables; an empty one is unset."""
    environment = {"PATH": "", "HOME": "/nonexistent", **variables}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_convbound_does_not_import_triton():
    call = "import sys, torch, convbound; x = torch.ones(1, 2, 4, 4); convbound.conv2d(x, x, backend='torch')"
    assert without(f"{call}; print('triton' in sys.modules)", TRITON_INTERPRET="1") == "False\n"


def test_convbound_works_where_triton_is_not_installed():
    printed = without(
        """
import sys
sys.modules["triton"] = None
import torch, convbound
x, w = torch.ones(1, 2, 4, 4), torch.ones(2, 1, 3, 3)
print(convbound.conv2d(x, w, groups=2).sum().item())
try:
    convbound.conv2d(x, w, groups=2, backend="triton")
except RuntimeError as error:
    print(error)
""",
        TRITON_INTERPRET="1",
    )
    assert printed == "72.0\nconv2d: backend='triton' is not available: triton is not installed; pip install triton\n"


@pytest.mark.skipif(torch.version.cuda is not None, reason="about a CPU build of torch")
def test_a_cpu_torch_is_told_of_the_interpreter():
    code = "import convbound; print(next(b.absent for b in convbound.backends() if b.name == 'triton'))"
    assert "TRITON_INTERPRET=1" in without(code)


def test_masked_loads_name_other():
    """A GPU leaves undefined what the interpreter takes for 0."""
    loads = [
        (path.name, node)
        for path in sorted(FOLDER.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.load"
    ]
    assert len(loads) >= 15
    for name, load in loads:
        keywords = {keyword.arg for keyword in load.keywords}
        assert ("mask" in keywords) == ("other" in keywords), f"{name}:{load.lineno}"


def test_ops_have_the_schemas_of_the_native_ones():
    if why := _library.LOADED["cpu"]:
        pytest.skip(why)
    for pass_ in PASSES:
        cpu, triton = (getattr(torch.ops.convbound, f"{name}_{pass_}").default._schema for name in ("cpu", "triton"))
        assert str(triton) == str(cpu).replace("cpu_", "triton_")
