"""The Triton kernels of grouped, dense, dilated and transposed convolution are exactly right on integers.

As tests/test_triton_exact.py, for the rows that are matrix products: every kind of problem by the rows that are
selected for it, and every row at the edges of its tile and in all its dtypes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from support import triton_rows
from support.check import assert_exact, expected
from support.data import Sign, integers

from convbound.kernels import table
from convbound.kernels.precision import allows_tf32
from convbound.kernels.table import Kernel
from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES, ConvProblem, Layout, Pass

MOST_PROGRAMS = 80
ROWS = [row for row in table.KERNELS if not row.depthwise]

PROBLEMS = tuple(
    map(
        ConvProblem.parse,
        """
        mb2g4ic8ih9iw7oc12kh3ph1 packed groups
        g5ic20ih5iw6oc20kh3kw2ph1pw0 a last pack that is not full
        g2ic6ih10iw11oc4kh3sh2ph1 strided
        mb2g3ic6iw15oc9kw5sw2pw2 one dimension
        g2ic34ih4iw5oc6kh2 more channels than one step takes
        g2ic6ih4iw5oc34kh2 a group of more than one block of columns
        mb2ic3ih8iw10oc5kh3kw2ph1pw0 dense, H and W, R and S differ
        mb2ic16ih6iw5oc8kh1 1x1
        g2ic4ih17iw9oc4kh3ph6dh6 dilated
        ic3ih14iw15oc2kh3kw2sh2sw3ph1pw2dh3dw2 strided and dilated
        ic3ih9iw8oc2kh3sh2ph2dh2 positions that no tap of this dilation reaches
        ic4ih9iw8oc2kh5kw4sh4sw6ph3dh2dw4 stride and dilation share a factor
        ic3ih7iw11oc4kh1kw2sh2sw3 positions that no tap reaches
        ic2ih10iw11oc3kh3ph2eh0ew1dh3 cropped at the end
        ic2ih10iw9oc3kh3sh2ph1eh-3pw0ew-2 cropped by more than the stride
        ic2ih3iw2oc3kh3ph5 padding wider than the input
        ic2ih5iw6oc3kh5kw1sh536870912sw2ph0dh1dw536870912 a stride and a dilation that move nothing
        """.strip().splitlines(),
    )
)


def check(row: Kernel, problem: ConvProblem, dtype: torch.dtype, sign: Sign = "signed", bias: bool = True) -> None:
    """Run the row on a problem, and compare."""
    assert row.serves(problem, row.pass_, dtype, row.layout)
    assert all(launch.programs <= MOST_PROGRAMS for launch in row.plan(problem, dtype, bias).launches)
    operands = integers(problem, row.pass_, dtype, sign)
    operands = operands if bias else operands.without_bias()
    wanted = expected(row.pass_, operands, problem)
    if sign == "positive" and dtype.itemsize == 2:
        assert any(result.max() > 4096 for result in wanted.values()), "accumulation in 16 bits would not show"
    assert_exact(triton_rows.run_row(row, operands, problem), wanted, dtype)


def allow_tf32(allowed: bool) -> None:
    """Set it by torch's older interface, with nothing set by the newer one."""
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture(autouse=True)
def _no_tf32() -> Iterator[None]:
    allow_tf32(False)
    yield
    allow_tf32(True)  # torch's default


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_problem(pass_: Pass, layout: Layout, problem: ConvProblem):
    check(table.select(problem, pass_, torch.float32, layout), problem, torch.float32)


def problem_for(row: Kernel, result: int, positions: int) -> ConvProblem:
    """Two taps in one dimension; so many channels in the result, in wgrad in dy; transposed rows get a stride."""
    other, stride = 16, 2 if row.family == "transposed" else 1
    c, k = (result, other) if row.pass_ == "dgrad" else (other, result)
    return ConvProblem.parse(f"ic{c}iw{positions * stride}oc{k}kw2sw{stride}pw1ew0")


def at_the_edges(row: Kernel) -> list[ConvProblem]:
    """Problems at the edges of the row's tile: fewer, as many, more; aligned rows have channels by 16."""
    more = (16,) if row.aligned else (-1, 0, 1)
    if row.pass_ == "wgrad":
        return [problem_for(row, row.tile.rows + one, row.tile.depth + one % 3) for one in more]
    return [problem_for(row, row.tile.columns + one, row.tile.rows + one % 3) for one in more]


EDGES = [(row, problem) for row in ROWS for problem in at_the_edges(row)]


@pytest.mark.parametrize(("row", "problem"), EDGES, ids=[f"{row.name}-{problem}" for row, problem in EDGES])
def test_edge_of_the_tile(row: Kernel, problem: ConvProblem):
    check(row, problem, row.dtypes[0])


DTYPES = [(row, dtype) for row in ROWS for dtype in row.dtypes]


@pytest.mark.parametrize(("row", "dtype"), DTYPES, ids=[f"{row.name}-{DTYPE_NAMES[dtype]}" for row, dtype in DTYPES])
def test_dtype(row: Kernel, dtype: torch.dtype):
    positions = 300 if row.pass_ == "wgrad" else 9
    problems = [problem_for(row, channels, positions) for channels in range(16, 257, 16)]
    smallest = next(problem for problem in problems if row.serves(problem, row.pass_, dtype, row.layout))
    check(row, smallest, dtype, "positive")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_", PASSES)
def test_without_bias_and_with_an_empty_batch(pass_: Pass, layout: Layout):
    row = table.select(PROBLEMS[0], pass_, torch.float16, layout)
    check(row, PROBLEMS[0], torch.float16, bias=False)
    check(row, ConvProblem.parse("mb0g4ic8ih9iw7oc12kh3ph1"), torch.float16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wgrad_of_more_than_one_chunk(layout: Layout):
    problem = ConvProblem.parse("mb3g2ic4ih11iw13oc6kh2kw3")
    row = table.select(problem, "wgrad", torch.float32, layout)
    first, _ = row.plan(problem, torch.float32, bias=True).launches
    assert first.sizes["steps"] * row.tile.depth < problem.n * 10 * 11
    check(row, problem, torch.float32)


# What torch is told, in order, by its older interface of one switch and its newer one of precisions.
OLD, ALL, CUDNN, CONV = "cudnn.allow_tf32", "fp32_precision", "cudnn.fp32_precision", "cudnn.conv.fp32_precision"
SETTINGS: dict[str, tuple[bool, tuple[tuple[str, object], ...]]] = {
    "allowed": (True, ((OLD, True),)),
    "forbidden": (False, ((OLD, False),)),
    "convolutions alone, ieee": (False, ((CONV, "ieee"),)),
    "convolutions alone, tf32": (True, ((OLD, False), (CONV, "tf32"))),
    "cuDNN alone, ieee": (False, ((CONV, "none"), (CUDNN, "ieee"))),
    "cuDNN alone, tf32": (True, ((CONV, "none"), (CUDNN, "tf32"))),
    "all, ieee": (False, ((CONV, "none"), (ALL, "ieee"))),
    "all, tf32": (True, ((CONV, "none"), (ALL, "tf32"))),
    "nothing is said": (False, ((CONV, "none"),)),
    "convolutions before cuDNN": (True, ((CUDNN, "ieee"), (CONV, "tf32"))),
    "convolutions before all": (False, ((ALL, "tf32"), (CONV, "ieee"))),
    "cuDNN before all": (False, ((CONV, "none"), (ALL, "tf32"), (CUDNN, "ieee"))),
    "forbidden, then all": (True, ((OLD, False), (ALL, "tf32"))),
    "all, then forbidden": (False, ((ALL, "ieee"), (OLD, False))),
    "convolutions, then allowed": (True, ((CONV, "ieee"), (OLD, True))),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("allowed", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_fp32_goes_through_tf32_where_torch_allows_it(allowed: bool, settings: tuple[tuple[str, object], ...]):
    allow_tf32(True)
    for name, value in settings:
        *path, attribute = name.split(".")
        setattr(functools.reduce(getattr, path, torch.backends), attribute, value)
    for pass_ in PASSES:
        for dtype in (torch.float32, torch.float64, torch.float16):
            row = table.select(PROBLEMS[0], pass_, dtype, "NHWC")
            precision = row.plan(PROBLEMS[0], dtype, bias=False).launches[0].constants["PRECISION"]
            assert precision == ("tf32" if allowed and dtype == torch.float32 else "ieee")


def test_fp32_goes_through_tf32_by_the_switch_of_a_torch_that_has_no_other(monkeypatch: pytest.MonkeyPatch):
    for allowed in (False, True):
        monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=allowed))
        assert allows_tf32() == allowed
