"""The experiments: every verdict follows the data, and a bad file or argument gets one line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import convbound
from convbound.bench import cli, runner
from convbound.bench.cli import main
from convbound.bench.experiments import (
    command,
    guidelines,
    headline,
    layout,
    predict,
    receptive,
    scatter,
    separable,
    show,
)
from convbound.bench.experiments.catalogue import EXPERIMENTS
from convbound.bench.experiments.experiment import OURS, Point, Points, Setting, Subject, Verdict, ridge
from convbound.bench.experiments.run import Record, _compare, measure, read
from convbound.bench.rivals import TORCH
from convbound.bench.rows import Result
from convbound.devices import find_device
from convbound.problem import ConvProblem
from convbound.roofs import Roofs

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "bench" / "results" / "experiments.json"
Model = Callable[[Point], float]


@pytest.fixture(scope="module")
def record() -> Record:
    return read(COMMITTED)


def timed(points: Points, model: Model) -> Points:
    """The points as a machine would measure them that follows a model."""
    return Points(dataclasses.replace(p, ms=model(p), p20_ms=model(p), p80_ms=model(p)) for p in points)


def by_flops(point: Point) -> float:
    return point.multiply_adds / 1e6


def by_bytes(point: Point) -> float:
    return point.bytes / 1e6


def constant(point: Point) -> float:
    return 1.0


def roofline(point: Point) -> float:
    """Of a machine whose roofs meet at 6 FLOP/byte, as ROOFS say."""
    return max(point.bytes / 30, 2 * point.multiply_adds / 180) / 1e6


ROOFS = Roofs(30.0, "copy", {"fp32": 180.0})
COPIES = (layout.THERE, layout.BACK)
# A machine where the hypothesis holds, and one that refutes it.
MACHINES: dict[str, tuple[Model, Model]] = {
    "three": (roofline, by_flops),
    "headline": (lambda p: 10.0 if p.series == headline.LOOP else 1.0, constant),
    "groups": (roofline, by_flops),
    "filters": (roofline, constant),
    "receptive": (by_bytes, by_flops),
    "dilation": (constant, lambda p: p.x),
    "transposed": (by_flops, constant),
    "separable": (by_flops, by_bytes),
    "guidelines": (lambda p: p.facts[guidelines.PAPER], constant),
    "scatter": (roofline, by_flops),
    "fusing": (lambda p: 2.0 if p.series.startswith("apart") else 1.0, constant),
    "layout": (
        lambda p: 2.0 if p.series.endswith(layout.ADDED) else 1.0,
        lambda p: 0.01 if p.series.endswith((*COPIES, layout.OTHER)) else 1.0,
    ),
    "cold": (lambda p: 3 - p.x, constant),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_data_decide_the_verdict(name: str, record: Record) -> None:
    experiment, points = EXPERIMENTS[name], record.points[name]
    holds, refutes = (experiment.verdict(timed(points, machine), ROOFS) for machine in MACHINES[name])
    assert holds.holds, holds.text
    assert not refutes.holds, refutes.text
    assert holds.text != refutes.text


def test_every_guideline_counts_by_itself(record: Record) -> None:
    for name in ("G1", "G2", "G3", "G4"):
        points = timed(
            record.points["guidelines"],
            lambda p, name=name: 1.0 if p.label.startswith(name) else p.facts[guidelines.PAPER],
        )
        verdict = EXPERIMENTS["guidelines"].verdict(points, ROOFS)
        assert not verdict.holds
        assert verdict.text.endswith(f"Not seen here: {name}.")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_equal_is_equal(name: str) -> None:
    setting = Setting(find_device("cpu"), torch.float32, ROOFS)
    with torch.no_grad():
        for group in EXPERIMENTS[name].groups(setting):
            subjects = group()
            _compare(subjects)
            # By torch and by convbound, or in two ways.
            assert name in ("layout", "receptive", "guidelines", "separable") or any(s.equal for s in subjects)


def test_a_wrong_subject_is_found() -> None:
    x, point = torch.ones(3), Point("a", "b", 0)
    right = Subject(point, (x,), torch.neg, "same")
    for wrong in (lambda x: x, lambda x: -x * torch.nan, lambda x: -x[:2], lambda x: -x * 1.001):
        with pytest.raises(RuntimeError, match="a b NCHW fprop is wrong"):
            _compare([right, Subject(point, (x,), wrong, "same")])
    _compare([right, Subject(point, (x,), lambda x: x, "another"), Subject(point, (x,), lambda x: x)])


def test_the_notes_three_convolutions(record: Record) -> None:
    dense, depthwise, narrow = (
        record.points["three"].where(label=n)[0] for n in record.points["three"].values("label")
    )
    assert dense.multiply_adds == 64 * 64 * 256 * 256 * 9 == 256 * depthwise.multiply_adds
    assert narrow.multiply_adds == depthwise.multiply_adds == 9_437_184
    assert [p.bytes // 4 for p in (dense, depthwise, narrow)] == [2_686_976, 2_099_456, 133_376]


def test_all_ways_reach_as_far(record: Record) -> None:
    for reach in receptive.REACHES:
        for problems in receptive.ways(1, reach).values():
            assert receptive.reach_of(problems) == reach
    assert receptive.reach_of([ConvProblem.parse("ic1ih56oc1kh3sh2ph1")] * 2) == 7


@pytest.mark.parametrize(
    ("c1", "c2", "groups"), [(128, 128, 1), (90, 180, 1), (36, 432, 1), (360, 360, 8), (64, 64, 64)]
)
def test_the_memory_access_of_a_pointwise_convolution(c1: int, c2: int, groups: int) -> None:
    access, hw = guidelines.memory_access(56, c1, c2, groups), 56 * 56
    problem = ConvProblem.parse(f"mb1g{groups}ic{c1}ih56oc{c2}kh1")
    assert access * 4 == problem.compulsory_bytes()
    work = problem.flops / 2
    assert access == pytest.approx(hw * c1 + work * groups / c1 + work / hw)
    if groups == 1:
        assert access >= 2 * math.sqrt(hw * work) + work / hw - 1e-6
        assert (c1 == c2) == (access == pytest.approx(2 * math.sqrt(hw * work) + work / hw))


def test_zero_insertion_and_the_promise() -> None:
    assert separable.promise(256) == pytest.approx(1 / 256 + 1 / 9)
    assert separable.promise(64, 5) == pytest.approx(1 / 64 + 1 / 25)


def test_the_roofline_is_of_the_units_that_a_convolution_uses() -> None:
    roofs = Roofs(100.0, "copy", {"fp16": 900.0}, fma_gflops=200.0)
    depthwise = Point("", "", 0, multiply_adds=10**9, bytes=10**7, problem="g8ic8ih9oc8kh3")
    dense = dataclasses.replace(depthwise, problem="ic8ih9oc8kh3")
    assert scatter.roofline_ms(depthwise, roofs) == pytest.approx(10)
    assert scatter.roofline_ms(dense, roofs) == pytest.approx(2e9 / 900e6)


def test_the_ridge_is_of_the_units_that_depthwise_uses() -> None:
    assert ridge(ROOFS) == 6
    assert ridge(Roofs(100.0, "copy", {"fp16": 900.0}, fma_gflops=200.0)) == 2


def test_a_point_survives_a_file(tmp_path: Path, record: Record) -> None:
    file = tmp_path / "experiments.json"
    record.write(file)
    again = read(file)
    assert again == record
    assert again.points["three"][0].intensity == pytest.approx(449.56, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head | {"schema": 2}, "schema 2 is not 1"),
        (lambda head: head | {"machine": {}}, "cpu is missing"),
        (lambda head: head | {"roofs": head["roofs"] | {"copy_gbps": -1}}, "not positive"),
        (lambda head: head | {"experiments": {"three": [{"series": "torch"}]}}, "missing"),
        (lambda head: head | {"experiments": {"three": [head["experiments"]["three"][0] | {"ms": 0}]}}, "is no time"),
        (
            lambda head: head | {"experiments": {"three": [head["experiments"]["three"][0] | {"label": 3}]}},
            "label is int",
        ),
        (lambda head: [head], "list in the place of an object"),
    ],
)
def test_a_bad_file_is_one_line(
    change: Callable[[dict[str, object]], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(change(json.loads(COMMITTED.read_text()))))
    with pytest.raises(SystemExit, match="2"):
        main(["experiment", "--from", str(file)])
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "is no file of experiments" in error
    assert "\n" not in error.partition("error: ")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["thre"], "unknown experiment 'thre'; did you mean three?"),
        ([], "no experiment is named"),
        (["three", "--docs", "docs"], "--docs: is written from a file"),
        (["three", "--predict", "H9000"], "gpu='H9000' is unknown"),
        (["three", "--time", "0"], "must be a number above 0"),
        (["--from", "/nonexistent/file.json"], "cannot read or write /nonexistent/file.json"),
        (["cold", "--from", "ONE"], "has no experiment cold; it has three"),
        (["three", "--out", "/proc/none"], "--out: cannot use /proc/none"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, tmp_path: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one.json"
    dataclasses.replace(record, points={"three": record.points["three"]}).write(one)
    with pytest.raises(SystemExit, match="2"):
        main(["experiment", *(str(one) if argument == "ONE" else argument for argument in arguments)])
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(EXPERIMENTS)


def test_a_run_ends_in_a_verdict_and_keeps_its_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "three", "--time", "0.2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "The dense convolution has 256 times the multiply-adds of the depthwise one and takes" in " ".join(
        printed.split()
    )
    points = read(tmp_path / "experiments.json").points["three"]
    assert len(points) == 3 * 2 * 2 * 2
    assert {p.series for p in points} == {OURS, TORCH}
    assert "<svg" in (tmp_path / "three.svg").read_text()


def test_an_interrupt_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(setting: Setting) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setitem(EXPERIMENTS, "groups", dataclasses.replace(EXPERIMENTS["groups"], groups=interrupt))
    assert main(["experiment", "three", "groups", "--time", "0.1", "--out", str(tmp_path)]) == 130
    assert "interrupted: 1 of 2 experiments" in " ".join(capsys.readouterr().out.split())
    assert list(read(tmp_path / "experiments.json").points) == ["three"]


def test_the_page_is_made_from_the_committed_points(tmp_path: Path, record: Record) -> None:
    assert list(record.points) == list(EXPERIMENTS)
    show.write_page(EXPERIMENTS.values(), record, tmp_path)
    assert (tmp_path / "experiments.md").read_text() == (ROOT / "docs" / "experiments.md").read_text()
    for name in EXPERIMENTS:
        assert (ROOT / "docs" / "experiments" / f"{name}.svg").stat().st_size < 200_000


def test_a_table_has_a_time_in_every_cell_that_was_measured(record: Record) -> None:
    for name, points in record.points.items():
        heads, rows = show.table(EXPERIMENTS[name], points)
        measured = sum(cell != "" for row in rows for head, cell in zip(heads, row, strict=True) if head.endswith("ms"))
        assert measured == len(points), name


def test_a_child_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from convbound.bench.experiments import cold

    monkeypatch.setattr(cold, "_COMMAND", "raise SystemExit('no such device')")
    setting = Setting(find_device("cpu"), torch.float32, ROOFS)
    with pytest.raises(RuntimeError, match="no such device"):
        measure(EXPERIMENTS["cold"], setting, 1.0)


def test_a_verdict_says_whether_it_holds() -> None:
    assert str(Verdict(True, "So.")) == "Holds here. So."
    assert str(Verdict(False, "So.")) == "Does not hold here. So."


def test_a_prediction_is_a_bound_of_the_kernel_that_would_serve(record: Record) -> None:
    problem = "mb2g8ic8ih20oc8kh3ph1"
    point = dataclasses.replace(record.points["three"][0], problem=problem, layout="NCHW")
    wide = dataclasses.replace(point, problem="ic4096ih1iw5000oc2kh1kw4000pw2000")
    head, line, repeated, *more = predict.predictions([point, point, wide], "A100")
    assert "A100" in head
    assert not more
    assert repeated.endswith("no fast CUDA C++ kernel serves it")
    found = convbound.trace(problem, dtype=torch.float16, gpu="A100", images=1)
    assert f"{found.kernel} needs {1e6 * found.bounds[0].seconds:.3g} us" in line
    assert list(predict.predictions([dataclasses.replace(point, problem="")], "A100"))[1].strip().startswith("nothing")


@pytest.mark.parametrize(
    ("arguments", "opens"),
    [
        ([], True),
        (["--quick"], True),
        (["--plain"], False),
        (["--suite", "dcgan"], False),
        (["--problem", "ic1iw9oc1kw2"], False),
    ],
)
def test_a_run_of_the_benchmark_opens_with_three(
    arguments: list[str], opens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(cli, "open_benchmark", lambda *args: opened.append(args))
    monkeypatch.setattr(runner, "run", lambda *args: Result({}, {}, {}, complete=True))
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert opened == ([("cpu", torch.float32, tmp_path)] if opens else [])


def test_what_a_run_opens_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.open_benchmark("cpu", torch.float32, tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "three: multiply-adds do not tell the time" in printed
    assert {p.cache for p in read(tmp_path / "experiments.json").points["three"]} == {"warm"}
    assert (tmp_path / "three.svg").exists()


def test_noise_alone_decides_no_verdict(record: Record) -> None:
    points = record.points
    near = timed(points["fusing"], lambda p: 1.02 if p.series.startswith("apart") else 1.0)
    assert not EXPERIMENTS["fusing"].verdict(near, ROOFS).holds
    near = timed(points["guidelines"], lambda p: 1.04 if p.facts[guidelines.PAPER] > 1 else 1.0)
    assert not EXPERIMENTS["guidelines"].verdict(near, ROOFS).holds
    near = timed(points["scatter"], lambda p: (roofline(p) * by_flops(p)) ** 0.5)  # as near to the one as to the other
    assert not EXPERIMENTS["scatter"].verdict(near, ROOFS).holds
