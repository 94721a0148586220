"""The compiled parts and their sources: a checkout whose kernels were edited and not built says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convbound import _library

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the Python side, without compiled parts, beside one kernel from which they are said to be built."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "build_info.json")
    shutil.copytree(ROOT / "pytorch_ext", tmp_path / "convbound", ignore=ignored)
    for name in ("kernels", "bench"):
        (tmp_path / "convbound" / name).symlink_to(ROOT / name)
    (tmp_path / "csrc" / "naive").mkdir(parents=True)
    shutil.copy(ROOT / "csrc" / "source_hash.py", tmp_path / "csrc")
    (tmp_path / "csrc" / "naive" / "kernel.cu").write_text("int tile = 8;\n")
    built = subprocess.run(
        [sys.executable, "-c", "import source_hash; print(source_hash.source_hash())"],
        cwd=tmp_path / "csrc",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (tmp_path / "convbound" / "build_info.json").write_text(json.dumps({"source_hash": built}))
    return tmp_path


def outdated(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr(_library, "PACKAGE", checkout / "convbound")
    _library.build_info.cache_clear()
    try:
        return _library._changed_sources()
    finally:
        monkeypatch.undo()
        _library.build_info.cache_clear()


def test_sources_that_changed_since_the_build_are_seen(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    kernel = checkout / "csrc" / "naive" / "kernel.cu"
    assert outdated(checkout, monkeypatch) is None
    kernel.write_text("int tile = 16;\n")
    assert "have changed since the kernels in use were built; rebuild with: make setup" in str(
        outdated(checkout, monkeypatch)
    )
    kernel.write_text("int tile = 8;\n")
    assert outdated(checkout, monkeypatch) is None
    (checkout / "csrc" / "naive" / "new.cu").touch()
    assert outdated(checkout, monkeypatch) is not None


def test_nothing_is_compared_without_sources_or_without_a_build(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    (checkout / "csrc" / "naive" / "kernel.cu").write_text("int tile = 16;\n")
    (checkout / "csrc").rename(checkout / "elsewhere")
    assert outdated(checkout, monkeypatch) is None  # an installed package
    (checkout / "elsewhere").rename(checkout / "csrc")
    assert outdated(checkout, monkeypatch) is not None
    (checkout / "convbound" / "build_info.json").unlink()
    assert outdated(checkout, monkeypatch) is None


def test_the_import_warns(checkout: Path):
    (checkout / "csrc" / "naive" / "kernel.cu").write_text("int tile = 16;\n")
    done = subprocess.run(
        [sys.executable, "-m", "convbound"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    assert "RuntimeWarning: convbound: the files of" in done.stderr
    assert f"outdated  the files of {checkout / 'csrc'} have changed" in done.stdout
