"""Named GPUs: what their data sheets promise, which is what a trace's lower bounds on time are made of.

Limits and sizes that only the emulator needs (L1, L2, registers) stand in csrc/simt/profile.cpp; here are the rates,
and what the choice of a kernel depends on. Rates are peaks: no kernel reaches them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

SECTOR = 32  # bytes, the least that L2 and DRAM move
L2_PORT_BYTES = 64  # a clock, between one SM and L2, in either direction
# Of the emulator's profiles: 10 * major + minor of the compute capability, KiB of shared memory that a block can have.
PROFILES = {
    "sm_75": (75, 64),
    "sm_80": (80, 163),
    "sm_86": (86, 99),
    "sm_89": (89, 99),
    "sm_90": (90, 227),
    "h200": (90, 227),
    "sm_100": (100, 227),
    "sm_120": (120, 99),
}
L1_BYTES = 128  # a clock, out of one SM's L1 and shared memory: one wavefront


@dataclass(frozen=True)
class Gpu:
    """A GPU: `profile` is its name in the emulator, `clock` the boost clock in Hz, `dram` bytes per second.

    `fp32_lanes` and `fp64_lanes` are fused multiply-adds per clock and SM; `tensor_lanes` those of the tensor cores in
    16 bits, summed in fp32. tf32 runs at half of it, and not at all on sm_75.
    """

    name: str
    profile: str
    sms: int
    clock: float
    dram: float
    fp32_lanes: int
    fp64_lanes: int
    tensor_lanes: int

    @property
    def arch(self) -> int:
        """10 * major + minor of its compute capability."""
        return PROFILES[self.profile][0]

    @property
    def shared_per_block(self) -> int:
        """Bytes of shared memory that a block can have, if it asks."""
        return PROFILES[self.profile][1] * 1024

    def fma_rate(self, dtype: torch.dtype) -> float:
        """Fused multiply-adds per second outside of the tensor cores; 16-bit types accumulate in fp32."""
        return self.sms * self.clock * (self.fp64_lanes if dtype == torch.float64 else self.fp32_lanes)

    def product_rate(self, dtype: torch.dtype, *, tf32: bool) -> float:
        """Fused multiply-adds per second of a dense matrix product: on tensor cores where they take the dtype."""
        tensor_cores = self.sms * self.clock * self.tensor_lanes
        if dtype == torch.bfloat16 and self.arch < 80:
            return self.fma_rate(dtype)
        if dtype in (torch.float16, torch.bfloat16):
            return tensor_cores
        if dtype == torch.float32 and tf32 and self.arch >= 80:
            return tensor_cores / 2
        return self.fma_rate(dtype)


# NVIDIA's data sheets and white papers. A10 and L4 sum in fp32 at the full rate, where GeForce cards of their
# generations do so at half.
GPUS = (
    Gpu("T4", "sm_75", 40, 1.59e9, 320e9, 64, 2, 512),
    Gpu("A100", "sm_80", 108, 1.41e9, 2039e9, 64, 32, 1024),
    Gpu("RTX 3090", "sm_86", 82, 1.695e9, 936e9, 128, 2, 256),
    Gpu("RTX 4090", "sm_89", 128, 2.52e9, 1008e9, 128, 2, 256),
    Gpu("H100 SXM", "sm_90", 132, 1.98e9, 3350e9, 128, 64, 2048),
    Gpu("H200", "h200", 132, 1.98e9, 4800e9, 128, 64, 2048),
    Gpu("B200", "sm_100", 148, 1.965e9, 8000e9, 128, 64, 4096),
    Gpu("RTX 5090", "sm_120", 170, 2.407e9, 1792e9, 128, 2, 256),
    # Of the same profiles as GPUs above, which "sm_86" and "sm_89" name.
    Gpu("A10", "sm_86", 72, 1.695e9, 600e9, 128, 2, 512),
    Gpu("L4", "sm_89", 58, 2.04e9, 300e9, 128, 2, 512),
)
DEFAULT_GPU = "H100 SXM"
OWN_GPU = "name=TEXT,sms=N,gbps=N[,clock=GHZ,profile=sm_90,fp32=LANES,fp64=LANES]"
NAMED_GPUS = ", ".join(f"{gpu.name} ({gpu.profile})" for gpu in GPUS)
_MOST = 1e6  # of any number of a GPU's


def find_gpu(name: str) -> Gpu:
    """The GPU with this name, a word of it, or this profile: ``"H100 SXM"``, ``"h100"``, ``"4090"``, ``"sm_90"``.

    One that is not in the list is given by its data sheet: ``"name=L40S,sms=142,gbps=864,clock=2.52,profile=sm_89"``.
    `sms` counts its multiprocessors, `gbps` is DRAM's bandwidth in 1e9 bytes per second, `clock` in GHz, `fp32` and
    `fp64` are fused multiply-adds per clock and multiprocessor. The last four are those of the first GPU in the list
    with this `profile`, which is sm_90, where they are not given.

    Raises
    ------
    ValueError
        When there is none of this name, or a part of a data sheet is missing or wrong.
    """
    if "=" in name:
        return _own_gpu(name)
    wanted = name.lower()
    for gpu in GPUS:
        if wanted in (gpu.profile, gpu.name.lower(), *gpu.name.lower().split()):
            return gpu
    raise ValueError(f"gpu={name!r} is unknown; choose one of {NAMED_GPUS}, or give {OWN_GPU}")


def _own_gpu(text: str) -> Gpu:
    """A GPU by its data sheet, as :func:`find_gpu` takes it."""
    parts: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in ("name", "sms", "gbps", "clock", "profile", "fp32", "fp64"):
            raise ValueError(f"gpu: {part!r} is no part of a GPU; write {OWN_GPU}")
        if key in parts:
            raise ValueError(f"gpu: {key}= is given twice")
        parts[key] = value
    for key in ("name", "sms", "gbps"):
        if not parts.get(key):
            raise ValueError(f"gpu: {key}= is missing; write {OWN_GPU}")
    profile = parts.get("profile", "sm_90")
    if profile not in PROFILES:
        raise ValueError(f"gpu: profile={profile!r} must be one of {', '.join(PROFILES)}")

    def number(key: str, default: float, whole: bool = True) -> float:
        try:
            value = float(parts.get(key, default))
        except ValueError:
            value = math.nan
        if not 0 < value <= _MOST or (whole and value != int(value)):
            raise ValueError(
                f"gpu: {key}={parts[key]!r} must be a {'whole ' * whole}number above 0 and at most {_MOST:.0f}"
            )
        return value

    like = next(gpu for gpu in GPUS if gpu.profile == profile)
    return replace(
        like,
        name=parts["name"],
        sms=int(number("sms", 0)),
        clock=1e9 * number("clock", like.clock / 1e9, whole=False),
        dram=1e9 * number("gbps", 0, whole=False),
        fp32_lanes=int(number("fp32", like.fp32_lanes)),
        fp64_lanes=int(number("fp64", like.fp64_lanes)),
    )
