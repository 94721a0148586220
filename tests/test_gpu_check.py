"""``make gpu-check`` itself, on the emulator and on a stand-in for ``torch.cuda``: it finds what it is there for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_check import __main__ as program
from gpu_check import behaviour, driver, report, rows, sanitizers, supervisor, worker
from gpu_check.check import Check
from gpu_check.target import Target, emulator
from support import device as registry
from support.fake_cuda import FakeCuda

from convbound import ops
from convbound.bench import provenance
from convbound.bench.rows import Result
from convbound.kernels.table import KERNELS
from convbound.problem import LAYOUTS, PASSES, ConvProblem

pytestmark = pytest.mark.skipif(registry.ABSENT is not None, reason=f"no emulated kernels: {registry.ABSENT}")

ROOT = Path(__file__).resolve().parent.parent
SMALL = ConvProblem.parse("mb2g2ic4ih6iw7oc6kh3ph1")


@pytest.fixture
def target() -> Target:
    return emulator()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.mark.parametrize("row", registry.rows(), ids=registry.row_id)
def test_every_row_runs_by_its_index(row: dict[str, Any], target: Target):
    rows.check_row(target, row, next(iter(rows.served(row, target))))


def test_every_row_and_op_is_checked(target: Target):
    names = [check.name for check in worker.all_checks(target)]
    assert len(names) == len(set(names))
    for row in registry.rows():
        assert any(name.startswith(f"row {registry.row_id(row)} ") for name in names)
    for pass_ in PASSES:
        for layout in LAYOUTS:
            assert sum(name.startswith(f"op simt_{pass_} fp16 {layout} ") for name in names) > 30
    assert {name.partition(" ")[0] for name in names} == {
        "row",
        "op",
        "stream",
        "streams",
        "graph",
        "devices",
        "autograd",
    }


def test_a_gpu_without_our_kernels_fails_and_says_why(target: Target):
    without = Target(target.devices, "", (), target.arch, target.shared_per_block, target.sms, 8)
    (check,) = rows.row_checks(without)
    with pytest.raises(RuntimeError, match="backend cuda is absent: "):
        check.run()


def test_a_row_that_serves_nothing_there_is_skipped(target: Target):
    old = Target(target.devices, "simt", (), 70, target.shared_per_block, target.sms, 8)
    assert all("on sm_70" in check.skip for check in rows.row_checks(old))


def test_rows_of_triton_are_checked_where_it_is(target: Target):
    with_triton = Target(
        target.devices, "simt", ("simt", "triton"), target.arch, target.shared_per_block, target.sms, 8
    )
    checks = list(rows.triton_checks(with_triton))
    assert {check.name.split()[2] for check in checks} == {row.name for row in KERNELS}
    next(check for check in checks if "fp16" in check.name and "iw29" in check.name).run()
    assert not list(rows.triton_checks(target))
    names = [check.name for check in worker.all_checks(with_triton)]
    assert any(name.startswith("op triton_fprop ") for name in names)
    assert not any(name.startswith("op triton_") and "id5ih6iw7" in name for name in names)  # 3-D


def row_of(pass_: str) -> dict[str, Any]:
    wanted = (True, pass_, "fp32", "NCHW")
    return next(r for r in registry.rows() if (r["naive"], r["pass"].name, r["dtype"].name, r["layout"].name) == wanted)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors: tensors["y"].view(-1)[3:4].add_(1), "1 of 504 elements are wrong"),
        (lambda tensors: tensors["y"].view(-1)[:1].fill_(torch.nan), "1 of them NaN"),
        (lambda tensors: tensors["y"]._base[64:65].zero_(), "1 elements beside the tensor were written"),
        (lambda tensors: tensors["y"]._base[-1:].zero_(), "1 elements beside the tensor were written"),
    ],
    ids=["wrong", "never written", "before", "after"],
)
def test_a_row_that_goes_wrong_is_found(spoil, message, target: Target, monkeypatch: pytest.MonkeyPatch):
    real = rows.launch

    def launch(target, row, problem, tensors):
        real(target, row, problem, tensors)
        spoil(tensors)

    monkeypatch.setattr(rows, "launch", launch)
    monkeypatch.setattr(rows, "OFFSETS", (65,))
    with pytest.raises(AssertionError, match=message):
        rows.check_row(target, row_of("fprop"), SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": 10**6}, "there is no row 1000000"),
        ({"x": torch.zeros(2, 4, 6, 7, dtype=torch.float16)}, "takes another dtype"),
        ({"y": torch.zeros(2, 6, 7, 6).movedim(-1, 2)}, "takes another layout"),
        ({"bias": torch.zeros(5)}, "bias needs 6 elements"),
        ({"w": torch.zeros(6, 4, 3, 3)}, "do not fit"),
    ],
    ids=["index", "dtype", "layout", "bias", "shape"],
)
def test_the_op_refuses_what_the_row_does_not_take(change: dict[str, Any], message: str):
    row = row_of("fprop")
    given = {"index": row["index"], "x": torch.zeros(SMALL.x_shape), "w": torch.zeros(SMALL.w_shape)}
    given |= {"y": torch.zeros(SMALL.y_shape), "bias": torch.zeros(6)} | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convbound.simt_run_row(*given.values(), [1, 1], [1, 1, 1, 1], [1, 1], 2)


def checks_of(target: Target, kind: str) -> list[Check]:
    problem = behaviour.PROBLEMS[1]
    return [c for c in behaviour.behaviour_checks(target) if c.name.startswith(f"{kind} ") and str(problem) in c.name]


@pytest.mark.parametrize("kind", ["stream", "streams", "graph", "autograd"])
def test_behaviour_passes_where_it_is_right(kind: str, target: Target, fake: FakeCuda):
    found = checks_of(target, kind)
    assert found
    for check in found:
        assert not check.skip
        check.run()


def test_a_second_device_is_skipped_where_there_is_one(target: Target, fake: FakeCuda):
    assert {check.skip for check in checks_of(target, "devices")} == {"there is one GPU"}
    two = Target(target.devices * 2, "simt", ("simt",), target.arch, target.shared_per_block, target.sms, 8)
    check = checks_of(two, "devices")[0]
    assert not check.skip
    check.run()


def test_an_op_on_another_stream_is_found(target: Target, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch):
    real = ops.fprop

    # What ran before the copies on its stream has seen operands of NaN.
    def early(x, *arguments, **where):
        return real(
            torch.full_like(x, torch.nan) if torch.cuda.current_stream().name == "side" else x, *arguments, **where
        )

    monkeypatch.setattr(ops, "fprop", early)
    with pytest.raises(AssertionError, match="of them NaN"):
        behaviour.check_current_stream(target, "simt", behaviour.PROBLEMS[0], "fprop", "NCHW")


def test_an_op_that_a_graph_does_not_hold_is_found(target: Target, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch):
    real = ops.fprop
    # A launch that goes past the capture runs once and is not replayed.
    monkeypatch.setattr(
        ops, "fprop", lambda x, *rest, **where: torch.from_numpy(real(x, *rest, **where).numpy().copy())
    )
    with pytest.raises(AssertionError, match="elements are wrong"):
        behaviour.check_graph(target, "simt", behaviour.PROBLEMS[0], "fprop", "NCHW")


def test_the_driver_of_the_sanitizers_runs_every_row(target: Target, monkeypatch: pytest.MonkeyPatch):
    launched: list[int] = []
    real = driver.launch
    monkeypatch.setattr(driver, "launch", lambda *of: launched.append(of[1]["index"]) or real(*of))
    assert driver.drive(target) == []
    assert set(launched) == {row["index"] for row in registry.rows()}
    spoil = lambda target, row, problem, tensors: [tensor.fill_(torch.nan) for tensor in tensors.values()]  # noqa: E731
    monkeypatch.setattr(driver, "launch", spoil)
    assert len(driver.drive(target)) == len(launched)


def log_of(folder: Path, checks: list[Check], start: int = 0) -> tuple[int, list[dict[str, Any]]]:
    path = folder / "log.jsonl"
    with path.open("w", encoding="utf-8") as log:
        status = worker.run_checks(checks, start, log)
    return status, supervisor._read(path)


def failing(message: str) -> None:
    raise RuntimeError(message)


def test_a_failure_ends_nothing(tmp_path: Path):
    checks = [Check("row a", partial(failing, "wrong")), Check("row b"), Check("row c", skip="no")]
    status, records = log_of(tmp_path, checks)
    assert status == 0
    ends = [r for r in records if r["event"] == "end"]
    assert [(r["name"], r["error"], r["skip"]) for r in ends] == [
        ("row a", "RuntimeError: wrong", ""),
        ("row b", "", ""),
        ("row c", "", "no"),
    ]


def test_a_lost_device_ends_the_process(tmp_path: Path, fake: FakeCuda):
    fake.lost = "CUDA error: an illegal memory access was encountered"
    status, records = log_of(tmp_path, [Check("row a", partial(failing, fake.lost)), Check("row b")])
    assert status == worker.EXIT_LOST
    assert [r["name"] for r in records] == ["row a", "row a"]


# A worker of four checks, the second of which takes its process with it.
DYING = """
import os, sys
from pathlib import Path
from gpu_check import worker
from gpu_check.check import Check
def die(): print("unspecified launch failure", flush=True); os._exit(7)
checks = [Check("row a"), Check("row b", die), Check("row c", skip="no reason"), Check("row d", HANG)]
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with Path(arguments["--log"]).open("a") as log:
    sys.exit(worker.run_checks(checks, int(arguments["--start"]), log))
"""


@pytest.mark.parametrize("hang", [False, True], ids=["ends", "hangs"])
def test_the_next_process_goes_on_behind_the_one_that_ended(hang: bool, monkeypatch: pytest.MonkeyPatch):
    text = DYING.replace("HANG", "lambda: __import__('time').sleep(600)" if hang else "lambda: None")
    real = subprocess.Popen
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}

    def start(command: list[str], **how: Any) -> Any:
        assert command[1:3] == ["-m", "gpu_check.worker"]
        return real([command[0], "-c", text, *command[3:]], env=environment, **how)

    monkeypatch.setattr(supervisor.subprocess, "Popen", start)
    monkeypatch.setattr(supervisor, "STALLED_SECONDS", 2.0)
    outcome = supervisor.run_all("emulator", "")
    assert outcome.complete
    assert outcome.processes == 2
    assert outcome.skipped == {"no reason": 1}
    assert outcome.failures[0]["name"] == "row b"
    assert outcome.failures[0]["error"] == "its process ended with status 7\nunspecified launch failure"
    if hang:
        assert outcome.passed == {"row": 1}
        assert outcome.failures[1]["error"].startswith("no end after 2 s: it was killed")
    else:
        assert outcome.passed == {"row": 2}
        assert len(outcome.failures) == 1


def test_only_kernels_of_this_project_are_watched():
    line = sanitizers.command("/cuda/bin/compute-sanitizer", "racecheck", "gpu")
    assert line[:3] == ["/cuda/bin/compute-sanitizer", "--tool", "racecheck"]
    assert "kernel_substring=convbound" in line
    assert line[-5:] == [sys.executable, "-m", "gpu_check.driver", "--target", "gpu"]


@pytest.mark.parametrize(("status", "said"), [(0, "clean"), (86, "errors"), (3, "ended with status 3")])
def test_what_the_sanitizers_say_is_kept(status: int, said: str, tmp_path: Path):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho $PYTORCH_NO_CUDA_MEMORY_CACHING: ERROR SUMMARY\nexit {status}\n")
    tool.chmod(0o755)
    found = list(sanitizers.run_all(str(tool), "emulator"))
    assert [each.tool for each in found] == list(sanitizers.TOOLS)
    assert {(each.status, each.output) for each in found} == {(said, "1: ERROR SUMMARY\n")}


def test_compute_sanitizer_is_found_where_cuda_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "compute-sanitizer").touch()
    assert sanitizers.find() == str(tmp_path / "bin" / "compute-sanitizer")


def test_a_run_leaves_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setattr(sanitizers, "find", lambda: None)
    out = tmp_path / "report.json"
    only = f"^row {row_of('fprop')['index']}-.*(one element|ic1iw1oc1kw1)"
    assert program.main(["--target", "emulator", "--only", only, "--out", str(out)]) == program.EXIT_OK
    found = json.loads(out.read_text())
    assert found["ok"] is True
    assert found["checks"]["passed"]["row"] >= 1
    assert found["checks"]["failures"] == []
    assert found["sanitizer"].startswith("compute-sanitizer was not found")
    assert {row["model"] for row in found["bench"]["result"]["rows"]} == {"problem"}
    assert found["machine"]["about"][0].startswith("convbound ")
    printed = capsys.readouterr().out
    assert "checks: passed" in printed
    assert "benchmark: status 0" in printed


def test_failures_make_the_run_fail_and_are_all_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    failures = [
        {"name": f"row {i} {SMALL}", "error": "AssertionError: y: 3 of 504 elements are wrong"} for i in range(30)
    ]
    monkeypatch.setattr(supervisor, "run_all", lambda *of: supervisor.Outcome(failures=failures, complete=True))
    arguments = ["--target", "emulator", "--steps", "checks", "--out", str(tmp_path / "report.json")]
    assert program.main(arguments) == program.EXIT_FAILED
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["ok"] is False
    assert found["checks"]["failures"] == failures
    printed = capsys.readouterr().out
    assert f"FAILED row 0 {SMALL}: AssertionError: y: 3 of 504 elements are wrong" in printed
    assert "and 10 more, all of them in the file" in printed


def test_a_benchmark_that_was_cut_off_keeps_its_rows(tmp_path: Path):
    assert report.read_bench(tmp_path, 1, "no GPU").result is None
    (tmp_path / "result.json").write_text("{")
    header = Result(provenance.describe("cpu"), {}, {}).header()
    (tmp_path / "rows.jsonl").write_text(json.dumps(header) + '\n{"model": "resn')
    bench = report.read_bench(tmp_path, -9, "killed")
    assert bench.result is not None
    assert not bench.ok
    assert "result.json is not a result file" in bench.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path: Path, capsys):
    assert program.main(["--out", str(tmp_path / "deep" / "report.json")]) == program.EXIT_NO_GPU
    printed = capsys.readouterr().out
    assert printed == f"gpu-check needs a GPU that torch can use, and torch {torch.__version__} sees none here\n"
    assert not (tmp_path / "deep").exists()


@pytest.mark.skipif(
    Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists(), reason="there is a GPU, or its driver at least"
)
def test_make_without_a_gpu_builds_nothing():
    done = subprocess.run(["make", "--no-print-directory", "gpu-check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == "gpu-check needs an NVIDIA GPU, and there is none here (no /dev/nvidiactl, no /dev/dxg)\n"
