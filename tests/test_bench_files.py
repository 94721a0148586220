"""Result files are not trusted: what they say is checked, shown harmlessly, and written over no link."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from convbound.bench import cli, runner
from convbound.bench.report import README_END, README_START, escaped, markdown, print_screen
from convbound.bench.rows import RowWriter, read_result
from convbound.command_line import EXIT_USAGE
from convbound.roofs import Roofs

COMMITTED = Path(cli.__file__).parent / "results" / "cpu.json"
NASTY = "\x1b[2J\n| <img src=x> | `a` ![b](http://c) [/red] $\\frac$ \u202e" + README_END
README = f"# Head\n\n{README_START}\nold\n{README_END}\n\ntail\n"


@pytest.fixture
def record() -> dict[str, Any]:
    """A run of one case, with a second row that failed, and the host's overhead."""
    found: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    ours = found["rows"][3]
    torchs = next(row for row in found["rows"][3:] if row["backend"] == "torch" and row["layout"] == ours["layout"])
    assert ours["backend"] == "cpu"
    failed = {**ours, "layer": "another", "status": "failed", "message": "no", "median_ms": None}
    failed |= {"speedup_same_layout": None, "speedup_best_layout": None, "gflops": None}
    found["rows"] = [*found["rows"][:3], ours, torchs, failed]
    return found


@pytest.fixture
def file(record: dict[str, Any], tmp_path: Path) -> Path:
    return written(tmp_path, record)


def written(folder: Path, record: Any) -> Path:
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    return folder / "result.json"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert leaving.value.code == EXIT_USAGE
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    return error


def test_texts_of_a_result_are_shown_and_do_nothing(record, tmp_path, capsys):
    record["rows"].append({**record["rows"][4], "backend": NASTY})
    for row in record["rows"][3:]:
        row.update(model=NASTY, layer=NASTY, kernel=NASTY, message=NASTY, role=NASTY, family=NASTY, bound=NASTY)
    record["machine"] |= {"cpu": NASTY, "date": NASTY, "kernels": {NASTY: NASTY}, "caches": {NASTY: 1 << 20}}
    record["roofs"] |= {"copy_method": NASTY, "peak_gflops": {"fp32": 100.0, NASTY: 50.0}}
    readme = tmp_path / "README.md"
    readme.write_text(README, encoding="utf-8")
    assert cli.main(["report", str(written(tmp_path, record)), "--readme", str(readme)]) == cli.EXIT_OK
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert (tmp_path / "docs" / "roofline.png").read_bytes().startswith(b"\x89PNG")
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"# Head\n\n{README_START}\n")
    assert text.endswith(f"{README_END}\n\ntail\n")
    assert text.count("<") == 2
    assert re.findall(r"\[.*?\]\(.*?\)", text) == ["[Roofline](docs/roofline.png)"]
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {3}
    # Twice, and the block is still found.
    assert cli.main(["report", str(tmp_path / "result.json"), "--readme", str(readme)]) == cli.EXIT_OK
    assert readme.read_text(encoding="utf-8") == text


def test_plain_texts_stay_as_they_are():
    plain = "mobilenet_v2: native C++ (avx512), 1.99x (1.42x), L1d 32 KB; torch 2.13.0+cpu!"
    assert escaped(plain) == plain


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(record: Any) -> None:
        for step in path[:-1]:
            record = record[step]
        record[path[-1]] = to

    return apply


def without(*path: Any) -> Callable[[dict[str, Any]], None]:
    def apply(record: Any) -> None:
        for step in path[:-1]:
            record = record[step]
        del record[path[-1]]

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("rows"), "rows is missing"),
        (change("rows", to={}), "rows is dict and not list"),
        (change("rows", 0, to=[1]), "result file"),
        (change("schema", to=2), "schema 2 is not 1"),
        (without("machine", "cpu"), "cpu is missing"),
        (change("machine", "caches", to={"L1": "big"}), "L1 is str and not int"),
        (change("machine", "gpu", to="H200"), "sms is missing"),
        (change("roofs", "copy_gbps", to=0), "a roof of 0 is not positive"),
        (change("roofs", "peak_gflops", to={"fp32": None}), "fp32 is NoneType and not int"),
        (change("roofs", to={}), "copy_gbps is missing"),
        (change("roofs", "repeats", to="4"), "repeats is str and not int"),
        (change("roofs", "spread", to=[1, 2]), "spread is list and not dict"),
        (change("roofs", "spread", to={"copy": [1]}), "the spread of copy is [1] and not two numbers"),
        (change("roofs", "spread", to={"copy": [1, "2"]}), "the spread of copy is [1, '2'] and not two numbers"),
        (change("roofs", "spread", to={"copy": [0, 2]}), "a roof of 0 is not positive"),
        (change("rows", 3, "threads", to="two"), "threads is str"),
        (change("rows", 3, "problem", to="mb1"), "problem 'mb1'"),
        (change("rows", 3, "pass", to="sideways"), "'sideways' is not one of fprop, dgrad, wgrad"),
        (change("rows", 3, "layout", to="CHWN"), "'CHWN' is not one of"),
        (change("rows", 3, "dtype", to="fp8"), "'fp8' is not one of"),
        (change("rows", 3, "status", to="fine"), "'fine' is not one of"),
        (change("rows", 3, "median_ms", to="fast"), "median_ms is str"),
        (change("rows", 3, "median_ms", to=-1), "median_ms=-1 is not positive"),
        (change("rows", 3, "speedup_same_layout", to=0), "speedup_same_layout=0 is not positive"),
        (change("rows", 3, "gflops", to=10**400), "beyond 1e30"),
        (change("rows", 3, "gflops", to=float("inf")), "Infinity is not a number of a result"),
        (change("rows", 3, "count", to=1.5), "count is float and not int"),
        (without("rows", 3, "model"), "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_result_of_another_shape_is_refused_in_one_line(spoil, message, record, tmp_path, capsys):
    spoil(record)
    error = refused(capsys, "report", written(tmp_path, record))
    assert "is not a result file of convbound.bench" in error
    assert message in error


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "\x1b[2J", " " * (16 << 20) + "{}"], ids=["empty", "deep", "", "much"]
)
def test_what_is_no_json_is_refused_in_one_line(text, tmp_path, capsys):
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    assert "is not a result file of convbound.bench" in refused(capsys, "report", tmp_path / "result.json")


def test_a_pipe_or_a_link_is_no_result(file, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to(file)
    assert "not a regular file" in refused(capsys, "report", tmp_path / "pipe.json")
    assert "is a symbolic link; name the file itself" in refused(capsys, "report", tmp_path / "link.json")


def test_the_half_line_of_a_killed_run_is_left_out(record, tmp_path):
    rows = record.pop("rows")
    lines = [json.dumps(line) for line in (record, *rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines)[:-100], encoding="utf-8")
    assert len(read_result(tmp_path / "rows.jsonl").rows) == len(rows) - 1


@pytest.mark.parametrize("link", ["docs/roofline.png", "docs", "README.md"])
def test_a_report_writes_through_no_link(link, file, tmp_path, capsys):
    checkout, target = tmp_path / "checkout", tmp_path / "target"
    (checkout / "docs").mkdir(parents=True)
    (checkout / "README.md").write_text(README, encoding="utf-8")
    if link == "docs":
        target.mkdir()
        (checkout / "docs").rmdir()
    else:
        target.write_text(README, encoding="utf-8")
        (checkout / link).unlink(missing_ok=True)
    (checkout / link).symlink_to(target)
    assert "symbolic link" in refused(capsys, "report", file, "--readme", checkout / "README.md")
    assert (checkout / link).is_symlink()
    assert not any(target.iterdir()) if link == "docs" else target.read_text(encoding="utf-8") == README
    assert (checkout / "README.md").read_text(encoding="utf-8") == README


def test_a_readme_shows_no_run_without_a_time(record, tmp_path, capsys):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    record["rows"] = [row for row in record["rows"] if row["backend"] == "torch"]
    error = refused(capsys, "report", written(tmp_path, record), "--readme", tmp_path / "README.md")
    assert "no row of ours has a time" in error
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == README


def test_a_device_is_no_place_for_a_picture(file, capsys):
    assert "/dev/null: it is not a regular file" in refused(capsys, "report", file, "--plot", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_readme_keeps_its_mode(file, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README, encoding="utf-8")
    readme.chmod(0o664)
    assert cli.main(["report", str(file), "--readme", str(readme)]) == cli.EXIT_OK
    assert readme.stat().st_mode & 0o777 == 0o664


@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr(runner, "measure_roofs", lambda device, dtypes: Roofs(20.0, "given", {"fp32": 100.0}))
    monkeypatch.setattr(runner, "measure_case", lambda case, *rest: ([], 0.0))


RUN = ("--problem", "mb1g8ic8ih8oc8kh3ph1", "--plain", "--out")


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "result.json"])
def test_a_run_writes_through_no_link(name, tmp_path, capsys):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "target")
    assert "--out: cannot write to" in refused(capsys, *RUN, tmp_path / "out")
    assert (tmp_path / "target").read_text() == "kept"


@pytest.mark.usefixtures("light")
def test_a_full_disk_ends_a_run_in_one_line(tmp_path, monkeypatch, capsys):
    def append(self: RowWriter, rows: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RowWriter, "append", append)
    assert "No space left on device" in refused(capsys, *RUN, tmp_path)


def test_the_committed_run_fits_one_screen():
    shown = io.StringIO()
    print_screen(read_result(COMMITTED), Console(file=shown, width=100))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert 24 <= len(lines) <= 36  # the names of the files follow
    assert max(map(len, lines)) <= 100
    models = [line.split()[0] for line in lines if " fp32 " in line and "roofs" not in line]
    assert models == ["convnext_t", "dcgan", "deeplabv3_aspp", "efficientnet_b0", "mobilenet_v2", "resnext50"]
    naive = next(i for i, line in enumerate(lines) if line.strip().startswith("dcgan"))
    assert "auto       1.00x  1.00x  1.00x" in lines[naive + 1]
    assert any("cpu, auto  1.99x" in line for line in lines)


def test_the_table_file_has_no_colours(file, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["report", str(file)]) == cli.EXIT_OK
    assert all(line.isprintable() for line in (tmp_path / "table.txt").read_text(encoding="utf-8").splitlines())


def test_many_failures_stand_in_the_file_alone(record, tmp_path, capsys):
    record["rows"] += [record["rows"][-1]] * 9
    assert cli.main(["report", str(written(tmp_path, record))]) == cli.EXIT_OK
    printed = capsys.readouterr().out
    assert printed.count("FAILED cpu") == 5
    assert "and 5 more FAILED in the long table" in printed
    assert (tmp_path / "table.txt").read_text(encoding="utf-8").count("FAILED cpu") == 10


def test_roofs_with_their_spread_are_printed(record, tmp_path, capsys):
    record["roofs"] |= {"copy_gbps": 20.0, "peak_gflops": {"fp32": 100.0}, "repeats": 4}
    record["roofs"]["spread"] = {"copy": [10.0, 25.0], "fp32": [80.0, 120.0]}
    assert cli.main(["report", str(written(tmp_path, record))]) == cli.EXIT_OK
    assert (
        "measured roofs: copy 20.0 GB/s (10.0-25.0) (torch copy_), 100 GFLOP/s fp32 (80.0-120); ridge at 5.0 (3.2-12.0)"
        " FLOP/byte; medians of 4 measurements (least-most)" in capsys.readouterr().out
    )


def test_the_readme_shows_the_committed_run_and_what_auto_makes_of_it():
    block = markdown(read_result(COMMITTED), "docs/roofline.png")
    readme = Path(__file__).resolve().parent.parent / "README.md"
    assert f"{README_START}\n{block}\n{README_END}" in readme.read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in block.splitlines()]
    models = {names[0]: (names[1:], with_auto[1:]) for names, with_auto in itertools.pairwise(lines)}
    naive, left_to_torch = models["| dcgan"]
    assert all(cell.startswith("0.0") for cell in naive)
    assert all(cell.startswith("1.00x") for cell in left_to_torch)
    ours, taken = models["| convnext_t"]
    assert ours == taken
