"""``python -m convbound.bench.triton_overhead``: what a call costs the host on Triton's path, without a GPU.

Triton's compiler and launcher are the real ones, and so is all of ours; what is mocked is the CUDA driver below them.
The tensors are on the CPU and nothing is computed. A GPU adds what its driver takes for a launch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

import convbound
from convbound.kernels import ops

VARIABLE = "TRITON_INTERPRET"
CALLS, SAMPLES = 50, 200


class MockedDriver:
    """Triton's driver of one sm_90 GPU, whose launches are remembered in `launched` by grid and arguments."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia import driver

        # The launcher looks for these in the module that it compiles against libcuda.
        driver.PyKernelArg = lambda **of: of
        self.launched: list[tuple[int, tuple[Any, ...]]] | None = None
        self.launcher_cls = driver.CudaLauncher
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (1, 1, 32, 0, 1024),
            get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
            build_signature_metadata=lambda signature: bytes(len(signature)),
            launch=self._launch,
        )
        target = GPUTarget("cuda", 90, 32)
        self.get_current_target = lambda: target
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0

    def _launch(self, grid: int, *rest: Any) -> None:
        if self.launched is not None:
            self.launched.append((grid, rest[-1]))


def mocked() -> MockedDriver:
    """Give Triton this driver, and convbound's ops CPU tensors.

    For a process of its own, which has imported convbound under TRITON_INTERPRET=1 and not used it: the ops then take
    CPU tensors. Triton, which the first call would import, does not interpret, for here the variable is taken back.
    """
    assert ops.INTERPRETING
    assert "triton" not in sys.modules
    os.environ.pop(VARIABLE)
    from triton.runtime import driver

    mock = MockedDriver()
    driver.set_active(mock)
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.current_device = lambda: 0
    return mock


def seconds(call: Callable[[], Any]) -> float:
    """The median over samples of so many calls each, per call."""
    call()

    def sample() -> float:
        begin = perf_counter()
        for _ in range(CALLS):
            call()
        return (perf_counter() - begin) / CALLS

    return min(sample() for _ in range(SAMPLES))


def main() -> None:
    """The command: a line for each kind of call."""
    if not ops.INTERPRETING:
        os.execve(
            sys.executable, [sys.executable, "-m", "convbound.bench.triton_overhead"], {**os.environ, VARIABLE: "1"}
        )
    mocked()
    torch.set_num_threads(1)
    x, w = torch.ones(1, 8, 4, 4), torch.ones(8, 1, 3, 3)
    last = x.contiguous(memory_format=torch.channels_last)
    dense = torch.ones(8, 8, 3, 3)
    bias = torch.ones(8)
    print(f"microseconds per call, fp32, x {tuple(x.shape)}, 3x3, no gradient:")
    for text, call in (
        ("torch.nn.functional.conv2d, depthwise", lambda: F.conv2d(x, w, None, 1, 1, 1, 8)),
        ("depthwise, NCHW", lambda: convbound.conv2d(x, w, None, 1, 1, 1, 8, backend="triton")),
        ("depthwise, NHWC", lambda: convbound.conv2d(last, w, None, 1, 1, 1, 8, backend="triton")),
        ("depthwise with bias, NCHW", lambda: convbound.conv2d(x, w, bias, 1, 1, 1, 8, backend="triton")),
        ("dense, NCHW", lambda: convbound.conv2d(x, dense, None, 1, 1, backend="triton")),
    ):
        print(f"{1e6 * seconds(call):8.1f}  {text}")


if __name__ == "__main__":
    main()
