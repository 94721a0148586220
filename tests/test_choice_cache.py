"""What is remembered: over processes, beside other processes, and whatever state the file is in."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.tuned import new_process, tuning_by

import convbound
from convbound import choice
from convbound.__main__ import main
from convbound.choice import backends, cache, cpu_table
from convbound.choice.cache import Decision, Key
from convbound.problem import ConvProblem

needs_simd = pytest.mark.skipif(
    backends.CPU_ISA not in cpu_table.MEASURED_ISAS, reason="no SIMD kernel on this instruction set"
)
PROBLEM = ConvProblem.parse("mb2g4ic4ih9iw11oc4kh3ph1")
DECISION = Decision(
    Key("a CPU", "a build", str(PROBLEM), "fp32", "NCHW", "fprop"), "cpu", {"cpu": 0.71, "torch": 2.1}, "2026-11-22"
)
DROPPED = Decision(
    DECISION.key._replace(pass_="wgrad"), "torch", {}, "2026-11-22", {"cpu": "WrongResultError: the error is 'inf'"}
)


def infer() -> None:
    convbound.conv2d(torch.randn(PROBLEM.x_shape), torch.randn(PROBLEM.w_shape), padding=1, groups=4)


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("CONVBOUND_CACHE_DIR", str(tmp_path / "new" / "folder"))
    new_process()
    yield
    new_process()


def test_decisions_outlive_the_process():
    for decision in (DECISION, DROPPED):
        cache.remember(decision)
        assert cache.find(decision.key) is decision
    new_process()
    for decision in (DECISION, DROPPED):
        assert cache.find(decision.key) == decision
    assert cache.find(DECISION.key._replace(layout="NHWC")) is None


def test_the_later_decision_counts():
    cache.remember(DECISION)
    later = Decision(DECISION.key, "torch", {"cpu": 3.0, "torch": 2.1}, "2026-11-23")
    cache.remember(later)
    new_process()
    assert cache.find(DECISION.key) == later
    assert len(cache.read()) == 1


def test_what_does_not_last_is_for_this_process():
    cache.remember(DECISION, lasting=False)
    assert cache.find(DECISION.key) == DECISION
    new_process()
    assert cache.find(DECISION.key) is None


def test_reasons():
    assert DECISION.reason == "measured: cpu 0.71 ms, torch 2.1 ms on a CPU, 2026-11-22"
    assert DROPPED.reason == "cpu is not used: WrongResultError: the error is 'inf'"


ROW = DECISION.to_row()
CORRUPT = {
    "nothing": "",
    "half a file": json.dumps([ROW])[:-20],
    "no text": "\udcff",
    "no list": "3",
    "no rows": "[1, 2]",
    "an object": '{"device": 1}',
    "a row that lacks its key": json.dumps([{"backend": "cpu"}]),
    "times that are no numbers": json.dumps([{**ROW, "milliseconds": {"cpu": "fast"}}]),
    "times that are a list": json.dumps([{**ROW, "milliseconds": [1, 2]}]),
    "a time beyond floats": json.dumps([{**ROW, "milliseconds": {"cpu": 10**400}}]),
    "a time beyond integers": json.dumps([{**ROW, "milliseconds": {"cpu": 1}}]).replace("1}", "1" * 5000 + "}"),
    "a time that is no number": json.dumps([{**ROW, "milliseconds": {"cpu": float("nan")}}]),
    "a time below zero": json.dumps([{**ROW, "milliseconds": {"cpu": -1.0}}]),
    "reasons that are no texts": json.dumps([{**ROW, "dropped": {"cpu": 1}}]),
    "an unknown pass": json.dumps([{**ROW, "pass_": "sideways"}]),
    "a key that is no text": json.dumps([{**ROW, "device": ["a CPU"]}]),
    "deep nesting": "[" * 100_000,
    "too much": " " * (16 << 20) + "[]",
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_file_is_worth_one_warning_and_is_replaced(kind: str):
    cache.location().parent.mkdir(parents=True)
    cache.location().write_bytes(CORRUPT[kind].encode(errors="surrogateescape"))
    with pytest.warns(RuntimeWarning, match=r"cannot use what it measured before: .*tuning\.json"):
        assert cache.find(DECISION.key) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.remember(DECISION)
    new_process()
    assert cache.find(DECISION.key) == DECISION


def test_old_decisions_make_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "MOST_BYTES", 2 * len(json.dumps(ROW)) + 20)
    for day in "123":
        key = DECISION.key._replace(problem=f"problem {day}")
        cache.remember(Decision(key, "cpu", DECISION.milliseconds, DECISION.date))
    assert [key.problem for key in cache.read()] == ["problem 2", "problem 3"]


@pytest.mark.parametrize("name", ["tuning.json", "tuning.lock", "tuning.new"])
@pytest.mark.parametrize("kind", ["pipe", "link", "broken link", "folder"])
def test_what_is_put_in_the_way_is_left_alone(kind: str, name: str, tmp_path: Path):
    target, path = tmp_path / "target", cache.location().with_name(name)
    path.parent.mkdir(parents=True)
    target.write_text("kept")
    {
        "pipe": os.mkfifo,
        "link": lambda path: path.symlink_to(target),
        "broken link": lambda path: path.symlink_to(tmp_path / "nowhere"),
        "folder": Path.mkdir,
    }[kind](path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for decision in (DECISION, DROPPED):
            cache.remember(decision)
            assert cache.find(decision.key) == decision
    assert target.read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()
    # Only the file and its lock are of concern, and each cannot be read, written or both: once.
    assert len(warned) == {"tuning.json": 2, "tuning.lock": 1, "tuning.new": 0}[name]


def test_a_lock_that_is_never_given_back_stops_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.0)
    cache.remember(DECISION)
    with cache.location().with_name("tuning.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.warns(RuntimeWarning, match="cannot keep what it measured: .*another process keeps it locked"):
            cache.remember(DROPPED)
        monkeypatch.setattr(cache, "_LOCK_SECONDS", 60.0)
        cache.remember(DROPPED)  # waits no more
    assert list(cache.read()) == [DECISION.key]


def test_the_file_is_the_users_alone():
    cache.remember(DECISION)
    path = cache.location()
    path.chmod(0o644)
    cache.remember(DROPPED)
    assert {entry.name: oct(stat.S_IMODE(entry.stat().st_mode)) for entry in (path.parent, *path.parent.iterdir())} == {
        path.parent.name: "0o700",
        "tuning.json": "0o600",
        "tuning.lock": "0o600",
    }


def test_a_folder_that_everybody_may_write_into_keeps_nothing():
    cache.location().parent.mkdir(parents=True)
    cache.location().parent.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="cannot keep what it measured: .*everybody may write into it"):
        cache.remember(DECISION)
    assert cache.find(DECISION.key) is DECISION
    assert not cache.location().exists()


def test_a_file_that_cannot_be_written_is_worth_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVBOUND_CACHE_DIR", str(tmp_path / "file" / "folder"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for decision in (DECISION, DROPPED):
            cache.remember(decision)
            assert cache.find(decision.key) == decision
    assert {str(warning.message).partition(": ")[0] for warning in warned} == {
        "convbound cannot use what it measured before",
        "convbound cannot keep what it measured",
    }
    assert len(warned) == 2


@needs_simd
def test_tuning_goes_on_without_a_home(monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    with tuning_by() as tuned:
        monkeypatch.delenv("CONVBOUND_CACHE_DIR")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", homeless)
        new_process()
        with pytest.warns(RuntimeWarning, match="Could not determine home directory"):
            infer()
        infer()
        assert tuned.passes == ["fprop"]
        assert "home directory" in choice.state()


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CONVBOUND_CACHE_DIR")
    monkeypatch.setenv("HOME", "/h")
    assert cache.location() == Path("/h/.cache/convbound/tuning.json")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.location() == Path("/x/convbound/tuning.json")
    monkeypatch.setenv("XDG_CACHE_HOME", "x")  # which its standard says to ignore
    assert cache.location() == Path("/h/.cache/convbound/tuning.json")
    monkeypatch.setenv("CONVBOUND_CACHE_DIR", "/c")
    assert cache.location() == Path("/c/tuning.json")
    monkeypatch.setenv("CONVBOUND_CACHE_DIR", " ~/c ")
    assert cache.location() == Path("/h/c/tuning.json")
    monkeypatch.setenv("CONVBOUND_CACHE_DIR", " ")
    assert cache.location() == Path("/h/.cache/convbound/tuning.json")


def test_processes_keep_each_others_decisions():
    """Two write fifty each at once; a third reads whole files all the while."""
    code = """
import sys
from convbound.choice.cache import Decision, Key, remember
for i in range(50):
    key = Key("device", "build", f"problem {i}", "fp32", "NCHW", sys.argv[1])
    remember(Decision(key, "cpu", {"cpu": 1.0}, "today"))
"""
    writers = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, name]) for name in ("fprop", "dgrad")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(writer.poll() is None for writer in writers):
            cache.read()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(cache.read()) == 100


@needs_simd
def test_another_build_or_device_is_measured_anew(monkeypatch: pytest.MonkeyPatch):
    with tuning_by() as tuned:
        infer()
        for count, change in (
            (1, lambda: None),
            (2, lambda: monkeypatch.setattr(choice, "build", lambda device: "another torch")),
            (3, lambda: torch.set_num_threads(2)),
            (4, lambda: monkeypatch.setattr(backends, "CPU_ISA", "avx3")),
            (4, lambda: torch.set_num_threads(2)),
        ):
            change()
            new_process()
            infer()
            assert len(tuned.passes) == count
        assert len(cache.read()) == 4


def test_the_build_names_sources_torch_and_cudnn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    name = choice.build.__wrapped__("cuda")
    assert name.startswith(f"convbound {convbound.__version__} (")
    assert name.endswith(f"torch {torch.__version__}, cuDNN 91300")
    assert "cuDNN" not in choice.build("cpu")


@needs_simd
@pytest.mark.parametrize(
    ("backend", "milliseconds"),
    [("gone", {"cpu": 2.0, "gone": 1.0, "torch": 2.0}), ("torch", {"gone": 2.0, "torch": 1.0})],
    ids=["won by a backend that is gone", "without a backend that is here"],
)
def test_a_decision_among_other_backends_is_made_anew(backend: str, milliseconds: dict[str, float]):
    with tuning_by() as tuned:
        infer()
        (decision,) = cache.read().values()
        cache.remember(Decision(decision.key, backend, milliseconds, "2026-11-22"))
        new_process()
        infer()
        assert tuned.passes == ["fprop", "fprop"]


def test_the_command_line_shows_and_clears(capsys: pytest.CaptureFixture[str]):
    assert main(["tuning"]) == 0
    assert "nothing was measured so far" in capsys.readouterr().out
    for decision in (DECISION, DROPPED):
        cache.remember(decision)
    main(["tuning"])
    assert capsys.readouterr().out.splitlines() == [
        f"tuning is on for cuda tensors (CONVBOUND_TUNE is not set), cache {cache.location()}",
        "a CPU; a build",
        f"  {PROBLEM}  fp32 NCHW fprop  cpu    cpu 0.71 ms, torch 2.1 ms, 2026-11-22",
        f"  {PROBLEM}  fp32 NCHW wgrad  torch  cpu is not used: WrongResultError: the error is 'inf', 2026-11-22",
    ]
    main(["tuning", "--clear"])
    assert capsys.readouterr().out == f"forgot 2 decisions of {cache.location()}\n"
    assert cache.read() == {}
    assert not cache.location().exists()


def test_the_command_line_prints_no_escapes(capsys: pytest.CaptureFixture[str]):
    row = {**ROW, "device": "\x1b]0;a title\a", "date": "\x1b[31m", "dropped": {"cpu": "\u009b2J\r"}}
    cache.location().parent.mkdir(parents=True)
    cache.location().write_text(json.dumps([row]))
    assert main(["tuning"]) == 0
    printed = capsys.readouterr().out
    assert "\\x1b]0;a title\\x07; a build" in printed
    assert all(line.isprintable() for line in printed.splitlines())


def test_the_report_names_the_cache(capsys: pytest.CaptureFixture[str]):
    main([])
    assert f"cache {cache.location()}" in capsys.readouterr().out
