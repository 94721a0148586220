"""The devices that calls are timed on: all that differs between a CPU and a GPU, in one object each."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from convbound import machine
from convbound.cuda_timing import CudaTimer
from convbound.kernels.precision import allows_tf32
from convbound.timing import CpuTimer, Timer, keep_freed_pages

NAMES = ("cpu", "cuda")
# For a torch that does not tell; as large as any L2 so far.
_DEFAULT_L2_BYTES = 128 << 20


class Device:
    """Where tensors are and how calls on them are timed; a CPU unless a subclass says otherwise.

    Attributes
    ----------
    type
        ``cpu`` or ``cuda``.
    place
        Where tensors are made.
    dtype
        The dtype of a run that asks for none.
    min_copy_bytes, max_copy_bytes
        Size of the buffers by which the copy is measured: twice the last cache, within these.
    product_edges
        Sizes of the square matrix products by which the peak is measured, the smallest first.
    """

    type = "cpu"
    place = torch.device("cpu")
    dtype = torch.float32
    min_copy_bytes, max_copy_bytes = 128 << 20, 512 << 20
    product_edges: tuple[int, ...] = (384, 768, 1536, 3072)

    def start(self) -> dict[str, Any]:
        """Set up the process for timing, and say what was set that torch does not tell."""
        return {"pages_kept": keep_freed_pages()}

    def cache_bytes(self) -> int:
        """Size of the last cache."""
        return machine.last_level_cache_bytes()

    def timer(self, *, cold: bool) -> Timer:
        """What times calls on this device."""
        return CpuTimer(cold=cold, cache_bytes=self.cache_bytes())

    def host_timer(self) -> Timer:
        """What times the host's part of calls."""
        return CpuTimer(cold=False)

    def copies(self, source: torch.Tensor, target: torch.Tensor) -> dict[str, Callable[[], object]]:
        """Ways of copying one tensor to another as fast as this device can."""
        # The C library's memcpy switches to streaming stores for blocks of this size; ctypes lets other threads run.
        threads = torch.get_num_threads()
        chunk = source.nbytes // threads
        pool = ThreadPoolExecutor(threads)

        def copy_chunk(start: int) -> None:
            ctypes.memmove(target.data_ptr() + start, source.data_ptr() + start, chunk)

        return {
            "torch copy_": partial(target.copy_, source),
            "threaded memcpy": lambda: list(pool.map(copy_chunk, range(0, threads * chunk, chunk))),
        }

    def fma_peak(self, measure: Callable[[torch.dtype], float]) -> float | None:
        """The peak without matrix units, by `measure` of a dtype; None where there are none and every peak is that."""
        return None

    def lost(self) -> str:
        """Why no further call can succeed on this device; empty while it works."""
        return ""

    def release(self) -> None:
        """Give back the memory that no tensor uses any more."""


class Cuda(Device):
    """The current CUDA device."""

    type = "cuda"
    place = torch.device("cuda")
    dtype = torch.float16
    min_copy_bytes, max_copy_bytes = 512 << 20, 1 << 30
    product_edges = (2048, 4096, 8192)

    def start(self) -> dict[str, Any]:
        torch.backends.cudnn.benchmark = True
        # The roof of fp32 is the product that convolutions may use: by tf32 where torch lets cuDNN do so.
        torch.set_float32_matmul_precision("high" if allows_tf32() else "highest")
        return {}

    def cache_bytes(self) -> int:
        return int(getattr(torch.cuda.get_device_properties(), "L2_cache_size", 0)) or _DEFAULT_L2_BYTES

    def timer(self, *, cold: bool) -> Timer:
        return CudaTimer(cold=cold, cache_bytes=self.cache_bytes(), place=self.place)

    def host_timer(self) -> Timer:
        return CpuTimer(cold=False, settle=torch.cuda.synchronize)

    def copies(self, source: torch.Tensor, target: torch.Tensor) -> dict[str, Callable[[], object]]:
        return {"torch copy_": partial(target.copy_, source)}

    def fma_peak(self, measure: Callable[[torch.dtype], float]) -> float | None:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            return measure(torch.float32)
        finally:
            torch.set_float32_matmul_precision(precision)

    def lost(self) -> str:
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:  # an error of a kernel stays with the process: every later call reports it again
            return str(error).partition("\n")[0]
        return ""

    def release(self) -> None:
        torch.cuda.empty_cache()


def find_device(name: str) -> Device:
    """The device with one of the `NAMES`."""
    return Cuda() if name == "cuda" else Device()


def default_device() -> str:
    """A GPU where torch can use one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
