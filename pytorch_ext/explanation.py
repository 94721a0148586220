"""``convbound.explain``: which kernel would serve each pass of a problem, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from convbound import nonfinite
from convbound.choice import backends, choose
from convbound.gpus import Gpu, find_gpu
from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES, ConvProblem, Layout, Pass
from convbound.serving import Launch, ServingKernel, serving_kernel

GPU_BACKENDS = ("cuda", "triton", "torch")


@dataclass(frozen=True)
class PassExplanation:
    """The backend and the kernel of one pass, why this backend, how a GPU's kernel is launched, what it spreads.

    `nonfinite` says how far the kernel spreads infinities and NaNs, see convbound/nonfinite.py. `refused` are the CUDA
    kernels that are preferred to it, each with the reason why it does not serve this problem.
    """

    pass_: Pass
    backend: str
    kernel: str
    reason: str
    tile: str = ""
    launches: tuple[Launch, ...] = ()
    nonfinite: str = ""
    refused: tuple[tuple[str, str], ...] = ()


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
            more = [row.tile, *map(str, row.launches), row.nonfinite and f"non-finite values: {row.nonfinite}"]
            more += [f"not {name}: {reason}" for name, reason in row.refused]
            rows += [f"{'':16}{text}" for text in more if text]
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
    arch: str | None = None,
    compiled: bool = False,
) -> Explanation:
    """Which backend and kernel would serve each pass of a problem, and why; nothing is run.

    With `arch` it is about a GPU that need not be there, nor torch's CUDA: a pass then has an explanation for each of
    the backends ``cuda`` and ``triton``, unless one is named.

    Parameters
    ----------
    problem
        A :class:`ConvProblem` or its string, such as ``"mb8g144ic144ih56oc144kh3sh2ph1"``.
    dtype, layout, device
        Of the tensors; layout is ``"NCHW"`` or ``"NHWC"`` in any number of dimensions.
    backend
        As for :func:`convbound.conv2d`.
    arch
        A GPU by architecture or name, such as ``"sm_90"`` or ``"A100"``; for ``device="cuda"``.
    compiled
        Have Triton compile its kernels, some seconds each, for their registers and shared memory.

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
    if arch is not None:
        if device.type != "cuda":
            raise ValueError(
                f"explain: arch={arch!r} is a GPU's, but device={device.type!r} is none; it has to be 'cuda'"
            )
        gpu = find_gpu(arch)
        named = ("cuda", "triton") if backend == "auto" else (backend,)
        found = [_on_gpu(problem, pass_, dtype, layout, one, gpu, compiled) for pass_ in PASSES for one in named]
        return Explanation(problem, dtype, layout, f"{gpu.name} ({gpu.profile})", tuple(found))
    passes = []
    for pass_ in PASSES:
        choice = choose(problem, pass_, dtype, layout, device, backend)
        serving, reason = choice.backend, choice.reason
        kernel = ServingKernel("-")
        refusal = None
        if backend != "auto":
            refusal = backends.refusal(serving, device.type) or backends.unsupported(problem, pass_, dtype, serving)
        if refusal:
            reason = f"backend={backend!r} {refusal}"
        else:
            kernel = serving_kernel(problem, pass_, dtype, layout, serving, compiled=compiled)
        passes.append(_explained(pass_, serving, kernel, reason, layout))
    return Explanation(problem, dtype, layout, device.type, tuple(passes))


def _on_gpu(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, backend: str, gpu: Gpu, compiled: bool
) -> PassExplanation:
    """What a backend would do on a GPU that need not be there."""
    kernel = ServingKernel("-")
    if backend not in GPU_BACKENDS:
        reason = f"backend={backend!r} has no kernels for GPUs"
    elif refusal := backends.unsupported(problem, pass_, dtype, backend):
        reason = f"backend={backend!r} {refusal}"
    else:
        try:
            kernel = serving_kernel(problem, pass_, dtype, layout, backend, gpu, compiled)
            fit = "auto times it beside torch at the first call" if kernel.designed else "naive: auto never takes it"
            reason = "cuDNN's" if backend == "torch" else fit
        except RuntimeError as error:
            reason = str(error)
    return _explained(pass_, backend, kernel, reason, layout)


def _explained(pass_: Pass, backend: str, kernel: ServingKernel, reason: str, layout: Layout) -> PassExplanation:
    spread = nonfinite.spread(backend, kernel.name, pass_, layout)
    return PassExplanation(pass_, backend, kernel.name, reason, kernel.tile, kernel.launches, spread, kernel.refused)
