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
    ("goals", "before", "given", "wanted"),
    [
        ("bench", None, {}, "0"),
        ("setup gpu-present", None, {}, "0"),
        ("simt", None, {}, "1"),
        ("test", None, {}, "1"),
        ("lint test", None, {}, "1"),
        ("test", "0", {}, "1"),
        ("bench", "0", {}, "0"),
        ("bench", "1", {}, "1"),
        ("test", "1", {"CONVBOUND_SIMT": "0"}, "0"),
        ("bench", None, {"CONVBOUND_SIMT": "1"}, "1"),
    ],
)
def test_the_emulator_is_built_where_it_is_needed_and_then_kept(
    tmp_path: Path, goals: str, before: str | None, given: dict[str, str], wanted: str
):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "csrc").mkdir()
    if before is not None:  # a build before this one, with or without it
        (tmp_path / ".venv" / "stamps").mkdir(parents=True)
        (tmp_path / ".venv" / "stamps" / "options").write_text(f"CONVBOUND_CUDA= CONVBOUND_SIMT={before} CXX=")
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
