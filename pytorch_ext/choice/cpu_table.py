"""What ``auto`` takes on a CPU untried: a row per case in which native kernels were measured faster than torch.

A row is a family of kernels in one pass, dtype and layout; its rules name the problems that torch serves nevertheless,
and say why. A test holds the table against the committed result files (EVIDENCE). Whatever no row names goes to torch.
Rules look at what stays constant while a model runs (channels, groups, filter, stride, dilation), not at batch or image
size, so that compiled code does not depend on these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from convbound.choice.backends import Choice
from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES, ConvProblem, Layout, Pass

MEASURED_ISAS = ("avx2", "avx512")
EVIDENCE = "bench/results/cpu*.json"


@dataclass(frozen=True)
class Rule:
    """Torch serves the problems that `holds` accepts, for this reason; it may name the problem's figures."""

    reason: str
    holds: Callable[[ConvProblem], bool]

    def refusal(self, problem: ConvProblem) -> str | None:
        """Why native kernels do not serve the problem, or None if they may."""
        if not self.holds(problem):
            return None
        p = problem
        figures = {
            "stride": p.stride[-1],
            "width": p.filter[-1],
            "c": p.c,
            "per_group": p.c // p.groups,
            "ndim": p.ndim,
        }
        return self.reason.format(**figures)


@dataclass(frozen=True)
class Row:
    """Native kernels serve one pass of a family of problems, unless one of the rules says why not."""

    family: str
    pass_: Pass
    dtype: torch.dtype
    layout: Layout
    rules: tuple[Rule, ...] = ()
    isas: tuple[str, ...] = MEASURED_ISAS

    def choose(self, problem: ConvProblem) -> Choice:
        """The native kernels, or torch by the first rule that speaks for it."""
        for rule in self.rules:
            if reason := rule.refusal(problem):
                return Choice("torch", reason)
        dtype = DTYPE_NAMES[self.dtype]
        if dtype == "fp16":
            return Choice("cpu", f"{self.family} in fp16: torch has no vector kernels for it on this processor")
        return Choice("cpu", f"{self.family} in {dtype}: as fast as torch, or faster, on every layer measured")


def look_up(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, isa: str) -> Choice:
    """What the table says of one pass on an instruction set."""
    if row := find_row(problem, pass_, dtype, layout, isa):
        return row.choose(problem)
    if family(problem) == "dense":
        return Choice("torch", "dense (groups=1): there are no native kernels for it but naive ones")
    name = f"{family(problem)} {pass_} in {DTYPE_NAMES[dtype]} {layout}"
    return Choice("torch", f"{name}: no native kernels were measured faster on {isa}")


def find_row(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, isa: str) -> Row | None:
    """The row that a problem belongs to: there is one at most."""
    for row in TABLE:
        case = (row.pass_, row.dtype, row.layout, row.family) == (pass_, dtype, layout, family(problem))
        if case and isa in row.isas:
            return row
    return None


def family(problem: ConvProblem) -> str:
    """Which of the table's families a problem belongs to."""
    return "depthwise" if problem.depthwise else "grouped" if problem.groups > 1 else "dense"


def _overlaps(problem: ConvProblem) -> bool:
    return problem.stride[-1] > 2 and problem.filter[-1] >= 2 * problem.stride[-1]


# Where channels do not fill torch's vectors of 16, and from 4 taps on that do not overlap, ours are faster.
_GATHERED = Rule(
    "stride {stride} along W is gathered lane by lane; torch is faster with a filter {width} wide",
    lambda p: p.stride[-1] > 2 and p.c % 16 == 0 and (p.filter[-1] <= 3 or _overlaps(p)),
)
_GATHERED_FOR_FEW_TAPS = Rule(
    "stride {stride} along W is gathered lane by lane, for a filter only {width} wide; torch is faster",
    lambda p: p.stride[-1] > 2 and p.filter[-1] <= 3,
)
_OVERLAPPING = Rule("a filter {width} wide overlaps itself at stride {stride}; torch is faster", _overlaps)
_SMALL_PLANES = Rule(
    "layers of {c} channels have small planes; torch skips the taps of a larger filter that lie outside",
    lambda p: p.ndim == 2 and p.c >= 1024 and max(p.filter) > 7,
)
_SMALL_PLANES_NHWC = Rule(
    "layers of {c} channels have small planes; with a filter {width} wide torch is as fast",
    lambda p: p.ndim == 2 and p.c >= 512 and max(p.filter) > 13,
)
_SMALL_PLANES_INTERLEAVED = Rule(
    "layers of {c} channels have small planes; to interleave those of a strided dgrad costs more than to compute them",
    lambda p: p.c >= 256 and max(p.stride) > 1 and max(p.filter) % 2 == 0,
)
_SMALL_PLANES_FEW_TAPS = Rule(
    "layers of {c} channels have small planes, which the kernel reads in short pieces; for few taps torch is faster",
    lambda p: p.ndim == 2 and p.c > 191 and max(p.filter) <= 3,
)
_THIN = Rule(
    "with a filter of depth, height or width 1 there is too little to do with each vector that is loaded",
    lambda p: p.ndim > 1 and min(p.filter) == 1,
)
_THIN_IN_3D = Rule(_THIN.reason, lambda p: p.ndim == 3 and _THIN.holds(p))
_FAR_STRIDES = Rule(
    "with a stride above 4 there is too little to do with each vector that is loaded", lambda p: max(p.stride) > 4
)
_RAGGED_IN_3D = Rule(
    "{c} channels leave the last vector of each position in part empty; torch is as fast in 3-D",
    lambda p: p.ndim == 3 and p.c % 16 != 0,
)
_FIRST_LAYERS = Rule(
    "few taps and {c} channels, as in the large planes with which models begin: torch is as fast",
    lambda p: p.ndim < 3 and p.c <= 32 and p.k == p.c and max(p.filter) <= 3 and max(p.stride) == 1,
)
_VECTORISED_BY_TORCH = Rule(
    "torch has vector kernels for this in bf16 with AVX-512, and is faster",
    lambda p: p.ndim == 2 and max(p.stride) == 1,
)

_FPROP_NCHW = (_GATHERED, _SMALL_PLANES)
_DGRAD_NCHW = (_GATHERED, _SMALL_PLANES, _SMALL_PLANES_INTERLEAVED)
_FPROP_NHWC = (_THIN, _FAR_STRIDES, _RAGGED_IN_3D, _SMALL_PLANES_NHWC, _FIRST_LAYERS)
_DGRAD_NHWC = (_SMALL_PLANES, _OVERLAPPING)
_FP32, _BF16 = torch.float32, torch.bfloat16

TABLE: tuple[Row, ...] = (
    Row("depthwise", "fprop", _FP32, "NCHW", _FPROP_NCHW),
    Row("depthwise", "fprop", _FP32, "NHWC", _FPROP_NHWC),
    Row("depthwise", "dgrad", _FP32, "NCHW", _DGRAD_NCHW),
    Row("depthwise", "dgrad", _FP32, "NHWC", _DGRAD_NHWC),
    Row("depthwise", "wgrad", _FP32, "NCHW", (_GATHERED_FOR_FEW_TAPS,)),
    Row("depthwise", "wgrad", _FP32, "NHWC"),
    Row("depthwise", "fprop", _BF16, "NCHW", (*_FPROP_NCHW, _THIN_IN_3D)),
    Row("depthwise", "dgrad", _BF16, "NCHW", _DGRAD_NCHW),
    Row("depthwise", "wgrad", _BF16, "NCHW", (_GATHERED_FOR_FEW_TAPS,)),
    # In NHWC torch has vector kernels for bf16, but only with AVX-512; fprop is torch's there.
    Row("depthwise", "dgrad", _BF16, "NHWC", (*_DGRAD_NHWC, _VECTORISED_BY_TORCH), ("avx512",)),
    Row("depthwise", "wgrad", _BF16, "NHWC", (_SMALL_PLANES_FEW_TAPS,), ("avx512",)),
    *(Row("depthwise", pass_, _BF16, "NHWC", (), ("avx2",)) for pass_ in PASSES),
)


def _beyond_measured(problem: ConvProblem) -> bool:
    c, k = problem.c // problem.groups, problem.k // problem.groups
    filter, stride, dilation = (64, 4, 8) if problem.ndim == 1 else (4, 2, 1)
    large = max(problem.filter) > filter or max(problem.stride) > stride or max(problem.dilation) > dilation
    return c < 4 or not c <= k <= 4 * c or large


_UNMEASURED = Rule(
    "grouped layers were measured with 4 channels per group or more, 1 to 4 filters per channel, and filters up to 4, "
    "stride 2 and no dilation (in 1-D 64, 4 and 8)",
    _beyond_measured,
)


def _above(one: int, two: int, three: int, *, strided: int = 0) -> Rule:
    """More channels per group than so many in one, two and three dimensions, and in 2-D with a stride.

    With more, torch's matrix products fill their vectors, which are half as wide with AVX2. In 3-D torch skips planes
    that are all padding. Where dgrad has a stride, torch inserts zeros.
    """

    def holds(problem: ConvProblem) -> bool:
        most = (one, two, three)[problem.ndim - 1]
        if problem.ndim == 2 and min(problem.stride) == 2:
            most = max(most, strided)
        return problem.c // problem.groups > most

    return Rule("with {per_group} channels per group in {ndim}-D torch is faster", holds)


# Transposing each tile pays where torch's own vectors, which lie along channels, are mostly empty. With 8 channels
# (RegNet-Y) it does so for single passes, not in training: torch's backward computes both gradients at once. So auto
# takes the same kernels for all passes, or none.
_TRANSPOSED_TILES = Rule(
    "with a stride, to transpose each tile of NHWC costs more than it gains over torch",
    lambda p: p.ndim > 1 and max(p.stride) > 1,
)
_GROUPED_NHWC = (_UNMEASURED, _above(16, 4, 4), _TRANSPOSED_TILES)

TABLE += (
    Row("grouped", "fprop", _FP32, "NCHW", (_UNMEASURED, _above(16, 24, 4)), ("avx512",)),
    Row("grouped", "dgrad", _FP32, "NCHW", (_UNMEASURED, _above(16, 24, 4, strided=32)), ("avx512",)),
    Row("grouped", "wgrad", _FP32, "NCHW", (_UNMEASURED, _above(16, 24, 8)), ("avx512",)),
    Row("grouped", "fprop", _FP32, "NCHW", (_UNMEASURED, _above(12, 12, 4)), ("avx2",)),
    Row("grouped", "dgrad", _FP32, "NCHW", (_UNMEASURED, _above(16, 8, 4, strided=32)), ("avx2",)),
    Row("grouped", "wgrad", _FP32, "NCHW", (_UNMEASURED, _above(16, 8, 8)), ("avx2",)),
    *(Row("grouped", pass_, _FP32, "NHWC", _GROUPED_NHWC) for pass_ in PASSES),
)

_NAIVE = Rule(
    "native kernels take 2 to 32 channels per group, not {per_group}", lambda p: not 2 <= p.c // p.groups <= 32
)


def _torch_computes_fp16() -> bool:
    """Whether torch has vector kernels for fp16, with the instructions of some processors; the rows below had none."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_fp16", True))


if not _torch_computes_fp16():
    TABLE += tuple(
        Row(family_, pass_, torch.float16, layout, rules)
        for family_, rules in (("depthwise", ()), ("grouped", (_NAIVE,)))
        for pass_ in PASSES
        for layout in LAYOUTS
    )
