"""The devices that the benchmark runs on: all that differs between a CPU and a GPU, in one object each."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from convbound import backends
from convbound.bench import machine
from convbound.bench.rivals import TORCH
from convbound.bench.timer import CpuTimer, Timer, keep_freed_pages

NAMES = ("cpu", "cuda")


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
    rivals
        How torch competes, unless more is asked for.
    min_copy_bytes, max_copy_bytes
        Size of the buffers by which the copy is measured: twice the last cache, within these.
    product_edges
        Sizes of the square matrix products by which the peak is measured, the smallest first.
    """

    type = "cpu"
    place = torch.device("cpu")
    dtype = torch.float32
    rivals: tuple[str, ...] = (TORCH,)
    min_copy_bytes, max_copy_bytes = 128 << 20, 512 << 20
    product_edges: tuple[int, ...] = (384, 768, 1536, 3072)

    def start(self) -> dict[str, Any]:
        """Set up the process for a run, and describe the machine and what was set."""
        return machine.describe() | {"pages_kept": keep_freed_pages()}

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


def find_device(name: str) -> Device:
    """The device with one of the `NAMES`."""
    if name == "cuda":
        from convbound.bench.cuda import Cuda

        return Cuda()
    return Device()


def default_device() -> str:
    """A GPU where torch can use one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def our_backends(device: str) -> list[str]:
    """Backends of ours that can be measured on a device."""
    rows = [row for row in backends() if row.available and not row.emulated and device in row.devices]
    return [row.name for row in rows if row.name != TORCH]
