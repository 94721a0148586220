"""``convbound.explain``: which kernel would serve each pass of a problem, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from convbound import _library, nonfinite, selection, tuning
from convbound.problem import DTYPE_NAMES, LAYOUTS, ConvProblem, Layout, Pass


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
    backend = backend or selection.default_backend()
    device = torch.device(device)
    selection.check_name("explain", backend)
    passes = []
    for choice in tuning.choose_all(problem, dtype, layout, device, backend):
        serving = choice.backend
        if serving == tuning.UNDECIDED:
            serving = selection.choose(problem, choice.pass_, dtype, layout, device.type).backend
        refusal = None
        if backend != "auto":
            refusal = selection.refusal(serving, device.type)
            refusal = refusal or selection.unsupported(problem, choice.pass_, dtype, serving)
        kernel, launch = ("-", "") if refusal else serving_kernel(problem, choice.pass_, dtype, layout, serving)
        reason = f"backend={backend!r} {refusal}" if refusal else choice.reason
        spread = nonfinite.spread(serving, kernel, choice.pass_, layout)
        passes.append(PassExplanation(choice.pass_, serving, kernel, reason, launch, spread))
    return Explanation(problem, dtype, layout, device.type, tuple(passes))


def serving_kernel(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, backend: str
) -> tuple[str, str]:
    """The registry name of the kernel by which a backend would serve a pass, and its launch where it is a GPU's kernel.

    The name is ``aten`` for torch.
    """
    if backend == "torch":
        return "aten", ""
    if backend == "triton":
        return _triton_kernel(problem, pass_, dtype, layout)
    introspect: Any = _library.introspect
    if isinstance(introspect, str):
        raise RuntimeError(introspect)
    native = (
        introspect.Pass[pass_],
        _native_problem(introspect, problem),
        introspect.DType[DTYPE_NAMES[dtype]],
        introspect.Layout[layout],
    )
    if backend == "cpu":
        return str(introspect.cpu_select(*native)["name"]), ""
    if not hasattr(introspect, "device_select"):
        return "?", f"built without the registry of CUDA kernels; {_library.REBUILD}"
    row = introspect.device_select(*native, *_device(introspect, backend))
    if row is None:
        return "none", ""
    launch = f"{row['tile']}; grid {row['grid']}, block {row['block']}, {row['shared_bytes']} bytes of shared memory"
    return str(row["name"]), launch


def _triton_kernel(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout) -> tuple[str, str]:
    # Here, not above: they import Triton, which takes a second.
    from convbound.kernels import table
    from convbound.kernels.launch import architecture

    row = table.select(problem, pass_, dtype, layout, architecture(torch.device("cuda")))
    launches = row.plan(problem, dtype, bias=False).launches
    return row.name, f"tile {row.tile}; {', '.join(map(str, launches))}"


def _device(introspect: Any, backend: str) -> tuple[int, int]:
    """Architecture and shared memory per block of the GPU in use, or of the one that is emulated."""
    if backend == "cuda":
        properties: Any = torch.cuda.get_device_properties()
        return 10 * properties.major + properties.minor, properties.shared_memory_per_block_optin
    options = os.environ.get("CONVBOUND_SIMT_OPTIONS", "").replace(",", " ").split()
    profile = next((option[8:] for option in reversed(options) if option.startswith("profile=")), "sm_90")
    architecture, shared = introspect.simt_profile(profile)
    return architecture, shared


def _native_problem(introspect: Any, problem: ConvProblem) -> Any:
    """The C++ side's ConvProblem, which always has three spatial dimensions."""

    def triple(values: tuple[int, ...], fill: int) -> list[int]:
        return [fill] * (3 - problem.ndim) + list(values)

    return introspect.ConvProblem(
        n=problem.n,
        c=problem.c,
        k=problem.k,
        groups=problem.groups,
        input=triple(problem.input, 1),
        filter=triple(problem.filter, 1),
        output=triple(problem.output, 1),
        stride=triple(problem.stride, 1),
        padding=triple(tuple(begin for begin, _ in problem.padding), 0),
        dilation=triple(problem.dilation, 1),
    )
