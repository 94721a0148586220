"""The emulator and correct kernels under ASan + UBSan and under TSan with fibers; TSan must see a missing barrier."""

import os
import subprocess
from pathlib import Path

import pytest

from emulator_build import build_program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sanitizers")


def test_address_and_undefined(folder: Path) -> None:
    program = build_program("asan", folder, ["depthwise3x3.cu", "features.cu", "launches.cu", "wrong_kernels.cu"])
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


def test_thread(folder: Path) -> None:
    program = build_program("tsan", folder, ["depthwise3x3.cu", "features.cu", "wrong_kernels.cu"])
    environment = {**os.environ, "TSAN_OPTIONS": "exitcode=66"}
    right = ["shared_memory-forward", "warp_intrinsics-random", "async_ring-eager", "matrix_product-half"]
    for name in right:
        done = subprocess.run([program, name], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    for name in ["missing_barrier", "missing_second_barrier", "shuffles_are_no_barriers"]:
        done = subprocess.run([program, name], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 66, f"{name}: ThreadSanitizer saw nothing\n{done.stdout}{done.stderr[-4000:]}"
        assert "data race" in done.stderr
