"""``--model``: a user's own model as a suite, and one clear line for what cannot be one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from convbound.bench import cli, models
from convbound.bench.rows import read_result
from convbound.command_line import EXIT_OK, EXIT_USAGE

SOURCE = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ConvTranspose2d(8, 4, 2, 2),
    )

class Nets:
    ready = net()

def plain(): return nn.Linear(4, 4)
def number(): return 3
def broken(): raise KeyError("no weights")
constant = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("name", ["net", "Nets.ready"])
def test_the_layers_are_a_suite(file: Path, name: str):
    place = f"{file}:{name}"
    suite, profile = models.recorded(
        place, [(2, 3, 16, 16)], device="cpu", dtype=torch.float32, gpu="A100", measure=False
    )
    assert suite.name == place
    assert [(layer.name, layer.count, layer.transposed, str(layer.problem)) for layer in suite.layers] == [
        ("0", 1, False, "mb2ic3ih16oc8kh3sh2ph1"),
        ("1", 2, False, "mb2g8ic8ih8oc8kh3ph1"),
        ("4", 1, True, "mb2ic4ih16oc8kh2sh2"),
    ]
    assert len(profile.layers) == 4


def test_a_module_is_imported_by_name():
    assert isinstance(models.load_model("torch.nn:ReLU"), torch.nn.ReLU)


def test_a_run_measures_and_prints_it(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    arguments = ["--model", f"{file}:net", "--input", "1,3,16,16", "--pass", "fprop", "--layout", "NCHW", "--device"]
    assert cli.main([*arguments, "cpu", "--time", "1", "--plain", "--out", str(out)]) == EXIT_OK
    printed = capsys.readouterr().out
    assert "4 convolutions in 4 rows" in printed
    result = read_result(out / "result.json")
    assert {(row.layer, row.count) for row in result.rows} == {("0", 1), ("1", 2), ("4", 1)}
    assert result.options["models"] == [f"{file}:net"]
    with (out / "profile.csv").open(encoding="utf-8") as text:
        assert len(list(csv.DictReader(text))) == 5


def test_the_layers_are_listed_without_measuring(file: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--model", f"{file}:net", "--input", "1,3,16,16", "--list"]) == EXIT_OK
    printed = capsys.readouterr().out
    assert "3 layers x 3 passes" in printed
    assert " ms" not in printed


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        ("{}:nt", "1,3,8,8", "--model: {} has no 'nt'; did you mean net?"),
        ("{}:Nets.raedy", "1,3,8,8", "--model: {} has no 'Nets.raedy'; did you mean ready?"),
        ("{}:plain", "1,4", "--model: {}:plain runs no convolution on 1,4; it has 20 parameters"),
        ("{}:number", "1,4", "--model: {}:number() returned a int, not a torch.nn.Module"),
        ("{}:constant", "1,4", "--model: {}:constant is a int, neither a torch.nn.Module nor a function"),
        ("{}:broken", "1,4", "--model: {}:broken() raised KeyError: 'no weights'"),
        ("{}:net", "1,4,8,8", "--input: {}:net refuses 1,4,8,8: RuntimeError: "),
        ("{}:net", "1,3,8,8 1,3", "--input: {}:net refuses 1,3,8,8 1,3: TypeError: "),
        ("{}", "1,3,8,8", "must be module:callable or path/to/file.py:callable"),
        ("nowhere.py:net", "1,3,8,8", "--model: cannot read nowhere.py: No such file or directory"),
        ("no_such_module:net", "1,3,8,8", "--model: cannot import no_such_module: ModuleNotFoundError: "),
    ],
)
def test_a_bad_model_is_refused_in_one_line(
    file: Path, place: str, shape: str, message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--model", place.format(file), "--input", *shape.split(), "--list"])
    error = capsys.readouterr().err
    assert leaving.value.code == EXIT_USAGE
    assert message.format(file) in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_python_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "model.py"
    path.write_text("def net(:")
    with pytest.raises(SystemExit):
        cli.main(["--model", f"{path}:net", "--input", "1,3"])
    error = capsys.readouterr().err
    assert f"--model: cannot import {path}: SyntaxError: " in error
    assert error.count("\n") == 1
