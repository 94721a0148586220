"""The benchmark's GPU: the current CUDA device of this process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from convbound.bench import machine
from convbound.bench.cuda_timer import CudaTimer
from convbound.bench.devices import Device
from convbound.bench.rivals import NATIVE, TORCH
from convbound.bench.timer import CpuTimer, Timer
from convbound.kernels.precision import allows_tf32

# For a torch that does not tell; as large as any L2 so far.
_DEFAULT_L2_BYTES = 128 << 20
_NVIDIA_SMI = "driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"


class Cuda(Device):
    """The current CUDA device."""

    type = "cuda"
    place = torch.device("cuda")
    dtype = torch.float16
    rivals = (TORCH, NATIVE)
    min_copy_bytes, max_copy_bytes = 512 << 20, 1 << 30
    product_edges = (2048, 4096, 8192)

    def start(self) -> dict[str, Any]:
        torch.backends.cudnn.benchmark = True
        # The roof of fp32 is the product that convolutions may use: by tf32 where torch lets cuDNN do so.
        torch.set_float32_matmul_precision("high" if allows_tf32() else "highest")
        return machine.describe() | describe()

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


def describe() -> dict[str, Any]:
    """The GPU, what it is driven by, and its clocks at this moment."""
    properties: Any = torch.cuda.get_device_properties()
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "sms": properties.multi_processor_count,
        "gpu_memory": properties.total_memory,
        "l2": int(getattr(properties, "L2_cache_size", 0)),
        "gpus": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": allows_tf32(),
        "nvidia_smi": nvidia_smi(str(getattr(properties, "uuid", ""))),
    }


def nvidia_smi(uuid: str) -> dict[str, str]:
    """Driver, clocks and power limit of the GPU with this UUID (or of all of them); empty where the tool is not."""
    selected = [f"--id=GPU-{uuid}"] if uuid else []
    command = ["nvidia-smi", f"--query-gpu={_NVIDIA_SMI}", "--format=csv,noheader", *selected]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = done.stdout.partition("\n")[0].split(",")
    names = _NVIDIA_SMI.split(",")
    return dict(zip(names, map(str.strip, values), strict=True)) if len(values) == len(names) else {}
