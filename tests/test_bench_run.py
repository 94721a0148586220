"""Whole runs of the benchmark, tiny: rows, files, failures, interrupts, and reports from files."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convbound import _library, devices, ops
from convbound.bench import cli, commands, runner, training
from convbound.bench.report import README_END, README_START
from convbound.bench.rows import Row, read_result
from convbound.command_line import EXIT_USAGE
from convbound.roofs import Roofs

PROBLEM = "mb1g8ic8ih8oc8kh3ph1"
FILES = ["result.json", "roofline.png", "rows.csv", "rows.jsonl", "table.txt"]


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """No seconds spent on roofs, and no change to this process's allocator."""
    peaks = {"fp32": 100.0, "bf16": 100.0, "fp16": 100.0, "fp64": 50.0}
    monkeypatch.setattr(runner, "measure_roofs", lambda device, dtypes: Roofs(20.0, "given", peaks))
    monkeypatch.setattr(devices, "keep_freed_pages", lambda: False)


def bench(folder: Path, *arguments: str) -> int:
    """A run of the backend cpu, unless backends are named."""
    backend = () if "--backend" in arguments else ("--backend", "cpu")
    return cli.main([*arguments, *backend, "--out", str(folder), "--time", "0.1", "--warm"])


def records(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def result_file(tmp_path) -> Path:
    assert bench(tmp_path / "run", "--problem", PROBLEM) == cli.EXIT_OK
    return tmp_path / "run" / "result.json"


def test_a_run_leaves_rows_picture_and_table(tmp_path, capsys):
    assert bench(tmp_path, "--problem", f"{PROBLEM} toy:layer", "--pass", "fprop", "wgrad") == cli.EXIT_OK
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    rows = records(tmp_path)
    measured = {(row["pass"], row["layout"], row["backend"]) for row in rows}
    assert measured == {
        (p, layout, b) for p in ("fprop", "wgrad") for layout in ("NCHW", "NHWC") for b in ("cpu", "torch")
    }
    for row in rows:
        assert (row["status"], row["layer"], row["problem"]) == ("ok", "toy:layer", PROBLEM)
        assert 0 < float(row["p20_ms"]) <= float(row["median_ms"]) <= float(row["p80_ms"])
        assert float(row["error"]) < 1e-5
        assert row["bound"] == "memory"
        assert row["torch"]
        assert bool(row["speedup_best_layout"]) == (row["backend"] == "cpu")
    result = read_result(tmp_path / "result.json")
    assert result.complete
    assert result.machine["cpu"]
    assert [row.record() for row in result.rows] == json.loads((tmp_path / "result.json").read_text())["rows"]
    printed = capsys.readouterr().out
    assert "of 4 rows against torch in the same layout" in printed
    assert "toy:layer" in printed


def test_numbers_follow_from_the_time(result_file):
    row = read_result(result_file).rows[0]
    assert row.flops == 2 * 8 * 8 * 8 * 9
    assert row.bytes == 4 * (8 * 8 * 8 * 2 + 8 * 9)
    assert row.gbps == pytest.approx(row.bytes / row.median_ms / 1e6, rel=1e-4)
    assert row.copy_share == pytest.approx(row.gbps / 20, rel=1e-4)
    assert row.peak_share == pytest.approx(row.gflops / 100, rel=1e-4)
    assert row.roof_share == row.copy_share


def test_the_better_layout_counts_even_when_not_asked_for(tmp_path):
    bench(tmp_path, "--problem", PROBLEM, "--pass", "fprop", "--layout", "NHWC")
    rows = records(tmp_path)
    assert [(row["backend"], row["layout"]) for row in rows] == [("cpu", "NHWC"), ("torch", "NHWC")]
    assert float(rows[0]["speedup_best_layout"]) <= float(rows[0]["speedup_same_layout"])


def test_a_problem_is_measured_by_auto_too(tmp_path, capsys):
    """A dense one has a naive kernel of ours alone, which tells nothing of what a user gets."""
    assert cli.main(["--problem", "mb1ic8ih8oc8kh3ph1", "--out", str(tmp_path), "--time", "0.1"]) == cli.EXIT_OK
    rows = records(tmp_path)
    assert {row["backend"] for row in rows} == {"auto", "cpu", "torch"}
    assert all(row["kernel"].startswith("auto: torch") for row in rows if row["backend"] == "auto")
    printed = capsys.readouterr().out
    assert "a naive kernel serves 6 of 6 rows of cpu, for lack of a fast one; auto leaves these to torch" in printed
    assert "auto leaves 6 of 6 rows to torch" in printed
    assert "of the roof, in the median: auto " in printed


def test_auto_says_what_it_took(tmp_path, capsys):
    assert bench(tmp_path, "--problem", PROBLEM, "--pass", "wgrad", "--backend", "auto") == cli.EXIT_OK
    rows = [row for row in records(tmp_path) if row["backend"] != "torch"]
    assert [(row["backend"], row["kernel"]) for row in rows] == [("auto", "auto: cpu depthwise_wgrad")] * 2
    assert "cpu depthwise_wgrad" in capsys.readouterr().out


@pytest.mark.parametrize("problems", [1, 3], ids=["table", "models"])
def test_torch_alone_is_measured_against_the_roofs(problems, tmp_path, capsys):
    texts = [f"{PROBLEM} toy:{i}".replace("ih8", f"ih{8 + i}") for i in range(problems)]
    assert bench(tmp_path, "--problem", *texts, "--backend", "torch") == cli.EXIT_OK
    rows = records(tmp_path)
    assert {row["backend"] for row in rows} == {"torch"}
    assert all(row["roof_share"] for row in rows)
    printed = capsys.readouterr().out
    assert "no row of ours was measured" in printed
    assert "of the roof, in the median: torch " in printed
    assert "vs same" not in printed
    assert ("torch's median share of the roof" in printed) == (problems == 3)
    name = "problem toy:0" if problems == 1 else "problem"
    assert f"{name}: torch, fp32" in (tmp_path / "table.txt").read_text(encoding="utf-8")


def test_the_roofs_are_measured_between_the_cases_and_judge_all_rows_at_the_end(tmp_path, monkeypatch):
    copies = [10.0, 40.0, 20.0, 30.0]
    monkeypatch.setattr(runner, "measure_roofs", lambda device, dtypes: Roofs(copies.pop(0), "given", {"fp32": 100.0}))
    kept: list[list[float]] = []
    real = runner.write_rows

    def write_rows(folder, result):
        kept.append([float(row["copy_share"]) * 10 / float(row["gbps"]) for row in records(folder)])
        real(folder, result)

    monkeypatch.setattr(runner, "write_rows", write_rows)
    assert bench(tmp_path, "--problem", PROBLEM) == cli.EXIT_OK
    assert copies == []
    result = read_result(tmp_path / "result.json")
    assert (result.roofs["copy_gbps"], result.roofs["repeats"]) == (25.0, 4)
    assert result.roofs["spread"] == {"copy": [10.0, 40.0], "fp32": [100.0, 100.0]}
    for row in result.rows:
        assert row.copy_share == pytest.approx(row.gbps / 25, rel=1e-4)
        assert row.bound == "memory"  # an intensity of 2.1 is below all ridges: 2.5 to 10
    assert read_result(tmp_path / "rows.jsonl").rows == result.rows
    assert [float(row["copy_share"]) for row in records(tmp_path)] == [row.copy_share for row in result.rows]
    # Until then, rows were judged by what was known: 10, then the medians 25 and 20.
    assert kept == [pytest.approx([1.0] * 4 + [10 / 25] * 4 + [10 / 20] * 4, rel=1e-4)]


def test_a_short_run_shows_its_table_and_a_long_one_its_models(tmp_path, capsys):
    assert bench(tmp_path / "short", "--problem", f"{PROBLEM} toy:layer", "--table") == cli.EXIT_OK
    printed = capsys.readouterr().out
    assert printed.count("problem toy:layer: cpu against torch, fp32") == 2  # by --table, and on the screen
    assert "geometric means of torch's time over ours, same layout" in printed
    many = [f"{PROBLEM} toy:{i}".replace("ih8", f"ih{8 + i}") for i in range(3)]
    assert bench(tmp_path / "long", "--problem", *many) == cli.EXIT_OK
    printed = capsys.readouterr().out
    assert "toy:1" not in printed.partition("done\n")[2]
    assert "torch's time over ours in the same layout, geometric means" in printed
    assert "toy:1" in (tmp_path / "long" / "table.txt").read_text(encoding="utf-8")


def test_host_overhead_is_a_row_of_its_own(tmp_path):
    assert bench(tmp_path, "--suite", "dcgan", "--batch", "1", "--pass", "fprop", "--quick") == cli.EXIT_OK
    host = [row for row in records(tmp_path) if row["model"] == "host"]
    found = [(row["layer"], row["threads"], row["backend"]) for row in host]
    counts = sorted({"1", str(torch.get_num_threads())})
    backends = ("auto", "cpu", "torch")
    assert found == [(layer, n, b) for layer in ("depthwise", "dense", "1-D") for n in counts for b in backends]
    assert all(float(row["median_ms"]) > 0 for row in host)


def test_a_layer_of_two_models_is_measured_once(tmp_path, monkeypatch):
    measured = []
    real = runner.measure_case
    monkeypatch.setattr(runner, "measure_case", lambda case, *rest: measured.append(case) or real(case, *rest))
    arguments = ["--problem", f"{PROBLEM} a:first", f"{PROBLEM} b:second", "--pass", "fprop", "--layout", "NCHW"]
    bench(tmp_path, *arguments)
    rows = records(tmp_path)
    assert len(measured) == 1
    assert [row["layer"] for row in rows] == ["a:first", "a:first", "b:second", "b:second"]
    assert rows[0]["median_ms"] == rows[2]["median_ms"]


def test_what_looks_slow_is_measured_again(tmp_path, monkeypatch):
    speedups = [0.5, 2.0, 2.0]  # of fprop, of fprop again, and of wgrad
    monkeypatch.setattr(runner, "CPU_ISA", "avx2")
    monkeypatch.setattr(runner, "_LEAST_DOUBTFUL_MS", 0.0)
    real = runner.measure_case

    def measured(*arguments):
        rows, seconds = real(*arguments)
        ours = next(row for row in rows if row.backend == "cpu")
        ours.speedup_same_layout = speedups.pop(0)
        return rows, seconds

    monkeypatch.setattr(runner, "measure_case", measured)
    assert bench(tmp_path, "--problem", PROBLEM, "--pass", "fprop", "wgrad", "--layout", "NCHW") == cli.EXIT_OK
    ours = [row for row in records(tmp_path) if row["backend"] == "cpu"]
    assert [(row["pass"], row["speedup_same_layout"]) for row in ours] == [("fprop", "2.0"), ("wgrad", "2.0")]
    assert not speedups


def raising(*arguments, **keywords):
    raise RuntimeError("no such\nkernel")


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (raising, "RuntimeError: no such kernel"),
        (lambda x, w, bias, problem, **where: x + 1, "wrong result: error"),
        (lambda x, w, bias, problem, **where: x * 0, "ValueError: the result is zero everywhere"),
    ],
    ids=["raises", "wrong", "zeros"],
)
def test_a_row_that_fails_is_kept_with_its_error(kernel, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ops, "fprop", kernel)
    assert bench(tmp_path, "--problem", PROBLEM, "--pass", "fprop") == cli.EXIT_FAILED_ROWS
    ours = [row for row in records(tmp_path) if row["backend"] == "cpu"]
    assert len(ours) == 2
    for row in ours:
        assert (row["status"], row["median_ms"]) == ("failed", "")
        assert row["message"].startswith(message)
    printed = capsys.readouterr().out
    assert "2 of 2 rows of ours failed" in printed
    assert message in printed


def test_a_case_that_cannot_be_set_up_does_not_end_the_run(tmp_path, monkeypatch):
    real = runner.measure_case

    def measure(case, *rest):
        if case.pass_ == "fprop":
            raise MemoryError("too large")
        return real(case, *rest)

    monkeypatch.setattr(runner, "measure_case", measure)
    assert bench(tmp_path, "--problem", PROBLEM) == cli.EXIT_FAILED_ROWS
    status = {(row["pass"], row["status"], row["message"]) for row in records(tmp_path)}
    size = 4 * (2 * 8 * 8 * 8 + 8 * 9)
    message = (
        f"out of memory for {PROBLEM}, whose tensors take {size} bytes (4.38e-06 GB) in fp32: MemoryError: too large"
    )
    assert status == {("fprop", "failed", message), ("dgrad", "ok", ""), ("wgrad", "ok", "")}


def test_slower_rows_say_so(tmp_path, monkeypatch, capsys):
    real = ops.fprop

    def slow(*arguments, **keywords):
        time.sleep(0.02)
        return real(*arguments, **keywords)

    monkeypatch.setattr(ops, "fprop", slow)
    bench(tmp_path, "--problem", PROBLEM, "--pass", "fprop")
    printed = capsys.readouterr().out
    assert (
        "ours wins 0 of 2 rows against torch in the same layout, 0 of 2 against torch in its better layout" in printed
    )
    assert "slower in:\n  problem: all of 2 rows" in printed
    assert sum(line.rstrip().endswith("slower") for line in printed.splitlines()) == 2


def test_an_interrupt_keeps_the_rows(tmp_path, monkeypatch, capsys):
    real = runner.measure_case

    def measure(case, *rest):
        if case.pass_ == "wgrad":
            raise KeyboardInterrupt
        return real(case, *rest)

    monkeypatch.setattr(runner, "measure_case", measure)
    assert bench(tmp_path, "--problem", PROBLEM) == cli.EXIT_INTERRUPTED
    assert {row["pass"] for row in records(tmp_path)} == {"fprop", "dgrad"}
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert not read_result(tmp_path / "result.json").complete
    assert "interrupted: 8 rows were measured and kept" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_signal_ends_a_real_run_with_its_rows(tmp_path):
    command = [sys.executable, "-m", "convbound.bench", "--full", "--suite", "mobilenet_v2", "--batch", "1"]
    process = subprocess.Popen([*command, "--out", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    rows, end = tmp_path / "rows.csv", time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if rows.exists() and rows.read_text(encoding="utf-8").count("\n") > 4:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == cli.EXIT_INTERRUPTED, output
    assert "rows were measured and kept" in output
    assert len(read_result(tmp_path / "result.json").rows) == len(records(tmp_path)) >= 3


def test_training_that_is_interrupted_keeps_its_steps(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    step = training.Step("mobilenet_v2", "NCHW", 17, 52, 0.4, 0.5)

    def measure(*arguments):
        yield step
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "measure", measure)
    document = tmp_path / "cpu.md"
    document.write_text("<!-- training:start -->\nold\n<!-- training:end -->\n", encoding="utf-8")
    arguments = ["--out", str(tmp_path / "out"), "--document", str(document)]
    assert cli.main(["train", *arguments]) == cli.EXIT_INTERRUPTED
    printed = capsys.readouterr().out
    assert "| mobilenet_v2 | 17 of 52 | NCHW | 500 ms | 400 ms | 1.25x |" in printed
    assert printed.endswith(f"interrupted: 1 steps were measured and kept in {tmp_path / 'out' / 'steps.jsonl'}\n")
    assert json.loads((tmp_path / "out" / "steps.jsonl").read_text()) == dataclasses.asdict(step)
    assert "old" in document.read_text(encoding="utf-8")


def test_training_that_cannot_write_says_so_in_one_line(tmp_path, capsys):
    pytest.importorskip("transformers")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["train", "--out", str(tmp_path / "file")])
    assert leaving.value.code == EXIT_USAGE
    assert capsys.readouterr().err.endswith(f"--out: cannot write to {tmp_path / 'file'}: File exists\n")


def test_tuning_that_is_interrupted_ends_in_one_line(monkeypatch, capsys):
    tune = pytest.importorskip("convbound.bench.tune")
    monkeypatch.setitem(_library.ABSENT, "triton", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr("convbound.kernels.launch.architecture", lambda device: 90)
    monkeypatch.setattr(commands, "find_device", lambda name: devices.Device())
    searched: list[str] = []

    def search(problem, pass_, *what):
        if pass_ == "dgrad":
            raise KeyboardInterrupt
        searched.append(pass_)
        return [tune.Timing("row", "tile", True, 1e-3)]

    monkeypatch.setattr(tune, "search", search)
    assert cli.main(["tune", "--problem", PROBLEM, "--layout", "NHWC"]) == cli.EXIT_INTERRUPTED
    assert searched == ["fprop"]
    printed = capsys.readouterr().out
    assert f"1/3 {PROBLEM} dgrad fp16 NHWC, " in printed
    assert printed.endswith("interrupted: 1 of 3 problems were timed, as above\n")


def test_an_interrupt_anywhere_is_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as leaving:
            runpy.run_module("convbound.bench", run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert leaving.value.code == cli.EXIT_INTERRUPTED
    assert capsys.readouterr().out == "interrupted\n"


def test_a_report_is_redrawn_from_a_file(result_file, tmp_path, capsys):
    capsys.readouterr()
    picture = tmp_path / "deep" / "picture.png"
    assert cli.main(["report", str(result_file), "--plot", str(picture)]) == cli.EXIT_OK
    printed = capsys.readouterr().out
    assert "of 6 rows against torch in the same layout" in printed
    assert f"written: {result_file.with_name('table.txt')}, {picture}" in printed
    assert "geometric means" in result_file.with_name("table.txt").read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_killed_run_is_reported_from_its_rows(result_file, capsys):
    rows = result_file.with_name("rows.jsonl")
    assert read_result(rows).rows == read_result(result_file).rows
    assert cli.main(["report", str(rows)]) == cli.EXIT_OK


def test_a_readme_is_rewritten_between_its_markers(result_file, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Head\n\n{README_START}\nold\n{README_END}\n\ntail\n", encoding="utf-8")
    for _ in range(2):
        assert cli.main(["report", str(result_file), "--readme", str(readme)]) == cli.EXIT_OK
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"# Head\n\n{README_START}\n")
    assert text.endswith(f"{README_END}\n\ntail\n")
    assert "old" not in text
    assert text.count("| problem |") == 1
    assert "![Roofline](docs/roofline.png)" in text
    assert (tmp_path / "docs" / "roofline.png").exists()


def test_means_by_kind(tmp_path):
    problems = [
        PROBLEM,
        "mb1g8ic8iw30oc8kw3pw1",
        "mb1g8ic8ih8oc8kh3sh2ph1",
        "mb1g2ic8ih8oc8kh3ph1",
        "mb1ic8ih8oc8kh3ph1",
    ]
    assert bench(tmp_path / "run", "--problem", *problems) == cli.EXIT_OK
    file = tmp_path / "run" / "result.json"
    result = read_result(file)
    for row in result.rows:  # as if ours had been 2, 4 and 16 times faster
        wide = row.problem == PROBLEM and row.layout == "NCHW"
        row.speedup_same_layout, row.speedup_best_layout = (16.0 if wide else 2.0, 4.0)
    result.write_json(file)
    document = tmp_path / "cpu.md"
    document.write_text("head\n<!-- means:start -->\nold\n<!-- means:end -->\ntail\n", encoding="utf-8")
    assert cli.main(["means", str(document), str(file), str(file)]) == cli.EXIT_OK
    lines = document.read_text(encoding="utf-8").splitlines()
    isa = result.machine["isa"]
    # The file stands there twice, so each mean is of two rows at least; (16 * 2 * 2 * 2)^(1/4) = 3.36, uncapped.
    mixed, wide, plain = "3.36x (4.00x), 2.00-16.0x", "16.0x (4.00x), 16.0-16.0x", "2.00x (4.00x), 2.00-2.00x"
    assert [line for line in lines if line.startswith(f"| {isa}")] == [
        f"| {isa} fp32 {kind} | {layers} | {' | '.join([first, plain] * 3)} |"
        for layers, kind, first in (
            (4, "all", mixed),
            (1, "depthwise 1-D", plain),
            (1, "depthwise 2-D", wide),
            (1, "depthwise 2-D strided", plain),
            (1, "grouped 2-D", plain),
        )
    ]
    assert (lines[0], lines[-1]) == ("head", "tail")


def test_training_steps_are_timed_in_both_layouts(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(training, "IMAGE", 32)
    monkeypatch.setattr(training, "keep_freed_pages", lambda: False)
    document = tmp_path / "cpu.md"
    document.write_text("head\n<!-- training:start -->\nold\n<!-- training:end -->\ntail\n", encoding="utf-8")
    arguments = ["--model", "mobilenet_v2", "--batch", "2", "--time", "0.1", "--document", str(document)]
    assert cli.main(["train", *arguments, "--out", str(tmp_path / "out")]) == cli.EXIT_OK
    steps = [json.loads(line) for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()]
    assert [(step["model"], step["layout"]) for step in steps] == [("mobilenet_v2", "NCHW"), ("mobilenet_v2", "NHWC")]
    text = document.read_text(encoding="utf-8")
    assert text.startswith("head\n<!-- training:start -->\nA training step at batch 2, 32x32, fp32:\n")
    assert text.endswith("<!-- training:end -->\ntail\n")
    assert "old" not in text
    assert text.count("| mobilenet_v2 | 17 of 52 |") == 2
    assert re.search(r"1/2 mobilenet_v2 NHWC, \d+:\d\d left", capsys.readouterr().out)


def test_a_readme_without_markers_is_left_alone(result_file, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# Head\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.main(["report", str(result_file), "--readme", str(readme)])
    assert README_START in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == "# Head\n"


def test_a_file_that_is_no_result_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path / "x.json")])
    assert "is not a result file of convbound.bench" in capsys.readouterr().err


def test_a_committed_result_file_can_be_read():
    for file in (Path(cli.__file__).parent / "results").glob("cpu*.json"):
        result = read_result(file)
        assert result.complete, file
        assert all(isinstance(row, Row) and row.samples for row in result.rows if row.ok)
