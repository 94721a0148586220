"""The CUDA emulator's own tests: C++ programs of named cases, built by g++ with and without instrumentation."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest
from emulator_build import EMULATOR_KERNELS, EMULATOR_TESTS, HERE, ROOT, build_program


def case_names(source: str) -> list[str]:
    """The names that a source registers: `{"name", …}` in a table, `add("name", …)` for instrumented builds."""
    text = (HERE / source).read_text()
    return re.findall(r'^ +\{"([\w-]+)", ', text, re.MULTILINE) + re.findall(r'^ +add\("([\w-]+)"', text, re.MULTILINE)


FAST = [name for source in EMULATOR_KERNELS if source != "traces.cu" for name in case_names(source)]
CHECKED = [name for source in EMULATOR_KERNELS for name in case_names(source)]


@lru_cache
def program(kind: str) -> Path:
    """The test program, with or without instrumentation."""
    return build_program(kind, "emulator", EMULATOR_TESTS)


def run_case(kind: str, name: str) -> None:
    done = subprocess.run([program(kind), name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FAST)
def test_fast(name: str) -> None:
    run_case("fast", name)


@pytest.mark.parametrize("name", CHECKED)
def test_checked(name: str) -> None:
    run_case("checked", name)


@pytest.mark.parametrize(("kind", "names"), [("fast", FAST), ("checked", CHECKED)])
def test_every_case_is_run(kind: str, names: list[str]) -> None:
    listed = subprocess.run([program(kind), "--list"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed) == sorted(names)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("source", ["depthwise3x3.cu", "device_headers.cu"])
def test_same_source_builds_with_nvcc(source: str, architecture: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    output = str(tmp_path / "out.o")
    command = [nvcc, "-std=c++20", f"-arch={architecture}", f"-I{ROOT}", "-c", str(HERE / source), "-o", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
