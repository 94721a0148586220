"""What ``backend="auto"`` prefers untried on a CPU: one row per case in which a native kernel was faster than torch.

Each row carries its reason, and a test holds the rows against the committed result files (EVIDENCE). Whatever no row
names goes to torch, and so does everything on an instruction set that was not measured. The conditions look at what
stays constant while a model runs (dtype, layout, groups, filter, stride, dilation), not at batch or image size, so that
compiled code does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from convbound.problem import ConvProblem, Layout, Pass

MEASURED_ISAS = ("avx2", "avx512")
EVIDENCE = "bench/results/cpu*.json"


@dataclass(frozen=True)
class Preference:
    """Prefer the native kernel for one pass of the problems that `applies` accepts."""

    kernel: str
    pass_: Pass
    dtype: torch.dtype
    layout: Layout
    applies: Callable[[ConvProblem], bool]
    reason: str


def _late(problem: ConvProblem) -> bool:
    # Layers of so many channels have small planes; where the filter is wider than these, torch skips more of it.
    return problem.ndim == 2 and max(problem.filter) > 7 and problem.c >= 1024


def _gathers_nothing(problem: ConvProblem) -> bool:
    # From stride 3 along W on, NCHW kernels gather or interleave vectors lane by lane, which is no longer faster.
    return problem.depthwise and problem.stride[-1] <= 2


def _fprop_nchw(problem: ConvProblem) -> bool:
    return _gathers_nothing(problem) and not _late(problem)


def _fprop_nhwc(problem: ConvProblem) -> bool:
    # The kernel has too little to do with each vector that it loads where the filter has depth, height or width 1, and
    # in the 3x3 layers of few channels and large planes with which models begin. Torch is as fast, too, in 3-D where
    # the last vector of channels is not full, in the last layers of models with very large filters or dilation.
    if not problem.depthwise or (problem.ndim > 1 and min(problem.filter) == 1):
        return False
    if problem.ndim == 3:
        return problem.c % 16 == 0
    if problem.ndim == 2 and problem.c >= 512 and (max(problem.filter) > 13 or max(problem.dilation) > 1):
        return False
    return not (problem.c <= 32 and problem.k == problem.c and max(problem.filter) <= 3 and max(problem.stride) == 1)


def _dgrad_nchw(problem: ConvProblem) -> bool:
    # Small planes of a strided dgrad cost more to interleave than to compute.
    small = problem.c >= 256 and max(problem.stride) > 1 and max(problem.filter) % 2 == 0
    return _gathers_nothing(problem) and not _late(problem) and not small


def _dgrad_nhwc(problem: ConvProblem) -> bool:
    # With stride 2 and few taps, both wait for memory.
    light = problem.ndim == 2 and max(problem.stride) > 1 and max(problem.filter) <= 3 and problem.c <= 96
    return problem.depthwise and not _late(problem) and not light


def _wgrad_nhwc(problem: ConvProblem, most_channels: int = 511) -> bool:
    # Of small planes with many channels, the kernel reads short pieces; few taps do not make up for that.
    light = problem.ndim == 2 and max(problem.filter) <= 3 and problem.c > most_channels
    return problem.depthwise and not light


def _wgrad_nhwc_bf16(problem: ConvProblem) -> bool:
    return _wgrad_nhwc(problem, most_channels=191)


def _fprop_nchw_bf16(problem: ConvProblem) -> bool:
    return _fprop_nchw(problem) and (problem.ndim < 3 or min(problem.filter) > 1)


def _dgrad_nhwc_bf16(problem: ConvProblem) -> bool:
    # Where torch has a vector kernel for bf16 (fprop and stride-1 dgrad in 2-D), it is faster in NHWC.
    return _dgrad_nhwc(problem) and (problem.ndim != 2 or max(problem.stride) > 1)


_FP32_REASON = "depthwise in fp32: faster than torch, or as fast, on every measured layer of this kind"
_BF16_REASON = "depthwise in bf16: faster than torch, or as fast, on every measured layer of this kind"

CPU_PREFERENCES = (
    Preference("depthwise_fprop", "fprop", torch.float32, "NCHW", _fprop_nchw, _FP32_REASON),
    Preference("depthwise_fprop", "fprop", torch.float32, "NHWC", _fprop_nhwc, _FP32_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.float32, "NCHW", _dgrad_nchw, _FP32_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.float32, "NHWC", _dgrad_nhwc, _FP32_REASON),
    Preference("depthwise_wgrad", "wgrad", torch.float32, "NCHW", _gathers_nothing, _FP32_REASON),
    Preference("depthwise_wgrad", "wgrad", torch.float32, "NHWC", _wgrad_nhwc, _FP32_REASON),
    Preference("depthwise_fprop", "fprop", torch.bfloat16, "NCHW", _fprop_nchw_bf16, _BF16_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.bfloat16, "NCHW", _dgrad_nchw, _BF16_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.bfloat16, "NHWC", _dgrad_nhwc_bf16, _BF16_REASON),
    Preference("depthwise_wgrad", "wgrad", torch.bfloat16, "NCHW", _gathers_nothing, _BF16_REASON),
    Preference("depthwise_wgrad", "wgrad", torch.bfloat16, "NHWC", _wgrad_nhwc_bf16, _BF16_REASON),
)


def preferred(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout) -> Preference | None:
    """The first row that speaks for a native kernel, or None: torch."""
    for row in CPU_PREFERENCES:
        if (row.pass_, row.dtype, row.layout) == (pass_, dtype, layout) and row.applies(problem):
            return row
    return None
