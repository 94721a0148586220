"""``convbound.explain``: which kernel would serve each pass of a problem, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from convbound import nonfinite
from convbound.choice import backends, choose
from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES, ConvProblem, Layout, Pass
from convbound.serving import serving_kernel


@dataclass(frozen=True)
class PassExplanation:
    """The backend and the kernel of one pass, why this backend, how a GPU's kernel is launched, what it spreads."""

    pass_: Pass
    backend: str
    kernel: str
    reason: str
    launch: str = ""
    nonfinite: str = ""  # how far the kernel spreads infinities and NaNs, see convbound/nonfinite.py


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``str()`` of it is a report."""

    problem: ConvProblem
    dtype: torch.dtype
    layout: Layout
    device: str
    passes: tuple[PassExplanation, ...]

    def __str__(self) -> str:
        p = self.problem
        sizes = "  ".join(
            f"{name} {'x'.join(map(str, shape))}"
            for name, shape in zip("xwy", (p.x_shape, p.w_shape, p.y_shape), strict=True)
        )
        kernel_width = max(len(row.kernel) for row in self.passes)
        rows = []
        for row in self.passes:
            rows.append(f"  {row.pass_}  {row.backend:6} {row.kernel:{kernel_width}}  {row.reason}")
            if row.launch:
                rows.append(f"{'':16}{row.launch}")
            if row.nonfinite:
                rows.append(f"{'':16}non-finite values: {row.nonfinite}")
        heading = f"{p}  {p.family}, {DTYPE_NAMES[self.dtype]} {self.layout} on {self.device}"
        return "\n".join(
            [
                heading + (f"  ({p.origin})" if p.origin else ""),
                f"  {sizes}",
                f"  per pass: {p.flops / 1e6:,.1f} MFLOP over {p.compulsory_bytes(self.dtype) / 1e6:,.2f} MB "
                f"compulsory, {p.arithmetic_intensity(self.dtype):.2f} FLOP/byte",
                *rows,
            ]
        )


def explain(
    problem: ConvProblem | str,
    *,
    dtype: torch.dtype = torch.float32,
    layout: Layout = "NCHW",
    device: str | torch.device = "cpu",
    backend: str | None = None,
) -> Explanation:
    """Which backend and kernel would serve each pass of a problem, and why; nothing is run.

    Parameters
    ----------
    problem
        A :class:`ConvProblem` or its string, such as ``"mb8g144ic144ih56oc144kh3sh2ph1"``.
    dtype, layout, device
        Of the tensors; layout is ``"NCHW"`` or ``"NHWC"`` in any number of dimensions.
    backend
        As for :func:`convbound.conv2d`.

    Raises
    ------
    ValueError
        When the string is no problem, or an argument is none of the values it can have.

    Examples
    --------
    >>> print(convbound.explain("mb8g144ic144ih56oc144kh3ph1"))  # doctest: +SKIP
    """
    if isinstance(problem, str):
        problem = ConvProblem.parse(problem)
    if dtype not in DTYPE_NAMES:
        raise ValueError(f"explain: dtype={dtype} must be one of {', '.join(map(str, DTYPE_NAMES))}")
    if layout not in LAYOUTS:
        raise ValueError(f"explain: layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    backend = backend or backends.default_backend()
    device = torch.device(device)
    backends.check_name("explain", backend)
    passes = []
    for pass_ in PASSES:
        choice = choose(problem, pass_, dtype, layout, device, backend)
        serving, reason = choice.backend, choice.reason
        kernel, launch = "-", ""
        refusal = None
        if backend != "auto":
            refusal = backends.refusal(serving, device.type) or backends.unsupported(problem, pass_, dtype, serving)
        if refusal:
            reason = f"backend={backend!r} {refusal}"
        else:
            kernel, launch = serving_kernel(problem, pass_, dtype, layout, serving)
        spread = nonfinite.spread(serving, kernel, pass_, layout)
        passes.append(PassExplanation(pass_, serving, kernel, reason, launch, spread))
    return Explanation(problem, dtype, layout, device.type, tuple(passes))
