"""Which machine and which versions a result file speaks of."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from convbound import backends

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# For systems that do not tell; large enough to evict most desktop and server caches.
_DEFAULT_CACHE_BYTES = 64 << 20


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def caches() -> dict[str, int]:
    """Bytes of each data or unified cache that the first core sees, as L1d, L2, L3."""
    sizes = {}
    for index in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            scale = _UNITS.get(size[-1:], 1)
            sizes[f"L{level}" + ("d" if kind == "Data" else "")] = int(size.rstrip("KMG")) * scale
    return sizes


def last_level_cache_bytes() -> int:
    """Bytes of the largest cache."""
    return max(caches().values(), default=_DEFAULT_CACHE_BYTES)


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


def describe() -> dict[str, Any]:
    """The machine, the versions and the date, as they go into every result file."""
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
    }
