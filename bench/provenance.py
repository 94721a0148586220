"""Which machine and which versions a result file speaks of."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from convbound.choice.backends import backends
from convbound.kernels.precision import allows_tf32
from convbound.machine import caches, cpu_name

_NVIDIA_SMI = "driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"


def revision() -> str | None:
    """Short git revision of the checkout that this file belongs to, with ``-dirty``; None outside of one."""
    root = Path(__file__).resolve().parents[1]
    try:
        git = ["git", "-C", str(root)]
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True).stdout
        if Path(top.strip()).resolve() != root:
            return None
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=9", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(device: str) -> dict[str, Any]:
    """The machine with the GPU that is measured, if any, the versions and the date, as they go into result files."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu_name(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "caches": caches(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "kernels": {backend.name: backend.kernels for backend in backends() if backend.available},
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "convbound": version("convbound"),
        "triton": version("triton"),
        "revision": revision(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **(describe_gpu() if device == "cuda" else {}),
    }


def describe_gpu() -> dict[str, Any]:
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
