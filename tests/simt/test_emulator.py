"""The CUDA emulator's own tests: C++ programs of named cases, built by g++ with and without instrumentation."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from emulator_build import CSRC, HERE, build_program

SOURCES = ["depthwise3x3.cu", "features.cu", "launches.cu", "wrong_kernels.cu", "traces.cu"]


def case_names(source: str) -> list[str]:
    """The names that a source registers: `{"name", …}` in a table, `add("name", …)` for instrumented builds."""
    text = (HERE / source).read_text()
    return re.findall(r'^ +\{"([\w-]+)", ', text, re.MULTILINE) + re.findall(r'^ +add\("([\w-]+)"', text, re.MULTILINE)


FAST = [name for source in SOURCES if source != "traces.cu" for name in case_names(source)]
CHECKED = [name for source in SOURCES for name in case_names(source)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all builds of this session."""
    return tmp_path_factory.mktemp("emulator")


@pytest.fixture(scope="session")
def programs(folder: Path) -> dict[str, Path]:
    """The test program, with and without instrumentation."""
    return {kind: build_program(kind, folder, SOURCES) for kind in ("fast", "checked")}


def run_case(program: Path, name: str) -> None:
    done = subprocess.run([program, name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FAST)
def test_fast(programs: dict[str, Path], name: str) -> None:
    run_case(programs["fast"], name)


@pytest.mark.parametrize("name", CHECKED)
def test_checked(programs: dict[str, Path], name: str) -> None:
    run_case(programs["checked"], name)


@pytest.mark.parametrize(("kind", "names"), [("fast", FAST), ("checked", CHECKED)])
def test_every_case_is_run(programs: dict[str, Path], kind: str, names: list[str]) -> None:
    listed = subprocess.run([programs[kind], "--list"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed) == sorted(names)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("source", ["depthwise3x3.cu", "device_headers.cu"])
def test_same_source_builds_with_nvcc(source: str, architecture: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    output = str(tmp_path / "out.o")
    command = [nvcc, "-std=c++20", f"-arch={architecture}", f"-I{CSRC.parent}", "-c", str(HERE / source), "-o", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
