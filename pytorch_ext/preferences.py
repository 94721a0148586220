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

from convbound.problem import LAYOUTS, PASSES, ConvProblem, Layout, Pass

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
    isas: tuple[str, ...] = MEASURED_ISAS


def _late(problem: ConvProblem) -> bool:
    # Layers of so many channels have small planes; where the filter is wider than these, torch skips more of it.
    return problem.ndim == 2 and max(problem.filter) > 7 and problem.c >= 1024


def _overlaps_twice(problem: ConvProblem) -> bool:
    # With a large stride, each input (in dgrad, each output) meets two positions of the filter or more.
    return problem.stride[-1] > 2 and problem.filter[-1] >= 2 * problem.stride[-1]


def _gathers(problem: ConvProblem) -> bool:
    # From stride 3 along W on, NCHW kernels gather or interleave lane by lane; torch, where channels fill its vectors,
    # is faster with many taps per output, or few.
    many_or_few = _overlaps_twice(problem) or problem.filter[-1] <= 3
    return problem.stride[-1] > 2 and many_or_few and problem.c % 16 == 0


def _fprop_nchw(problem: ConvProblem) -> bool:
    return problem.depthwise and not _gathers(problem) and not _late(problem)


def _fprop_nhwc(problem: ConvProblem) -> bool:
    # The kernel has too little to do with each vector that it loads where the filter has depth, height or width 1, with
    # a stride beyond 4, and in the 3x3 layers of few channels and large planes with which models begin. Torch is as
    # fast, too, in 3-D where the last vector of channels is not full, and in the last layers of models with very large
    # filters.
    if not problem.depthwise or (problem.ndim > 1 and min(problem.filter) == 1) or max(problem.stride) > 4:
        return False
    if problem.ndim == 3:
        return problem.c % 16 == 0
    if problem.ndim == 2 and problem.c >= 512 and max(problem.filter) > 13:
        return False
    return not (problem.c <= 32 and problem.k == problem.c and max(problem.filter) <= 3 and max(problem.stride) == 1)


def _dgrad_nchw(problem: ConvProblem) -> bool:
    # Small planes of a strided dgrad cost more to interleave than to compute.
    small = problem.c >= 256 and max(problem.stride) > 1 and max(problem.filter) % 2 == 0
    return problem.depthwise and not (_gathers(problem) or _late(problem) or small)


def _dgrad_nhwc(problem: ConvProblem) -> bool:
    return problem.depthwise and not (_late(problem) or _overlaps_twice(problem))


def _depthwise(problem: ConvProblem) -> bool:
    return problem.depthwise


def _wgrad_nchw(problem: ConvProblem) -> bool:
    # Gathered lane by lane, for few taps.
    return problem.depthwise and not (problem.stride[-1] > 2 and problem.filter[-1] <= 3)


def _wgrad_nhwc_bf16(problem: ConvProblem) -> bool:
    # Of small planes with many channels, the kernel reads short pieces; few taps do not make up for that.
    light = problem.ndim == 2 and max(problem.filter) <= 3 and problem.c > 191
    return problem.depthwise and not light


def _fprop_nchw_bf16(problem: ConvProblem) -> bool:
    return _fprop_nchw(problem) and (problem.ndim < 3 or min(problem.filter) > 1)


def _dgrad_nhwc_bf16(problem: ConvProblem) -> bool:
    # Where torch has a vector kernel for bf16 (fprop and stride-1 dgrad in 2-D), it is faster in NHWC.
    return _dgrad_nhwc(problem) and (problem.ndim != 2 or max(problem.stride) > 1)


_FP32_REASON = "depthwise in fp32: faster than torch, or as fast, on every measured layer of this kind"
_BF16_REASON = "depthwise in bf16: faster than torch, or as fast, on every measured layer of this kind"

CPU_PREFERENCES: tuple[Preference, ...] = (
    Preference("depthwise_fprop", "fprop", torch.float32, "NCHW", _fprop_nchw, _FP32_REASON),
    Preference("depthwise_fprop", "fprop", torch.float32, "NHWC", _fprop_nhwc, _FP32_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.float32, "NCHW", _dgrad_nchw, _FP32_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.float32, "NHWC", _dgrad_nhwc, _FP32_REASON),
    Preference("depthwise_wgrad", "wgrad", torch.float32, "NCHW", _wgrad_nchw, _FP32_REASON),
    Preference("depthwise_wgrad", "wgrad", torch.float32, "NHWC", _depthwise, _FP32_REASON),
    Preference("depthwise_fprop", "fprop", torch.bfloat16, "NCHW", _fprop_nchw_bf16, _BF16_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.bfloat16, "NCHW", _dgrad_nchw, _BF16_REASON),
    Preference("depthwise_dgrad", "dgrad", torch.bfloat16, "NHWC", _dgrad_nhwc_bf16, _BF16_REASON, ("avx512",)),
    Preference("depthwise_wgrad", "wgrad", torch.bfloat16, "NCHW", _wgrad_nchw, _BF16_REASON),
    Preference("depthwise_wgrad", "wgrad", torch.bfloat16, "NHWC", _wgrad_nhwc_bf16, _BF16_REASON, ("avx512",)),
    # Torch has vector kernels for bf16 only with AVX-512.
    Preference("depthwise_fprop", "fprop", torch.bfloat16, "NHWC", _depthwise, _BF16_REASON, ("avx2",)),
    Preference("depthwise_dgrad", "dgrad", torch.bfloat16, "NHWC", _depthwise, _BF16_REASON, ("avx2",)),
    Preference("depthwise_wgrad", "wgrad", torch.bfloat16, "NHWC", _depthwise, _BF16_REASON, ("avx2",)),
)


def _grouped(problem: ConvProblem, most: int, most_in_3d: int = 4) -> bool:
    # 4 to `most` channels per group, and the kinds of layers that were measured.
    c, k = problem.c // problem.groups, problem.k // problem.groups
    if problem.groups == 1 or not (4 <= c <= most and c <= k <= 4 * c):
        return False
    if problem.ndim == 1:
        return c <= 16 and problem.filter[0] <= 64 and problem.stride[0] <= 4 and problem.dilation[0] <= 8
    # In 3-D torch skips the planes that are all padding, which counts where it is fast otherwise.
    few = problem.ndim == 2 or c <= most_in_3d
    return few and max(problem.filter) <= 4 and max(problem.stride) <= 2 and max(problem.dilation) == 1


def _grouped_fprop(problem: ConvProblem) -> bool:
    # With 32 channels, torch's matrix products fill their vectors.
    return _grouped(problem, 24)


def _grouped_wgrad(problem: ConvProblem) -> bool:
    return _grouped(problem, 24, 8)


def _grouped_dgrad(problem: ConvProblem) -> bool:
    # Torch inserts zeros where dgrad has a stride.
    return _grouped(problem, 24) or (_grouped(problem, 32) and min(problem.stride) == 2)


def _grouped_fprop_avx2(problem: ConvProblem) -> bool:
    # AVX2's vectors are half as wide, and so are torch's, which are full with half the channels.
    return _grouped(problem, 12)


def _grouped_dgrad_avx2(problem: ConvProblem) -> bool:
    return _grouped(problem, 16 if problem.ndim == 1 else 8) or (_grouped(problem, 32) and min(problem.stride) == 2)


def _grouped_wgrad_avx2(problem: ConvProblem) -> bool:
    return _grouped(problem, 16 if problem.ndim == 1 else 8, 8)


def _grouped_nhwc(problem: ConvProblem) -> bool:
    # Transposing each tile pays where torch's own vectors, which lie along channels, are mostly empty. With 8 channels
    # (RegNet-Y) it does so for single passes, not in training: torch's backward computes both gradients at once. So
    # auto takes the same kernels for all passes, or none.
    return _grouped(problem, 16 if problem.ndim == 1 else 4) and (problem.ndim == 1 or max(problem.stride) == 1)


_GROUPED_REASON = "few channels per group in fp32: faster than torch on every measured layer of this kind"

CPU_PREFERENCES += (
    Preference("grouped_fprop", "fprop", torch.float32, "NCHW", _grouped_fprop, _GROUPED_REASON, ("avx512",)),
    Preference("grouped_dgrad", "dgrad", torch.float32, "NCHW", _grouped_dgrad, _GROUPED_REASON, ("avx512",)),
    Preference("grouped_wgrad", "wgrad", torch.float32, "NCHW", _grouped_wgrad, _GROUPED_REASON, ("avx512",)),
    Preference("grouped_fprop", "fprop", torch.float32, "NCHW", _grouped_fprop_avx2, _GROUPED_REASON, ("avx2",)),
    Preference("grouped_dgrad", "dgrad", torch.float32, "NCHW", _grouped_dgrad_avx2, _GROUPED_REASON, ("avx2",)),
    Preference("grouped_wgrad", "wgrad", torch.float32, "NCHW", _grouped_wgrad_avx2, _GROUPED_REASON, ("avx2",)),
    Preference("grouped_fprop", "fprop", torch.float32, "NHWC", _grouped_nhwc, _GROUPED_REASON),
    Preference("grouped_dgrad", "dgrad", torch.float32, "NHWC", _grouped_nhwc, _GROUPED_REASON),
    Preference("grouped_wgrad", "wgrad", torch.float32, "NHWC", _grouped_nhwc, _GROUPED_REASON),
)


def _few_channels(problem: ConvProblem) -> bool:
    return problem.groups > 1 and 2 <= problem.c // problem.groups <= 32


def _torch_computes_fp16() -> bool:
    """Whether torch has vector kernels for fp16, with the instructions of some processors; the rows below had none."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_fp16", True))


_FP16_REASON = "in fp16: many times faster than torch, which has no vector kernels for it on this processor"

if not _torch_computes_fp16():
    CPU_PREFERENCES += tuple(
        Preference(f"{family}_{pass_}", pass_, torch.float16, layout, applies, f"{family} {_FP16_REASON}")
        for family, applies in (("depthwise", _depthwise), ("grouped", _few_channels))
        for pass_ in PASSES
        for layout in LAYOUTS
    )


def preferred(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, isa: str) -> Preference | None:
    """The first row that speaks for a native kernel on an instruction set, or None: torch."""
    for row in CPU_PREFERENCES:
        case = (row.pass_, row.dtype, row.layout) == (pass_, dtype, layout) and isa in row.isas
        if case and row.applies(problem):
            return row
    return None
