"""This machine's processor: its name, and the sizes of its caches."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# For systems that do not tell; large enough to evict most desktop and server caches.
_DEFAULT_CACHE_BYTES = 64 << 20


@cache
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
