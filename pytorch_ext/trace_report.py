"""A trace as text, in the manner of a profiler's report."""

from __future__ import annotations

import math

from convbound.problem import DTYPE_NAMES
from convbound.tracing import Launch, Trace

_WIDTHS = (1, 2, 4, 8, 16)


def report(trace: Trace) -> str:
    """All of a trace: the launches with their sites, the totals, the bounds, and the sentence that they lead to."""
    p = trace.problem
    wide = trace.wide_share
    run = "interpreted" if math.isnan(wide) else "emulated"
    lines = [
        f"{p}  {trace.pass_} of {p.family}, {DTYPE_NAMES[trace.dtype]} {trace.layout}, {trace.kernel} {run} as on "
        f"{trace.gpu.name} ({trace.gpu.profile})" + (f"  ({p.origin})" if p.origin else "")
    ]
    for launch in trace.launches:
        lines += _launch(launch)
    lines += [
        "  totals",
        f"    compulsory    {_bytes(trace.compulsory_bytes)}  every input read once, every output written once",
        f"    SM-L2         {trace.sm_l2_ratio:10.2f} x  compulsory",
        f"    DRAM          {trace.dram_ratio:10.2f} x  compulsory",
        f"    coalescing    {trace.coalescing:10.2f} x  the fewest sectors",
        f"    shared memory {trace.bank_conflicts:10.2f} x  the fewest wavefronts",
        *([] if math.isnan(wide) else [f"    16-byte wide  {wide:10.0%}    of the bytes loaded and stored"]),
        f"  at least, by the data sheet of {trace.gpu.name}",
        *(f"    {bound.seconds * 1e6:10.2f} us  {bound.resource}" for bound in trace.bounds),
        trace.conclusion,
    ]
    return "\n".join(lines)


def _launch(launch: Launch) -> list[str]:
    grid, block = ("x".join(map(str, _trimmed(size))) for size in (launch.grid, launch.block))
    cached = f"{launch.blocks_in_l1} of {launch.blocks} blocks within their {launch.l1_share:,} bytes of L1"
    sites = [
        f"    {site.location:32} {site.space:6} {site.kind:11} {site.width:2} B {site.requests:12,} requests "
        f"{site.transactions:12,} {'sectors   ' if site.space == 'global' else 'wavefronts'} {site.waste:5.2f} x"
        for site in launch.sites
    ]
    loads, stores = launch.loaded_bytes_by_width, launch.stored_bytes_by_width
    widths = [f"    widths        loads {_widths(loads)}; stores {_widths(stores)}"] if any((*loads, *stores)) else []
    return [
        f"  {launch.kernel}",
        f"    grid {grid}, block {block}, {launch.shared_bytes:,} bytes of shared memory, "
        f"{launch.resident_blocks} resident blocks per SM",
        f"    SM-L2 loads   {_bytes(launch.load_bytes)}  ({cached})",
        f"    SM-L2 stores  {_bytes(launch.store_bytes)}",
        f"    DRAM          {_bytes(launch.dram_bytes)}",
        *widths,
        *sites,
    ]


def _bytes(count: int) -> str:
    return f"{count / 1e6:10.3f} MB"


def _trimmed(size: tuple[int, int, int]) -> tuple[int, ...]:
    return size[:1] if size[1:] == (1, 1) else size


def _widths(by_width: tuple[int, ...]) -> str:
    """Shares of bytes by the width of the access, such as "16 B 98%, 4 B 2%"."""
    total = sum(by_width)
    shares = [(width, count / total) for width, count in zip(_WIDTHS, by_width, strict=True) if count]
    return ", ".join(f"{width} B {share:.0%}" for width, share in reversed(shares)) or "none"
