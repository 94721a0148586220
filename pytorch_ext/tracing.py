"""``convbound.trace``: a CUDA kernel's memory traffic, counted in the emulator, and what it would bind on a named GPU.

What is counted, and by which terms, stands in docs/traffic.md. Counts are exact; the times are lower bounds that follow
from a GPU's data sheet, no measurements.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from convbound import _library, fakes
from convbound.gpus import DEFAULT_GPU, Gpu, find_gpu
from convbound.problem import DTYPE_NAMES, DTYPES, LAYOUTS, PASSES, ConvProblem, Layout, Pass
from convbound.serving import native_problem
from convbound.trace_report import SectorCounts, Site, Trace, TracedLaunch

_FEWEST_BLOCKS = 16
# What grows with the blocks that run.
_GROWING = (
    "blocks",
    "blocks_in_l1",
    "load_bytes",
    "store_bytes",
    "dram_bytes",
    "filled_bytes",
    "loaded_bytes_by_width",
    "stored_bytes_by_width",
)
_GROWING_SITE = ("accesses", "requests", "transactions", "ideal")


def trace(
    problem: ConvProblem | str,
    pass_: Pass = "fprop",
    *,
    dtype: torch.dtype = torch.float32,
    layout: Layout = "NCHW",
    gpu: str = DEFAULT_GPU,
    kernel: str | None = None,
    images: int | None = None,
    sectors: bool = False,
) -> Trace:
    """Run one pass of a problem by its CUDA kernel in the emulator, and count every access to memory.

    It takes about a second for each ten million accesses of single threads. For large batches `images` gives the same
    figures sooner: one image's blocks are like another's.

    Parameters
    ----------
    problem
        A :class:`ConvProblem` or its string, such as ``"mb8g144ic144ih56oc144kh3ph1"``.
    pass_, dtype, layout
        What is traced; layout is ``"NCHW"`` or ``"NHWC"`` in any number of dimensions.
    gpu
        By name or architecture, such as ``"H100"`` or ``"sm_80"``: its L1, shared memory and rates. Or one of your own:
        ``"name=L40S,sms=142,gbps=864,profile=sm_89"``, see :func:`convbound.gpus.find_gpu`.
    kernel
        A kernel of the registry, such as ``"naive_fprop"``, or ``"naive"`` in any pass; the dispatcher's choice if not
        given. ``"triton"`` is the row that Triton's table selects, ``"triton:NAME"`` another, counted in Triton's
        interpreter with the L1 of an H100; of its requests only whole programs' are known.
    images
        Run only as many blocks of each launch as come to this many of the batch's images, then twice as many, and
        take it that the counts grow by as much with every further block. Triton kernels get a batch of so many.
    sectors
        Count each sector of each tensor, too: what :meth:`Trace.picture` draws. Not with `images` or Triton kernels.

    Raises
    ------
    ValueError
        When an argument is none of the values it can have, or the kernel does not serve the problem.
    RuntimeError
        When this build has no emulator, or the kernel does what a GPU would refuse.

    Examples
    --------
    >>> print(convbound.trace("mb1g144ic144ih56oc144kh3ph1", gpu="A100"))  # doctest: +SKIP
    """
    if isinstance(problem, str):
        problem = ConvProblem.parse(problem)
    for name, value, allowed in (("pass_", pass_, PASSES), ("dtype", dtype, DTYPES), ("layout", layout, LAYOUTS)):
        if value not in allowed:
            raise ValueError(f"trace: {name}={value!r} must be one of {', '.join(map(str, allowed))}")
    if not problem.n:
        raise ValueError(f"trace: {problem} has an empty batch, for which no kernel is launched")
    if images is not None and images < 1:
        raise ValueError(f"trace: images={images} must be 1 or more, or None for the whole batch")
    if images is not None and sectors:
        raise ValueError(f"trace: sectors=True counts the whole batch, but images={images} runs a part of it")
    chosen = find_gpu(gpu)
    if kernel is not None and kernel.partition(":")[0] == "triton":
        if sectors:
            raise ValueError(f"trace: sectors=True needs a CUDA kernel; kernel={kernel!r} is Triton's")
        return _triton(problem, pass_, dtype, layout, chosen, kernel, images)
    introspect: Any = _library.introspect
    if isinstance(introspect, str):
        raise RuntimeError(f"trace: {introspect}")
    if not hasattr(introspect, "simt_run"):
        raise RuntimeError(f"trace: this build has no emulated CUDA kernels; {_library.BUILD_EMULATOR}")
    row = _row(problem, pass_, dtype, layout, chosen, kernel)
    like = torch.empty(0, dtype=dtype)
    # Zeros, and no bias: addresses do not depend on values, and a bias adds next to nothing.
    tensors = {
        name: fakes.empty_dense(like, shape, layout == "NHWC").zero_()
        for name, shape in zip("xwy", (problem.x_shape, problem.w_shape, problem.y_shape), strict=True)
    }

    def run(blocks: int | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = introspect.simt_run(
            introspect.Pass[pass_],
            native_problem(introspect, problem),
            introspect.DType[DTYPE_NAMES[dtype]],
            introspect.Layout[layout],
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            bias=0,
            options=f"trace profile={chosen.profile} sms={chosen.sms}"
            + (" sectors" if sectors else "")
            + (f" blocks=0:{blocks}" if blocks else ""),
            row=row["index"],
        )
        return found

    if images is None:
        launches = [_launch(found) for found in run(None)]
    else:
        grid = math.prod(run(1)[0]["grid"])
        blocks = max(_FEWEST_BLOCKS, math.ceil(grid * images / problem.n))
        launches = [_extrapolated(one, two) for one, two in zip(run(blocks), run(2 * blocks), strict=True)]
        # Distinct sectors grow too slowly where the first blocks share an image, and too fast where each part has
        # filters of its own. Every sector is moved once, and without a workspace there are no others.
        first = launches[0]
        least = first.compulsory_bytes
        most = least + first.filled_bytes if len(launches) == 1 else first.dram_bytes
        launches[0] = replace(first, dram_bytes=max(least, min(first.dram_bytes, most)))
    return Trace(problem, pass_, dtype, layout, chosen, str(row["name"]), tuple(launches), row["tensor_cores"])


def _triton(
    problem: ConvProblem,
    pass_: Pass,
    dtype: torch.dtype,
    layout: Layout,
    gpu: Gpu,
    kernel: str,
    images: int | None,
) -> Trace:
    """A Triton kernel's traffic."""
    if why := _library.ABSENT["triton"]:
        raise RuntimeError(f"trace: kernel={kernel!r} is not available: {why}")
    if gpu != find_gpu(DEFAULT_GPU):
        raise ValueError(f"trace: Triton kernels are counted with the L1 of {DEFAULT_GPU}, not of {gpu.name}")
    from convbound.kernels import traffic  # not above: it imports Triton, which need not be there

    return traffic.count(replace(problem, n=min(problem.n, images or problem.n)), pass_, dtype, layout, kernel)


def _row(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, gpu: Gpu, kernel: str | None
) -> dict[str, Any]:
    """The registry's row with this name that serves the problem, or the dispatcher's choice."""
    introspect: Any = _library.introspect
    native = native_problem(introspect, problem)
    device = (*introspect.simt_profile(gpu.profile)[:2], gpu.sms)
    keys = (introspect.Pass[pass_], introspect.DType[DTYPE_NAMES[dtype]], introspect.Layout[layout])
    if kernel is None:
        row = introspect.device_select(keys[0], native, *keys[1:], *device)
        if row is None:
            raise ValueError(f"trace: no CUDA kernel serves {pass_} of {problem} in {dtype} on {gpu.name}")
        return dict(row)
    rows = [row for row in introspect.device_kernels() if (row["pass"], row["dtype"], row["layout"]) == keys]
    named = [row for row in rows if row["name"] in (kernel, f"{kernel}_{pass_}")]
    if not named:
        known = ", ".join(dict.fromkeys(str(row["name"]) for row in rows))
        raise ValueError(f"trace: kernel={kernel!r} is no {pass_} kernel for {dtype} {layout}; there are {known}")
    for row in named:
        if not isinstance(introspect.device_plan(row["index"], native, *device), str):
            return dict(row)
    raise ValueError(f"trace: kernel={kernel!r} does not serve {problem} on {gpu.name}")


def _launch(found: dict[str, Any]) -> TracedLaunch:
    fields = {name: found[name] for name in TracedLaunch.__dataclass_fields__}
    fields["loaded_bytes_by_width"] = tuple(found["loaded_bytes_by_width"])
    fields["stored_bytes_by_width"] = tuple(found["stored_bytes_by_width"])
    fields["sites"] = tuple(
        Site(**{name: value for name, value in site.items() if name in Site.__dataclass_fields__})
        for site in found["sites"]
    )
    fields["sectors"] = {name: SectorCounts(*map(_counts, pair)) for name, pair in found["sectors"].items()}
    return TracedLaunch(**fields)


def _counts(packed: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(packed), dtype=torch.int32).long()


def _extrapolated(few: dict[str, Any], more: dict[str, Any]) -> TracedLaunch:
    """A launch of which few blocks were run, then more."""
    grid, ran = math.prod(more["grid"]), more["blocks"]
    if ran == grid:
        return _launch(more)

    def grow(one: Any, two: Any) -> Any:
        if isinstance(two, int):
            return two + (two - one) * (grid - ran) // (ran - few["blocks"])
        return [grow(*pair) for pair in zip(one, two, strict=True)]

    found = dict(more)
    for name in _GROWING:
        found[name] = grow(few[name], more[name])
    before = {(site["pc"], site["kind"]): site for site in few["sites"]}
    found["sites"] = []
    for site in more["sites"]:
        one = before.get((site["pc"], site["kind"]), dict.fromkeys(_GROWING_SITE, 0))
        found["sites"].append({**site, **{name: grow(one[name], site[name]) for name in _GROWING_SITE}})
    return _launch(found)
