"""Triton's own launch path, with the CUDA driver mocked (convbound.bench.triton_overhead), in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import triton_rows  # noqa: F401  (skips where there is no Triton)

START = """
import torch
import convbound
from convbound.bench import triton_overhead
driver = triton_overhead.mocked()
from triton.runtime.jit import JITFunction
launched, through_triton, run = [], [], JITFunction.run
driver.launched = launched
JITFunction.run = lambda kernel, *args, **named: through_triton.append(kernel) or run(kernel, *args, **named)
"""


def printed(code: str, cache: Path) -> list[str]:
    """What a process prints in which Triton compiles and launches on a mocked driver."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(cache)}
    result = subprocess.run([sys.executable, "-c", START + code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_only_the_first_launch_of_a_kind_goes_through_triton(tmp_path: Path):
    code = """
memory = torch.ones(129)
aligned, shifted = (memory[begin : begin + 128].view(1, 8, 4, 4) for begin in (0, 1))
assert aligned.data_ptr() % 16 == 0
w = torch.ones(8, 1, 3, 3)
for x in (aligned, aligned, shifted, aligned, shifted):
    y = convbound.conv2d(x, w, padding=1, groups=8, backend="triton")
    grid, (x_ptr, w_ptr, bias_ptr, y_ptr, *rest) = launched[-1]
    assert (x_ptr.data_ptr(), w_ptr.data_ptr(), bias_ptr) == (x.data_ptr(), w.data_ptr(), None)
    assert y_ptr.data_ptr() == y.data_ptr()
    assert tuple(rest) == launched[0][1][4:]
    print(grid, len(through_triton))
"""
    assert printed(code, tmp_path) == ["1 1", "1 1", "1 2", "1 2", "1 2"]


def test_a_pass_of_two_launches_with_a_workspace(tmp_path: Path):
    code = """
x, w = torch.ones(2, 4, 6, 6), torch.ones(4, 2, 3, 3, requires_grad=True)
for _ in range(2):
    convbound.conv2d(x, w, groups=2, backend="triton").sum().backward()
    fprop, partial, whole = launched[-3:]
    assert partial[1][2].data_ptr() == whole[1][0].data_ptr()  # the workspace
    print(len(launched), len(through_triton))
"""
    assert printed(code, tmp_path) == ["3 3", "6 3"]
