"""``convbound.explain``: which kernel would serve each pass of a problem, and why.

Its :class:`Explanation` is also the row of :func:`convbound.profile`, which fills in what only a model tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from convbound import nonfinite
from convbound.choice import backends, choose
from convbound.convolutions import Reach
from convbound.gpus import Gpu, find_gpu
from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES, ConvProblem, Layout, Pass
from convbound.roofs import Roofs, promised_roofs
from convbound.serving import LaunchSizes, ServingKernel, serving_kernel

GPU_BACKENDS = ("cuda", "triton", "torch")


@dataclass(frozen=True)
class PassExplanation:
    """The backend and the kernel of one pass, why this backend, how a GPU's kernel is launched, what it spreads.

    `nonfinite` says how far the kernel spreads infinities and NaNs, see convbound/nonfinite.py. `refused` are the CUDA
    kernels that are preferred to it, each with the reason why it does not serve this problem. `milliseconds` are median
    times by backend, where any were measured.
    """

    pass_: Pass
    backend: str
    kernel: str
    reason: str
    tile: str = ""
    launches: tuple[LaunchSizes, ...] = ()
    nonfinite: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bound:
    """What binds a problem on a machine, by the roofline model (Williams et al., Roofline, CACM 52(4), 2009).

    `resource` is ``memory`` where the problem's arithmetic intensity is below the machine's `ridge`, FLOP/s over
    bytes/s, else ``compute``. `floor_ms` is the least time of a pass: max(bytes / (bytes/s), FLOP / (FLOP/s)).
    """

    machine: str
    resource: str
    ridge: float
    floor_ms: float

    @classmethod
    def by(cls, roofs: Roofs, machine: str, problem: ConvProblem, dtype: torch.dtype) -> Bound:
        """By a machine's roofs. A depthwise convolution has no use for matrix units."""
        name = DTYPE_NAMES[dtype]
        ridge = roofs.ridge(name, depthwise=problem.depthwise)
        resource = "memory" if problem.arithmetic_intensity(dtype) < ridge else "compute"
        peak = roofs.peak(name, depthwise=problem.depthwise)
        floor_ms = max(problem.compulsory_bytes(dtype) / roofs.copy_gbps, problem.flops / peak) / 1e6
        return cls(machine, resource, ridge, floor_ms)


@dataclass(frozen=True)
class Explanation:
    """One convolution: what :func:`explain` found, and a layer of :func:`convbound.profile`; ``str()`` is a report.

    Parameters
    ----------
    problem, dtype, layout, device
        What it is about; the problem's origin is the name of the layer.
    passes
        What serves each pass.
    transposed
        Whether the layer runs the convolution that transposes the problem: its forward is the problem's dgrad.
    count
        How often the layer runs in one forward pass of its model.
    parameters
        Elements of its weight, and in a model of its bias. A parameter that several layers share counts in the first.
    reach
        Receptive field and jump in positions of the model's input; of the layer's own input where there is no model.
    bounds
        What binds it, on the machine that was measured and on the GPU that was named.
    ran
        The backend that ran it in the model, empty where there is none.
    """

    problem: ConvProblem
    dtype: torch.dtype
    layout: Layout
    device: str
    passes: tuple[PassExplanation, ...]
    transposed: bool = False
    count: int = 1
    parameters: int = 0
    reach: Reach | None = None
    bounds: tuple[Bound, ...] = ()
    ran: str = ""

    @property
    def forward(self) -> PassExplanation:
        """The pass that is the layer's forward."""
        return next(row for row in self.passes if row.pass_ == ("dgrad" if self.transposed else "fprop"))

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
                f"compulsory, {p.arithmetic_intensity(self.dtype):.2f} FLOP/byte"
                + "".join(f", bound by {bound.resource} on {bound.machine}" for bound in self.bounds),
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
    alone: dict[str, Any] = {
        "parameters": problem.parameters,
        "reach": Reach.start(problem.ndim).convolved(problem, False),
    }
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
        bound = Bound.by(promised_roofs(gpu), gpu.name, problem, dtype)
        return Explanation(
            problem, dtype, layout, f"{gpu.name} ({gpu.profile})", tuple(found), bounds=(bound,), **alone
        )
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
    return Explanation(problem, dtype, layout, device.type, tuple(passes), **alone)


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
