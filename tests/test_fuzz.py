"""Random convolutions of fixed seeds through every function and kernel row; what fuzzing has found; the fuzzer itself.

``make fuzz`` tries new seeds, as long as asked (docs/fuzzing.md).
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzz import __main__ as command
from fuzz import rows as fuzzed_rows
from fuzz.call import Call
from fuzz.draw import Axis
from fuzz.judge import Unfit, Wrong
from fuzz.memory import PLACES, VIEWS, empty, place
from fuzz.rows import RowRun, rows
from fuzz.shrink import shrink
from fuzz.targets import targets
from fuzz.workers import Job, Worker, judge

from convbound.problem import ConvProblem

TARGETS = targets()
SEED = "1"
# How many cases of each target, in parts that workers of pytest-xdist share.
CASES = {"auto": 160, "cpu": 160, "simt": 80, "triton": 8, "cpu-rows": 600, "simt-rows": 300, "triton-rows": 60}
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("target", TARGETS)
def test_cases_of_a_fixed_seed(target: str, part: int):
    for number in range(part, CASES[target], PARTS):
        case = TARGETS[target].case(SEED, number)
        try:
            case.check()
        except Exception as error:
            raise AssertionError(f"{target}:{SEED}:{number}: {case!r}") from error


# What fuzzing has found, as small as it got, by what was wrong.
FOUND: dict[str, Call | RowRun] = {
    "a 3x3 filter that is left of a larger one": RowRun(
        "simt", "dilated_fprop_nchw bf16 NCHW", "mb1ic1ih1iw6oc1kh3kw4ph2ew-1dw2"
    ),
    "planes with rows that no tap meets, dgrad": RowRun(
        "simt", "transposed_dgrad_nchw_any fp16 NCHW", "mb1ic1ih1oc2kh1sw2pw2eh4", options="check workers=1"
    ),
    "planes with rows that no tap meets, wgrad": RowRun(
        "simt",
        "depthwise_wgrad fp32 NCHW",
        "mb1g5ic5ih6iw4oc5kh1sh2sw1eh-5",
        options="check cp_async=late workers=1",
    ),
    "an infinity that wgrad missed": RowRun(
        "simt", "depthwise_wgrad fp32 NCHW", "mb1g4ic4ih5iw9oc4kh1sw2pw1eh-4", data="infinite"
    ),
    "columns of dy that were not loaded": RowRun(
        "simt",
        "transposed_dgrad_nchw_stride2 fp32 NCHW",
        "mb2g5ic5ih2iw1oc5kh3sh2ph2pw1eh-1ew5",
        options="check workers=1",
    ),
    "zeros behind rows of input without room for them, dgrad": RowRun(
        "simt", "depthwise_dgrad_nchw_toeplitz bf16 NCHW", "mb1ic1ih57iw60oc1kh7pw9", options="check workers=1"
    ),
    "zeros behind rows of input without room for them, fprop": RowRun(
        "simt",
        "depthwise_fprop_nchw_toeplitz fp16 NCHW",
        "mb1ic1ih59iw40oc1kh8kw9eh3ew-2",
        places=("aligned end", "aligned end", "end"),
        options="workers=1",
    ),
    "a depth of one whose output lies in the padding": Call(
        "conv3d",
        "simt",
        n=1,
        c=1,
        k=1,
        input=(1, 6, 5),
        filter=(1, 3, 3),
        groups=2,
        stride=(3, 1, 1),
        padding=(1, 1, 1),
    ),
    "an end cropped by more than the input": Call(
        "conv_transpose1d",
        "auto",
        n=1,
        c=1,
        k=1,
        input=(1,),
        filter=(1,),
        padding=3,
        output_padding=9,
        dilation=10,
        preferring=("dgrad",),
    ),
    "strides of an input of one channel in 1-D": Call(
        "conv_transpose1d", "cpu", n=1, c=1, k=2, input=(2,), filter=(1,), views=("channels_last", "dense", "dense")
    ),
    "strides of an input of one position in 1-D": Call(
        "conv1d", "simt", n=1, c=2, k=2, input=(1,), filter=(1,), padding=1, views=("channels_last", "dense", "dense")
    ),
    "an error that torch words otherwise": Call(
        "conv_transpose1d", "auto", n=1, c=1, k=1, input=(1,), filter=(1,), output_padding=1, preferring=("dgrad",)
    ),
    "numbers beyond 64 bits": Call(
        "conv1d", "cpu", 1, 1, 1, (5,), (3,), 4, stride=2**62, padding=2**62, dilation=2**62
    ),
    "a dilation that torch refuses for a filter of one tap, too": Call(
        "conv_transpose1d",
        "auto",
        n=1,
        c=1,
        k=1,
        input=(1,),
        filter=(1,),
        groups=3,
        output_padding=1,
        dilation=2**61,
        dtype="fp16",
        preferring=("dgrad",),
    ),
    "a stride of a single element on which torch's own kernel errs": Call(
        "conv_transpose2d",
        "auto",
        n=1,
        c=1,
        k=2,
        input=(1, 1),
        filter=(2, 1),
        groups=2,
        views=("dense", "ambiguous", "channels_last"),
        preferring=("dgrad",),
        seed=110676231,
    ),
    "strides where a group's part of the input is one number": Call(
        "conv2d",
        "cpu",
        n=2,
        c=1,
        k=1,
        input=(1, 1),
        filter=(1, 2),
        groups=3,
        padding=1,
        dtype="fp64",
        views=("channels_last", "dense", "dense"),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_by_fuzzing(name: str):
    if FOUND[name].backend not in TARGETS:
        pytest.skip(f"backend {FOUND[name].backend} is not built")
    FOUND[name].check()


def test_every_row_has_problems_of_its_own():
    for backend in ("cpu", "simt", "triton"):
        if backend in TARGETS:
            assert all(row.problems for row in rows(backend).values())


@pytest.mark.parametrize("target", TARGETS)
def test_a_case_depends_on_its_number_alone(target: str):
    cases = [TARGETS[target].case("7", number) for number in range(4)]
    again = [TARGETS[target].case("7", number) for number in reversed(range(4))]
    assert cases == again[::-1]
    assert len(set(cases)) == 4


@pytest.mark.parametrize("target", TARGETS)
def test_a_case_can_be_pasted(target: str):
    for number in range(20):
        case = TARGETS[target].case("3", number)
        assert eval(repr(case), {"Call": Call, "RowRun": RowRun}) == case


ROW = "naive_fprop fp32 NCHW"
RUN = RowRun("cpu", ROW, "mb2ic4ih6iw7oc3kh3ph1", bias=True, places=("odd", "begin", "aligned end"))


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]) -> None:
    """The row computes what it does, and then something happens to its tensors."""
    row = rows("cpu")[ROW]

    def run(case: RowRun, problem: ConvProblem, tensors: dict[str, Any]) -> None:
        row.run(case, problem, tensors)
        change(tensors)

    monkeypatch.setattr(fuzzed_rows, "rows", lambda backend: {ROW: dataclasses.replace(row, run=run)})


def write_beside(tensor: torch.Tensor) -> None:
    ctypes.memset(tensor.data_ptr() + 4 * tensor.numel(), 0, 1)


SPOILED: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "a wrong sum": ("wrong result", lambda t: t["y"].view(-1)[17].add_(1)),
    "an element never written": ("wrong result", lambda t: t["y"].view(-1)[0].fill_(torch.nan)),
    "a byte behind the output": ("wrote beside", lambda t: write_beside(t["y"])),
    "a byte behind an input": ("wrote beside", lambda t: write_beside(t["w"])),
    "an input that has changed": ("changed input", lambda t: t["x"].view(-1)[3].add_(1)),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_kernel_is_found(name: str, monkeypatch: pytest.MonkeyPatch):
    RUN.check()
    kind, change = SPOILED[name]
    spoil(monkeypatch, change)
    with pytest.raises(Wrong) as caught:
        RUN.check()
    assert caught.value.kind == kind


def test_a_kernel_that_loses_an_infinity_is_found(monkeypatch: pytest.MonkeyPatch):
    run = dataclasses.replace(RUN, data="infinite", seed=4)
    run.check()
    spoil(monkeypatch, lambda tensors: tensors["y"].nan_to_num_(0, 0, 0))
    with pytest.raises(Wrong, match="missed"):
        run.check()


def test_inaccuracy_is_found(monkeypatch: pytest.MonkeyPatch):
    run = dataclasses.replace(RUN, data="reals")
    run.check()
    spoil(monkeypatch, lambda tensors: tensors["y"].mul_(1 + 1e-4))
    with pytest.raises(Wrong, match="inaccurate"):
        run.check()


def test_a_function_that_is_wrong_in_a_gradient_or_its_strides_is_found(monkeypatch: pytest.MonkeyPatch):
    call = Call("conv2d", "auto", n=2, c=3, k=2, input=(5, 6), filter=(3, 2), bias=True, twice=True)
    call.check()
    scale = torch.ones((), requires_grad=True)
    right = torch.nn.functional.conv2d
    spoiled = {
        "no gradient": lambda x, w, b, **_: right(x, w.detach(), b) + 0 * scale,
        "other strides": lambda x, w, b, **_: right(x, w, b).contiguous(memory_format=torch.channels_last),
        "inaccurate": lambda x, w, b, **_: right(x * 2, w, b),
        "accepted": lambda x, w, b, **_: right(x, w[:, :, :1, :1], b),
    }
    for kind, function in spoiled.items():
        wrong = dataclasses.replace(call, filter=(9, 9)) if kind == "accepted" else call
        with monkeypatch.context() as patch:
            patch.setattr("convbound.conv2d", function)
            fault = judge(wrong)
            assert fault is not None
            assert fault.kind == kind or (kind == "no gradient" and "unused" in fault.text)


@dataclasses.dataclass(frozen=True)
class Deadly:
    """A case that ends its process."""

    labels = ("deadly",)
    what: str

    def check(self) -> None:
        if self.what == "read":
            ctypes.string_at(empty((4,), (1,), torch.float32, "end").tensor.data_ptr() + 16, 1)
        elif self.what == "write":
            ctypes.memset(empty((4,), (1,), torch.float32, "begin").tensor.data_ptr() - 1, 0, 1)
        else:
            os._exit(3)


@pytest.mark.parametrize(("what", "text"), [("read", "Segm"), ("write", "Segm"), ("exit", "exit code 3")])
def test_a_crash_is_a_fault_of_its_case(what: str, text: str):
    worker = Worker()
    done = worker.run(Job(case=Deadly(what)))
    assert [(fault.kind, fault.case) for fault in done.faults] == [("crash", Deadly(what))]
    assert text in done.faults[0].text
    assert not worker.run(Job(case=RUN)).faults  # in a new process
    worker.stop()


def test_failing_cases_shrink_to_the_smallest():
    run = RowRun("cpu", ROW, "mb3g2ic8ih12iw9oc6kh3kw5sh2ph3pw1dh2dw1", bias=True, threads=3, seed=12345)
    smallest = shrink(run, lambda case: ConvProblem.parse(case.problem).padding[0][0] >= 2)  # type: ignore[union-attr]
    assert smallest == RowRun("cpu", ROW, "mb1ic1iw1oc1kw1pw2ew0")


def test_calls_shrink_too():
    call = Call(
        "conv_transpose3d",
        "cpu",
        3,
        4,
        5,
        (6, 7, 8),
        (3, 2, 4),
        3,
        (2, 3, 1),
        (1, 0, 2),
        views=("dense", "sliced", "dense"),
    )
    smallest = shrink(call, lambda case: case.groups * case.k >= 4)  # type: ignore[union-attr]
    assert smallest.groups * smallest.k == 4  # type: ignore[union-attr]
    assert len(smallest.input) == 1  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_placed_view_holds_its_values(view: str, where: str):
    import random

    values = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    placed = place(values, view, where, random.Random(5))  # type: ignore[arg-type]
    assert placed.shape == values.shape
    if view != "expanded":
        assert torch.equal(placed, values)


def test_an_axis_without_output_says_so():
    assert Axis(input=3, filter=5, stride=2, padding=(0, 1), dilation=1).output == 0
    with pytest.raises(Unfit):
        RowRun("cpu", "depthwise_fprop fp32 NCHW", "ic4ih5oc4kh3").check()


def test_the_command_counts_and_repeats(capsys: pytest.CaptureFixture[str], tmp_path: Any):
    report = tmp_path / "fuzz.json"
    arguments = [
        "--seed",
        "5",
        "--rounds",
        "1",
        "--jobs",
        "1",
        "--row",
        ROW,
        "--backend",
        "cpu",
        "--report",
        str(report),
    ]
    assert command.main(arguments) == command.EXIT_OK
    assert "no fault found" in capsys.readouterr().out
    assert f'"cpu row: {ROW}": 300' in report.read_text()
    assert command.main(["--case", "cpu-rows:5:2"]) == command.EXIT_OK
    assert repr(TARGETS["cpu-rows"].case("5", 2)) in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        command.main(["--case", "cpu-rows:5"])
    assert stopped.value.code == 2
