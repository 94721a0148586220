"""The depthwise Triton kernels are exactly right on integers: the fp64 result rounded once to the dtype.

Every depthwise row of the table, interpreted on a CPU (support/triton_rows.py says how to run the same on a GPU);
operands lie amid NaN at odd offsets, and so do the outputs, full of NaN. The interpreter takes milliseconds for every
step of every program, so the problems are as small as the tiles allow, and a launch has at most 20 programs.
"""

from __future__ import annotations

import pytest
import torch
from support import triton_rows
from support.check import assert_exact, expected
from support.data import Operands, Sign, integers

from convbound.kernels import depthwise_rows_wgrad, strips, table
from convbound.kernels.strips import StripTile
from convbound.kernels.table import Kernel
from convbound.problem import DTYPE_NAMES, DTYPES, PASSES, ConvProblem, Layout, Pass

MOST_PROGRAMS = 20

PROBLEMS = tuple(
    map(
        ConvProblem.parse,
        """
        mb2g3ic3ih7iw9oc3kh3kw2ph1pw0 H and W, R and S differ
        g2ic2ih9iw8oc6kh3sh2sw3ph1pw2 multiplier and strides
        g2ic2ih8iw11oc2kh2kw3ph1pw3dh3dw2 dilation
        g2ic2ih7iw6oc4kh3kw4sh2sw1ph0pw3dh2dw1 multiplier, stride and dilation
        g2ic2ih3iw2oc2kh3ph5 padding wider than the input
        g2ic2ih6iw7oc2kh3sh2eh1ew1 padded at the end only
        g2ic2ih8iw7oc2kh2ph0pw1eh-1ew-1dh2 cropped at the end
        g2ic2ih9iw8oc2kh3ph1dh4 less rows than dilation
        g2ic2ih5iw6oc2kh1kw2sh2sw3 positions that no tap reaches
        g2ic2ih3iw4oc2kh3kw4 a filter as large as the input
        ic1ih1oc1kh1 one pixel of one channel
        mb2g3ic3iw21oc6kw4pw3ew0 causal, one dimension
        g2ic2ih5iw6oc2kh5kw1sh536870912sw2ph0dh1dw536870912 a stride and a dilation that move nothing
        """.strip().splitlines(),
    )
)
# For each pass a sum that counts beyond 4096, where an accumulator of 16 bits would show.
LONG_SUMS: dict[Pass, ConvProblem] = {
    "fprop": ConvProblem.parse("ic1ih9iw10oc1kh8kw9"),
    "dgrad": ConvProblem.parse("ic1ih9iw10oc1kh8kw9ph7pw8"),
    "wgrad": ConvProblem.parse("ic1ih40iw50oc1kh1kw2"),
}
ROWS = [row for row in table.KERNELS if row.depthwise]
NAIVE_ROWS = [row for row in ROWS if row.naive]
FAST_ROWS = [row for row in ROWS if not row.naive]
WGRAD_ROWS = [row for row in NAIVE_ROWS if row.pass_ == "wgrad"]


def by_name(row: Kernel) -> str:
    return row.name


def designed_rows(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout) -> list[Kernel]:
    """The first row of each designed kernel that serves."""
    serving = [row for row in FAST_ROWS if row.serves(problem, pass_, dtype, layout)]
    return list({row.planner: row for row in reversed(serving)}.values())


def at_the_edges(row: Kernel) -> list[ConvProblem]:
    """Problems with one position, channel or row of an image less than the row's tile, as many, and one more."""
    tile, short = row.tile, "kw2pw1ew0"
    if "toeplitz" in row.name:  # rows of all images; columns around one block, several, and their most
        sizes = (3, 43, 15), (2, 64, 16), (1, 129, 17), (1, 4, 129)
        return [ConvProblem.parse(f"mb{n}g2ic2ih{h}iw{w}oc4kh4kw9ph1eh2pw4") for n, h, w in sizes]
    if "planes" in row.name:  # sizes of a plane around powers of two; planes around those of a program
        stride = 2 if row.family == "transposed" else 1
        sizes, problems = ((1, 1), (2, 31), (32, 3), (16, 15), (17, 17), (3, 2)), []
        for more, (h, w) in zip((-1, 0, 1) * 2, sizes, strict=True):
            window = f"ih{h}iw{w}oc{{c}}kh3kw2sh{stride}ph2eh0pw1ew0"
            one = row.plan(ConvProblem.parse("ic1" + window.format(c=1)), row.dtypes[0], bias=False)
            planes = one.launches[0].constants["PLANES"] + more
            c = planes if planes % 2 else planes // 2
            problems.append(ConvProblem.parse(f"mb{planes // c}g{c}ic{c}" + window.format(c=c)))
        # In fp32 the blocks of strided dgrad with 32 rows are too large for L1.
        return [p for p in problems if stride == 1 or p.input[0] <= 16 or row.dtypes[0].itemsize == 2]
    if isinstance(tile, StripTile) and tile.rows > 1:
        stride = 2 if row.family == "transposed" else 1
        sizes = [(stride * tile.rows + more, stride * tile.columns + more) for more in (0, 1)]
        c = 3 if row.layout == "NHWC" else 1  # a program of NCHW has one channel where columns fill its tile
        window = f"kh2kw2sh{stride}ph1eh0pw1ew0"
        return [ConvProblem.parse(f"g{c}ic{c}ih{h}iw{w}oc{c}{window}") for h, w in sizes]
    columns = tile.columns if isinstance(tile, StripTile) else tile.positions
    positions = [f"g2ic2iw{columns + more}oc2{short}" for more in (-1, 0, 1)]
    counts = [tile.channels + more for more in (-1, 0, 1)] if tile.channels > 1 else []
    return list(map(ConvProblem.parse, positions + [f"g{c}ic{c}iw3oc{c}{short}" for c in counts]))


def check(row: Kernel, problem: ConvProblem, dtype: torch.dtype, sign: Sign = "signed", bias: bool = True) -> None:
    """Run the row on a problem, and compare."""
    assert row.serves(problem, row.pass_, dtype, row.layout)
    assert all(launch.programs <= MOST_PROGRAMS for launch in row.plan(problem, dtype, bias).launches)
    operands = integers(problem, row.pass_, dtype, sign)
    operands = operands if bias else operands.without_bias()
    results = triton_rows.run_row(row, operands, problem)
    assert_exact(results, expected(row.pass_, operands, problem), dtype)


@pytest.mark.parametrize("row", NAIVE_ROWS, ids=by_name)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_problem(row: Kernel, problem: ConvProblem):
    for each in (row, *designed_rows(problem, row.pass_, torch.float32, row.layout)):
        check(each, problem, torch.float32)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize(
    "text",
    ["g2ic2iw21oc2kw5sw4pw2", "g2ic2ih10iw9oc2kh3sh2ph1eh-3pw0ew-2", "g2ic2ih13iw17oc2kh3ph6dh6"],
    ids=["four phases", "cropped by more than the stride", "all classes of rows in a program"],
)
def test_problem_of_fast_rows(text: str, pass_: Pass, layout: Layout):
    problem = ConvProblem.parse(text)
    rows = designed_rows(problem, pass_, torch.float32, layout)
    assert rows
    for row in rows:
        check(row, problem, torch.float32)


@pytest.mark.parametrize("row", [row for row in FAST_ROWS if "toeplitz" in row.name], ids=by_name)
@pytest.mark.parametrize(
    "text",
    [
        "g2ic2ih11iw13oc4kh9kw8ph4pw3ew4",
        "mb2ic1ih12iw24oc1kh3kw18ph5pw8ew9",
        "ic1ih6iw40oc1kh2kw31pw0ew-3",
        "ic1ih9iw20oc1kh7kw49ph3pw24",
    ],
    ids=["multiplier", "wide window", "cropped", "wider than the image"],
)
def test_large_filter(row: Kernel, text: str):
    problem = ConvProblem.parse(text)
    assert table.select(problem, row.pass_, torch.float16, row.layout) is row
    check(row, problem, torch.float16)


LARGE_FILTERS = {
    "smaller than its halo": "mb2g2ic2ih7iw9oc2kh13ph6",
    "column": "g3ic3ih5iw40oc3kh51kw1ph25pw0",
    "row": "g3ic3ih30iw6oc3kh1kw51ph0pw25",
    "blocks of taps": "g2ic2ih6iw5oc2kh31kw9ph15pw4",
    "dilation": "g2ic2ih40iw9oc2kh8kw7ph28dh4dw2pw3",
    "multiplier, padding as wide as the filter": "g2ic2ih9iw11oc6kh9kw7ph9pw3ew0",
    "several strips": "ic1ih58iw7oc1kh8kw7ph3eh4pw3",
    "causal, one dimension": "mb2g3ic3iw20oc6kw60pw59ew0",
}
WITHOUT_WGRAD = {"31x31": "g2ic2ih6iw5oc2kh31ph15"}  # of 32 parts in wgrad, each a program
WITHOUT_DGRAD = {  # for a strided dgrad is of the transposed family
    "stride and multiplier": "g2ic2ih17iw20oc4kh9kw8sh2sw3ph4pw7ew2",
    "stride of four": "ic1ih9iw10oc1kh8kw10sh4sw4",
}
LARGE: list[tuple[Pass, str, str]] = [
    *[("fprop", *case) for case in (LARGE_FILTERS | WITHOUT_WGRAD | WITHOUT_DGRAD).items()],
    *[("dgrad", *case) for case in (LARGE_FILTERS | WITHOUT_WGRAD).items()],
    *[("wgrad", *case) for case in (LARGE_FILTERS | WITHOUT_DGRAD).items()],
]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("pass_", "text"), [case[::2] for case in LARGE], ids=[f"{case[0]}-{case[1]}" for case in LARGE]
)
def test_filter_beyond_registers(pass_: Pass, text: str, layout: Layout):
    problem = ConvProblem.parse(text)
    row = table.select(problem, pass_, torch.float32, layout)
    assert row.name == f"depthwise_{pass_}_large_{layout.lower()}"
    check(row, problem, torch.float32)


@pytest.mark.parametrize(
    "row", [row for row in FAST_ROWS if "_large_" in row.name and row.pass_ != "wgrad"], ids=by_name
)
def test_infinity_reaches_what_its_taps_meet(row: Kernel):
    """A zero in place of a tap would make a NaN of it elsewhere."""
    problem = ConvProblem.parse("g2ic2ih22iw21oc2kh9kw8ph4pw4ew3")
    operands = integers(problem, row.pass_, torch.float32, "positive")
    assert operands.w.min() > 0
    pixel = (operands.x if row.pass_ == "fprop" else operands.y)[0, 1, 10, 9:10]
    pixel.fill_(0)
    (name, without), *_ = expected(row.pass_, operands, problem).items()
    pixel.fill_(1)
    (_, met), *_ = expected(row.pass_, operands, problem).items()
    pixel.fill_(torch.inf)
    found = triton_rows.run_row(row, operands, problem)[name]
    assert torch.equal(found, torch.where(met > without, torch.inf, without).to(found.dtype))


@pytest.mark.parametrize("row", FAST_ROWS, ids=by_name)
def test_dtype_of_fast_rows(row: Kernel):
    shape = "iw9oc6kw3pw1" if "line" in row.name else "ih6iw5oc6kh3kw2ph1pw0"
    shape = "ih20iw24oc6kh9kw12ph4pw6ew5" if "toeplitz" in row.name else shape
    shape += "sh2" if row.family == "transposed" else ""
    for dtype in row.dtypes:
        check(row, ConvProblem.parse(f"g3ic3{shape}"), dtype, "positive")


@pytest.mark.parametrize("l1", [1 << 16, 3 << 17], ids=["strips of a plane", "several planes"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_wgrad_of_more_than_one_program(layout: Layout, l1: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(strips, "L1", l1)
    problem = ConvProblem.parse("mb5g9ic9ih23iw7oc9kh3ph1")
    row = table.select(problem, "wgrad", torch.float32, layout)
    first = row.plan(problem, torch.float32, bias=True).launches[0]
    assert first.programs > 1
    assert (first.sizes["rows"] < 23, first.sizes["units"] > 1) == (l1 == 1 << 16, l1 == 3 << 17)
    check(row, problem, torch.float32)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_wgrad_sums_more_in_a_program_where_the_workspace_would_be_large(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(strips, "L1", 1 << 16)
    problem = ConvProblem.parse("mb3g2ic2ih23iw7oc4kh3ph1")
    row = table.select(problem, "wgrad", torch.float32, layout)
    several = row.plan(problem, torch.float32, bias=True)
    monkeypatch.setattr(depthwise_rows_wgrad, "MOST_WORKSPACE", 0)
    one = row.plan(problem, torch.float32, bias=True)
    assert one.workspace["partials"][0] == problem.parameters + problem.k < several.workspace["partials"][0]
    check(row, problem, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES.get)
@pytest.mark.parametrize("sign", ["signed", "positive"])
@pytest.mark.parametrize("row", NAIVE_ROWS, ids=by_name)
def test_dtype(row: Kernel, sign: Sign, dtype: torch.dtype):
    assert dtype in row.dtypes
    check(row, ConvProblem.parse("mb2g2ic2ih6iw7oc4kh3kw2ph1pw0"), dtype, sign)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=DTYPE_NAMES.get)
@pytest.mark.parametrize("row", NAIVE_ROWS, ids=by_name)
def test_long_sums_of_positive_numbers(row: Kernel, dtype: torch.dtype):
    problem = LONG_SUMS[row.pass_]
    sums = expected(row.pass_, integers(problem, row.pass_, dtype, "positive"), problem)
    assert all(result.max() > 4096 for result in sums.values())
    check(row, problem, dtype, "positive")


EDGES = [(row, problem) for row in ROWS for problem in at_the_edges(row)]


@pytest.mark.parametrize(("row", "problem"), EDGES, ids=[f"{row.name}-{problem}" for row, problem in EDGES])
def test_edge_of_the_tile(row: Kernel, problem: ConvProblem):
    check(row, problem, row.dtypes[0])


@pytest.mark.parametrize("row", NAIVE_ROWS, ids=by_name)
def test_without_bias(row: Kernel):
    for each in (row, *designed_rows(PROBLEMS[0], row.pass_, torch.bfloat16, row.layout)):
        check(each, PROBLEMS[0], torch.bfloat16, bias=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=DTYPE_NAMES.get)
@pytest.mark.parametrize("row", WGRAD_ROWS, ids=by_name)
def test_long_sums_of_one_lane_in_wgrad(row: Kernel, dtype: torch.dtype):
    """A sum that is spread over all lanes leaves each of them so little that 16 bits would do; here one has it all."""
    problem = ConvProblem.parse(f"ic1ih16iw{row.tile.positions}oc1kh1")
    x, y = (torch.randint(30, 51, shape).to(dtype) for shape in (problem.x_shape, problem.y_shape))
    y[..., 1:] = 0
    operands = Operands(x, torch.zeros(problem.w_shape, dtype=dtype), y, torch.zeros(1, dtype=dtype))
    assert_exact(triton_rows.run_row(row, operands, problem), expected("wgrad", operands, problem), dtype)


@pytest.mark.parametrize("row", WGRAD_ROWS, ids=by_name)
def test_wgrad_of_more_than_one_chunk(row: Kernel):
    chunk = row.tile.positions * row.tile.steps
    problem = ConvProblem.parse(f"mb2ic1ih8iw{chunk // 8}oc1kh1kw2pw1ew0")  # two chunks
    assert row.plan(problem, torch.float32, bias=True).launches[0].programs == 2
    check(row, problem, torch.float32)


@pytest.mark.parametrize("row", NAIVE_ROWS, ids=by_name)
def test_empty_batch(row: Kernel):
    check(row, ConvProblem.parse("mb0g2ic2ih5oc2kh3"), torch.float32)


@pytest.mark.parametrize("pass_", PASSES)
def test_each_pass_and_layout_has_rows(pass_: Pass):
    for depthwise in (False, True):
        rows = [row for row in table.KERNELS if (row.pass_, row.depthwise) == (pass_, depthwise)]
        assert {row.layout for row in rows} == {"NCHW", "NHWC"}


@pytest.mark.skipif(triton_rows.DEVICE != "cpu", reason="about the interpreter")
def test_interpreter_rounds_to_bf16_as_a_gpu_does():
    import triton.language as tl
    from triton.runtime import interpreter

    upper = torch.arange(0, 2**15 - 2**7, 7, dtype=torch.int32) * 2**16  # finite numbers of bf16
    values = torch.cat([upper + lower for lower in (0, 1, 2**15 - 1, 2**15, 2**15 + 1, 2**16 - 1)]).view(torch.float32)
    converted = interpreter._convert_float(values.numpy(), tl.float32, tl.bfloat16, None)
    assert torch.equal(torch.from_numpy(converted).view(torch.bfloat16), values.to(torch.bfloat16))
