"""Named GPUs: what their data sheets promise, which is what a trace's lower bounds on time are made of.

Limits and sizes that only the emulator needs (L1, L2, registers) stand in csrc/simt/profile.cpp; here are the rates,
and what the choice of a kernel depends on. Rates are peaks: no kernel reaches them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
# Fused multiply-adds of 16-bit numbers, summed in fp32, per clock and SM on tensor cores: NVIDIA's white papers of
# Turing, Ampere (GA100, GA102), Ada, Hopper and Blackwell. tf32 runs at half of it, and not at all on sm_75.
_TENSOR_FMAS = {
    "sm_75": 512,
    "sm_80": 1024,
    "sm_86": 256,
    "sm_89": 256,
    "sm_90": 2048,
    "h200": 2048,
    "sm_100": 4096,
    "sm_120": 256,
}
L1_BYTES = 128  # a clock, out of one SM's L1 and shared memory: one wavefront


@dataclass(frozen=True)
class Gpu:
    """A GPU: `profile` is its name in the emulator, `clock` the boost clock in Hz, `dram` bytes per second.

    `fp32_lanes` and `fp64_lanes` are fused multiply-adds per clock and SM.
    """

    name: str
    profile: str
    sms: int
    clock: float
    dram: float
    fp32_lanes: int
    fp64_lanes: int

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
        tensor_cores = self.sms * self.clock * _TENSOR_FMAS[self.profile]
        if dtype == torch.bfloat16 and self.arch < 80:
            return self.fma_rate(dtype)
        if dtype in (torch.float16, torch.bfloat16):
            return tensor_cores
        if dtype == torch.float32 and tf32 and self.arch >= 80:
            return tensor_cores / 2
        return self.fma_rate(dtype)


GPUS = (
    Gpu("T4", "sm_75", 40, 1.59e9, 320e9, 64, 2),
    Gpu("A100", "sm_80", 108, 1.41e9, 2039e9, 64, 32),
    Gpu("RTX 3090", "sm_86", 82, 1.695e9, 936e9, 128, 2),
    Gpu("RTX 4090", "sm_89", 128, 2.52e9, 1008e9, 128, 2),
    Gpu("H100 SXM", "sm_90", 132, 1.98e9, 3350e9, 128, 64),
    Gpu("H200", "h200", 132, 1.98e9, 4800e9, 128, 64),
    Gpu("B200", "sm_100", 148, 1.965e9, 8000e9, 128, 64),
    Gpu("RTX 5090", "sm_120", 170, 2.407e9, 1792e9, 128, 2),
)
DEFAULT_GPU = "H100 SXM"


def find_gpu(name: str) -> Gpu:
    """The GPU with this name, a word of it, or this profile: ``"H100 SXM"``, ``"h100"``, ``"4090"``, ``"sm_90"``.

    Raises
    ------
    ValueError
        When there is none of this name.
    """
    wanted = name.lower()
    for gpu in GPUS:
        if wanted in (gpu.profile, gpu.name.lower(), *gpu.name.lower().split()):
            return gpu
    known = ", ".join(f"{gpu.name} ({gpu.profile})" for gpu in GPUS)
    raise ValueError(f"gpu={name!r} is unknown; choose one of {known}")
