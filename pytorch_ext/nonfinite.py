"""How far kernels spread infinities and NaNs.

A result that depends on a NaN or an infinity, through a tap that meets no padding, is what IEEE arithmetic makes of it
with every kernel: none is missed. Some kernels multiply what a tap meets in the padding, a zero, instead of leaving it
out; zero times infinity is a NaN, so that an infinity or NaN reaches further. The table says which ones, and how far.
docs/nonfinite.md shows it, ``explain`` says it of a kernel, tests/test_nonfinite.py holds it true. The rows of Triton's
kernels stand beside them, in convbound/kernels/nonfinite.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from convbound.kernels import nonfinite as triton
from convbound.problem import PASSES, Pass

WEIGHT_TO_OUTPUTS = "a weight reaches all outputs of its channel, also those where its tap lies in the padding"
WEIGHT_TO_DX = "a weight reaches all of dx in its channel that its tap meets, also where it meets zeros around dy"
DY_TO_TAPS = "dy reaches all taps of its filter, also those that meet padding there"
BOTH_TO_TAPS = "dy and x reach all taps of their filters, also those that meet zeros around the other one"
ALONG_ROWS = "; an element of the input reaches up to 40 columns further in its rows"
TO_GROUPS = "; an element of the input reaches neighbouring groups, too, at the positions that depend on it"


@dataclass(frozen=True)
class Spread:
    """One row of the table: which kernels, by a pattern of names, and how far they spread non-finite values."""

    backend: str  # "cuda" stands for "simt" too, which runs the same kernels
    kernel: str
    pass_: Pass
    layout: str  # "NCHW", "NHWC" or "both"
    text: str


# The first row that matches counts. A kernel that none matches spreads nothing.
SPREADS: tuple[Spread, ...] = (
    Spread("cpu", "depthwise_fprop", "fprop", "NCHW", WEIGHT_TO_OUTPUTS),
    Spread("cpu", "depthwise_dgrad", "dgrad", "NCHW", WEIGHT_TO_DX),
    Spread("cpu", "depthwise_wgrad", "wgrad", "NCHW", DY_TO_TAPS),
    Spread("cpu", "grouped_fprop", "fprop", "both", WEIGHT_TO_OUTPUTS),
    Spread("cpu", "grouped_dgrad", "dgrad", "both", WEIGHT_TO_DX),
    Spread("cpu", "grouped_wgrad", "wgrad", "both", BOTH_TO_TAPS),
    Spread("cuda", "depthwise_fprop_nchw_toeplitz", "fprop", "NCHW", WEIGHT_TO_OUTPUTS + ALONG_ROWS),
    Spread("cuda", "depthwise_dgrad_nchw_toeplitz", "dgrad", "NCHW", WEIGHT_TO_DX + ALONG_ROWS),
    Spread("cuda", "depthwise_fprop_*", "fprop", "both", WEIGHT_TO_OUTPUTS),
    Spread("cuda", "depthwise_dgrad_*", "dgrad", "both", WEIGHT_TO_DX),
    Spread("cuda", "depthwise_wgrad*", "wgrad", "both", BOTH_TO_TAPS),
    Spread("cuda", "dilated_fprop_nchw", "fprop", "NCHW", WEIGHT_TO_OUTPUTS),
    Spread("cuda", "dilated_dgrad_nchw", "dgrad", "NCHW", WEIGHT_TO_DX),
    Spread("cuda", "dilated_wgrad_nhwc", "wgrad", "NHWC", DY_TO_TAPS),
    Spread("cuda", "transposed_dgrad_nchw_stride2", "dgrad", "NCHW", WEIGHT_TO_DX),
    Spread("cuda", "transposed_dgrad_nhwc", "dgrad", "NHWC", WEIGHT_TO_DX),
    Spread("cuda", "grouped_fprop_*_small*", "fprop", "both", WEIGHT_TO_OUTPUTS + TO_GROUPS),
    Spread("cuda", "grouped_dgrad_*_small*", "dgrad", "both", WEIGHT_TO_DX + TO_GROUPS),
    Spread("cuda", "grouped_fprop_*_gemm", "fprop", "both", WEIGHT_TO_OUTPUTS),
    Spread("cuda", "grouped_dgrad_*_gemm", "dgrad", "both", WEIGHT_TO_DX),
    Spread("cuda", "grouped_wgrad_*", "wgrad", "both", BOTH_TO_TAPS),
)


def spread(backend: str, kernel: str, pass_: Pass, layout: str) -> str:
    """How far a backend's kernel spreads non-finite values; empty where it does not."""
    if backend == "triton":
        return "; ".join(text for pattern, text in triton.SPREADS if fnmatchcase(kernel, pattern))
    backend = "cuda" if backend == "simt" else backend
    for row in SPREADS:
        named = row.backend == backend and row.pass_ == pass_ and fnmatchcase(kernel, row.kernel)
        if named and row.layout in (layout, "both"):
            return row.text
    return ""


def markdown() -> str:
    """The table as it stands in docs/nonfinite.md."""
    rows = [(row.backend, row.kernel, row.pass_, row.layout, row.text) for row in SPREADS]
    for pattern, text in triton.SPREADS:
        rows.append(("triton", pattern, next(pass_ for pass_ in PASSES if f"_{pass_}_" in pattern), "both", text))
    lines = ["| backend | kernel | pass | layout | an infinity or NaN of … |", "|---|---|---|---|---|"]
    lines += [
        f"| {backend} | `{kernel}` | {pass_} | {layout} | {text} |" for backend, kernel, pass_, layout, text in rows
    ]
    return "\n".join(lines)
