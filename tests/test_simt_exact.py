"""The CUDA kernels in the emulator are exactly right on integers, and do nothing that a GPU would refuse.

Every row of the registry, with every access checked (bounds, alignment, races, each output byte written once), on every
problem that it serves; and the ops of the backend ``simt``, as users call them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import device
from support.check import assert_exact, expected, run
from support.data import integers, reals
from support.edges import EDGES, walk
from support.problems import PROBLEMS

import convbound
from convbound.problem import DTYPES, LAYOUTS, PASSES, ConvProblem, Pass

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

ROWS = device.rows()
PARTLY_ZEROS = ConvProblem.parse("mb2g6ic6ih9iw8oc6kh3ph1")


@pytest.fixture(autouse=True)
def _no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVBOUND_SIMT_OPTIONS", raising=False)


def check_row(
    row: dict[str, Any], problem: ConvProblem, options: str, sign: str = "signed", *, aligned: bool = False
) -> None:
    pass_ = row["pass"].name
    dtype = device.dtype_of(row)
    operands = integers(problem, pass_, dtype, sign)
    results, _ = device.run_row(row, operands, problem, options, aligned=aligned)
    assert_exact(results, expected(pass_, operands, problem), dtype)


def served(row: dict[str, Any], profile: str = "sm_90") -> list[ConvProblem]:
    return [problem for problem in walk(row["name"]) if device.serves(row, problem, profile)]


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_row_on_every_problem(row: dict[str, Any]):
    problems = served(row, "sm_80")
    assert problems, "no problem of tests/support reaches this row"
    for problem in problems:
        check_row(row, problem, "check profile=sm_80 order=reverse")


@pytest.mark.parametrize("row", [row for row in ROWS if not row["naive"]], ids=device.row_id)
def test_row_on_aligned_tensors(row: dict[str, Any]):
    # Tensors at odd offsets, as everywhere else in this file, never take the path of vector accesses.
    for problem in served(row):
        check_row(row, problem, "check order=random seed=5 cp_async=late", aligned=True)


@pytest.mark.parametrize("row", [row for row in ROWS if row["family"] == "grouped"], ids=device.row_id)
def test_row_on_a_device_of_one_multiprocessor(row: dict[str, Any]):
    # Elsewhere small problems take small tiles, and never the large ones of layers.
    for problem in served(row):
        if problem.n * problem.c < 65536:
            check_row(row, problem, "check sms=1 cp_async=late", aligned=True)


@pytest.mark.parametrize("row", [row for row in ROWS if row["min_arch"] < 80], ids=device.row_id)
def test_row_where_copies_go_through_registers(row: dict[str, Any]):
    # Below sm_80. Channels that are no multiple of a vector end in a copy that is partly zeros.
    for problem in [PARTLY_ZEROS, *served(row, "sm_75")[:2]]:
        if device.serves(row, problem, "sm_75"):
            check_row(row, problem, "check profile=sm_75", aligned=True)


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_results_are_the_same_bit_by_bit_in_every_order_of_threads(row: dict[str, Any]):
    problem = served(row)[0]
    operands = reals(problem, row["pass"].name, device.dtype_of(row))
    first, *others = (
        device.run_row(row, operands, problem, options, aligned=True)[0]
        for options in ("order=forward workers=1", "order=reverse", "order=random seed=8 cp_async=late")
    )
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_shared_memory_is_seen(row: dict[str, Any]):
    problem = served(row)[0]
    _, traces = device.run_row(row, integers(problem, row["pass"].name, device.dtype_of(row)), problem, "trace")
    for trace in traces:
        assert any(" shared " in line for line in trace["report"].splitlines()[1:]) == (trace["shared_bytes"] > 0)


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_row_on_long_sums_of_positive_numbers(row: dict[str, Any]):
    # Sums beyond 4096, where an accumulator of 16 bits would show.
    for problem in PROBLEMS:
        if "long sum" in problem.origin and device.serves(row, problem):
            check_row(row, problem, "check", "positive")


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_row_on_every_architecture_that_it_serves(row: dict[str, Any]):
    first = served(row)[0]
    for profile in device.PROFILES:
        if device.serves(row, first, profile):
            check_row(row, first, f"check profile={profile}")


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", [*PROBLEMS, *EDGES], ids=str)
def test_ops(problem: ConvProblem, pass_: Pass):
    for dtype in DTYPES:
        operands = integers(problem, pass_, dtype)
        wanted = expected(pass_, operands, problem)
        for layout in LAYOUTS:
            assert_exact(run(pass_, operands, problem, "simt", layout == "NHWC"), wanted, dtype)


def test_ops_without_bias_and_with_an_empty_batch():
    for batch in (2, 0):
        problem = ConvProblem.parse(f"mb{batch}g2ic6ih9iw10oc4kh3ph1")
        for pass_ in PASSES:
            operands = integers(problem, pass_, torch.float32)
            for given in (operands, operands.without_bias()):
                assert_exact(run(pass_, given, problem, "simt", False), expected(pass_, given, problem), torch.float32)


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_row_on_an_empty_batch(row: dict[str, Any]):
    problem = ConvProblem.parse("mb0g2ic4ih9iw10oc4kh3ph1")
    assert device.serves(row, problem) == row["naive"]
    if row["naive"]:
        check_row(row, problem, "check")


def test_gradients_through_the_backend():
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: convbound.conv2d(*a, stride=2, groups=2, backend="simt"), (x, w, b))


def test_the_options_of_the_backend(monkeypatch: pytest.MonkeyPatch):
    x, w = torch.ones(1, 2, 4, 5), torch.ones(2, 1, 2, 3)
    wanted = torch.nn.functional.conv2d(x, w, groups=2)
    for options in ("check", "check,profile=sm_75 order=reverse", "order=random seed=7 cp_async=late workers=1", ""):
        monkeypatch.setenv("CONVBOUND_SIMT_OPTIONS", options)
        assert torch.equal(convbound.conv2d(x, w, groups=2, backend="simt"), wanted)
    for options, message in {
        "profile=sm_42": "'sm_42' is not one of sm_75, sm_80",
        "order=sideways": "order=sideways is not one of forward, reverse, random",
        "workers=-1": "workers=-1 is not a number from 0 on",
        "fast": "option fast is unknown; there are check, trace, sectors, profile=",
        "sectors=1": "option sectors is unknown",
        "sms=-1": "sms=-1 is not a number from 0 on",
    }.items():
        monkeypatch.setenv("CONVBOUND_SIMT_OPTIONS", options)
        with pytest.raises(RuntimeError, match=message):
            convbound.conv2d(x, w, groups=2, backend="simt")


SMALL = ConvProblem.parse("mb2g2ic4ih6iw7oc6kh3ph1")


def naive_row(pass_: Pass) -> dict[str, Any]:
    return next(row for row in ROWS if row["naive"] and (row["pass"].name, row["dtype"].name) == (pass_, "fp32"))


def test_a_kernel_that_reads_what_nobody_has_written_is_caught():
    operands = integers(SMALL, "fprop", torch.float32).without_bias()
    message = r"naive::fprop_kernel<float.*: uninitialized global memory: .* of 'dx' .*naive_fprop\.cu:\d+"
    with pytest.raises(RuntimeError, match=message):
        device.run_row(naive_row("fprop"), operands, SMALL, "check", registered_pass="dgrad")


def test_a_misaligned_tensor_is_caught():
    row = naive_row("fprop")
    x, w, y = (torch.zeros(size + 1) for size in (2 * 4 * 6 * 7, 6 * 2 * 9, 2 * 6 * 6 * 7))
    with pytest.raises(RuntimeError, match=r"misaligned access: .*4-byte read at byte 0 of 'x'.*naive_fprop\.cu"):
        device.introspect.simt_run(
            row["pass"],
            device.native(SMALL),
            row["dtype"],
            row["layout"],
            x=x.data_ptr() + 1,
            w=w.data_ptr(),
            y=y.data_ptr(),
            bias=0,
            options="check",
            row=row["index"],
        )


def test_a_failed_launch_names_kernel_and_problem():
    row = naive_row("fprop")
    problem = ConvProblem.parse("mb2ic3ih5oc4kh2")
    operands = integers(problem, "fprop", torch.float32)
    with pytest.raises(RuntimeError, match=r"while naive_fprop served mb2g1ic3ih5iw5oc4kh2kw2sh1"):
        device.run_row(row, operands, problem, "check", registered_pass="dgrad")


def test_what_no_row_serves_is_refused():
    x = torch.zeros(1, 1, 4)
    with pytest.raises(
        RuntimeError, match="no CUDA kernel of convbound serves mb1g1ic1iw4oc1kw1sw1073741824pw1073741824"
    ):
        torch.ops.convbound.simt_fprop(x, x[..., :1], None, [1 << 30], [1 << 30, 1 << 30], [1], 1, False)


def test_the_dispatcher_looks_at_architecture_and_shared_memory():
    row = naive_row("fprop")
    select = device.introspect.device_select
    arguments = (row["pass"], device.native(SMALL), row["dtype"], row["layout"])
    assert select(*arguments, 75, 0, 40)["name"] == "naive_fprop"
    assert select(*arguments, 70, 0, 40) is None


@pytest.mark.parametrize("problem", [*PROBLEMS, *EDGES], ids=str)
def test_problems_in_error_messages_can_be_read_back(problem: ConvProblem):
    text = str(device.native(problem))
    again = ConvProblem.parse(text)
    assert str(device.native(again)) == text
    assert (again.n, again.c, again.k, again.groups) == (problem.n, problem.c, problem.k, problem.groups)
    assert again.output[-1] == problem.output[-1]


@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_explain_names_the_row_that_serves(row: dict[str, Any]):
    found = device.select(SMALL, row, "sm_90")
    told = convbound.explain(SMALL, dtype=device.dtype_of(row), layout=row["layout"].name, backend="simt")
    served = next(p for p in told.passes if p.pass_ == row["pass"].name)
    assert found is not None
    assert served.kernel == found["name"]
    assert [launch.grid for launch in served.launches] == [found["grid"]]
