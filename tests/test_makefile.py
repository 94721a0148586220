"""The Makefile: when the emulator is built, and that README gives the times that ``make help`` gives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


@needs_make
@pytest.mark.parametrize(
    ("goals", "built", "given", "wanted"),
    [
        ("bench", False, {}, "0"),
        ("setup gpu-present", False, {}, "0"),
        ("simt", False, {}, "1"),
        ("test", False, {}, "1"),
        ("lint test", False, {}, "1"),
        ("docs", False, {}, "1"),
        ("bench", True, {}, "1"),
        ("test", True, {"CONVBOUND_SIMT": "0"}, "0"),
        ("bench", False, {"CONVBOUND_SIMT": "1"}, "1"),
    ],
)
def test_the_emulator_is_built_where_it_is_needed_and_then_kept(
    tmp_path: Path, goals: str, built: bool, given: dict[str, str], wanted: str
):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "csrc").mkdir()
    if built:
        (tmp_path / "pytorch_ext").mkdir()
        (tmp_path / "pytorch_ext" / "libconvbound_simt.so").touch()
    environment = {name: value for name, value in os.environ.items() if name not in ("CONVBOUND_SIMT", "MAKEFLAGS")}
    command = ["make", "--dry-run", "--eval", "show: ; @echo emulator=$(CONVBOUND_SIMT) $(OPTIONS)", "show"]
    done = subprocess.run(
        [*command, *goals.split()], cwd=tmp_path, env=environment | given, capture_output=True, text=True
    )
    assert f"emulator={wanted} " in done.stdout, done.stderr
    assert f"CONVBOUND_SIMT={wanted} " in done.stdout


def test_readme_tells_what_make_help_tells():
    told = re.findall(r"^(make \w+) +# (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    helps = re.findall(r"^(\w+):.*## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [command for command, _ in told] == ["make bench", "make test"]
    assert set(told) <= {(f"make {target}", text) for target, text in helps}
