"""What a trace found, and its text in the manner of a profiler's report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from convbound.gpus import L1_BYTES, L2_PORT_BYTES, SECTOR, Gpu
from convbound.problem import DTYPE_NAMES, ConvProblem, Layout, Pass

_WIDTHS = (1, 2, 4, 8, 16)
_MOST_LINES = 9  # of the source, of each launch


@dataclass(frozen=True)
class Site:
    """One load or store in a kernel's source, with the requests of all warps that came by.

    A request is one warp's accesses at the site at one time; its transactions are 32-byte sectors in global memory,
    wavefronts in shared memory; `ideal` is the fewest that its bytes fit in. `tensor` is what it accesses in global
    memory, where that is known; `frames` are the lines that it is inlined from, innermost first; `copies` are the sites
    that this one is the sum of.
    """

    location: str
    space: str
    kind: str
    width: int
    accesses: int
    requests: int
    transactions: int
    ideal: int
    _: KW_ONLY
    tensor: str = ""
    frames: str = ""
    copies: int = 1

    @property
    def waste(self) -> float:
        """Transactions over the fewest possible: 1 is ideal."""
        return _ratio(self.transactions, self.ideal)

    @property
    def l1_cycles(self) -> float:
        """Clocks that its requests take out of one SM's L1 and shared memory: a wavefront, or four sectors, each."""
        wavefronts = self.transactions if self.space == "shared" else self.transactions * SECTOR / L1_BYTES
        return max(self.requests, wavefronts)


@dataclass(frozen=True)
class SectorCounts:
    """How often each 32-byte sector of a tensor was used, by address.

    `requested` counts the requests that touch a sector, `moved` how often it passed between SMs and L2: over all
    tensors the launch's `load_bytes` and `store_bytes`, in sectors.
    """

    requested: torch.Tensor
    moved: torch.Tensor


@dataclass(frozen=True)
class TracedLaunch:
    """One kernel launch and its traffic in bytes.

    `load_bytes` and `store_bytes` pass between SMs and L2; `dram_bytes` are the distinct sectors of the launch, and one
    fill (`filled_bytes`) for each that is written in part; `compulsory_bytes` are the distinct sectors of all inputs
    and outputs.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    resident_blocks: int
    l1_share: int
    blocks: int
    blocks_in_l1: int
    load_bytes: int
    store_bytes: int
    compulsory_bytes: int
    dram_bytes: int
    filled_bytes: int
    loaded_bytes_by_width: tuple[int, ...]
    stored_bytes_by_width: tuple[int, ...]
    sites: tuple[Site, ...]
    sectors: Mapping[str, SectorCounts] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def lines(self) -> tuple[Site, ...]:
        """The sites, those of one source line as one: an unrolled loop is a copy for each round. The dearest first."""
        merged: dict[tuple[str, str, str, str, int], Site] = {}
        for site in self.sites:
            key = (site.location, site.tensor, site.space, site.kind, site.width)
            merged[key] = _sum(merged[key], site) if key in merged else site
        return tuple(sorted(merged.values(), key=lambda line: -line.l1_cycles))


def _sum(one: Site, two: Site) -> Site:
    names = ("accesses", "requests", "transactions", "ideal", "copies")
    return replace(one, **{name: getattr(one, name) + getattr(two, name) for name in names})


@dataclass(frozen=True)
class Bound:
    """A part of a GPU that a pass needs, and the seconds for which it keeps it busy at least."""

    resource: str
    seconds: float


@dataclass(frozen=True)
class Trace:
    """What :func:`convbound.trace` found; ``str()`` of it is :meth:`report`."""

    problem: ConvProblem
    pass_: Pass
    dtype: torch.dtype
    layout: Layout
    gpu: Gpu
    kernel: str
    launches: tuple[TracedLaunch, ...]
    tensor_cores: bool = False

    @property
    def compulsory_bytes(self) -> int:
        """Bytes of all inputs and outputs, in whole sectors."""
        return self.launches[0].compulsory_bytes

    @property
    def blocks(self) -> int:
        """Blocks of the largest launch."""
        return max(launch.blocks for launch in self.launches)

    @property
    def sm_l2_ratio(self) -> float:
        """Bytes between SMs and L2 over compulsory bytes."""
        return sum(launch.load_bytes + launch.store_bytes for launch in self.launches) / self.compulsory_bytes

    @property
    def dram_ratio(self) -> float:
        """Bytes between L2 and DRAM over compulsory bytes."""
        return sum(launch.dram_bytes for launch in self.launches) / self.compulsory_bytes

    @property
    def coalescing(self) -> float:
        """Sectors of all requests over the fewest possible."""
        return self._waste("global")

    @property
    def bank_conflicts(self) -> float:
        """Wavefronts of all requests to shared memory over the fewest possible."""
        return self._waste("shared")

    @property
    def wide_share(self) -> float:
        """The share of the bytes in global memory that 16-byte accesses move; NaN where widths are not known."""
        widths = [launch.loaded_bytes_by_width for launch in self.launches]
        widths += [launch.stored_bytes_by_width for launch in self.launches]
        total = sum(map(sum, widths))
        return sum(row[-1] for row in widths) / total if total else math.nan

    @cached_property
    def bounds(self) -> tuple[Bound, ...]:
        """What keeps the GPU busy, the longest first. Launches come one after the other, so their times add up."""
        gpu = self.gpu
        dram = l2 = l1 = 0.0
        for launch in self.launches:
            clocks = min(gpu.sms, launch.blocks) * gpu.clock  # per second, of all SMs that have a block
            dram += launch.dram_bytes / gpu.dram
            l2 += (launch.load_bytes + launch.store_bytes) / L2_PORT_BYTES / clocks
            l1 += sum(site.l1_cycles for site in launch.sites) / clocks
        found = [Bound("DRAM", dram), Bound("the ports between SMs and L2", l2), Bound("L1 and shared memory", l1)]
        if not self.tensor_cores:
            fma = self.problem.flops / 2 / (gpu.fma_rate(self.dtype) * min(1.0, self.blocks / gpu.sms))
            found.append(Bound("multiply-adds", fma))
        return tuple(sorted(found, key=lambda bound: -bound.seconds))

    @property
    def conclusion(self) -> str:
        """One sentence: what binds the kernel on the GPU, and how far its traffic is from compulsory."""
        first = self.bounds[0]
        article = "an" if self.gpu.name[0] in "AHLR" else "a"
        floor = self.compulsory_bytes / self.gpu.dram
        idle = f", with {self.gpu.sms - self.blocks} of {self.gpu.sms} SMs idle" if self.blocks < self.gpu.sms else ""
        return (
            f"On {article} {self.gpu.name} {self.kernel} is bound by {first.resource}{idle}: at least "
            f"{first.seconds * 1e6:.3g} us, {first.seconds / floor:.2f} times what its compulsory bytes take "
            f"from DRAM; it moves {self.sm_l2_ratio:.2f} times the compulsory bytes between SMs and L2, and "
            f"{self.dram_ratio:.2f} times to and from DRAM."
        )

    def _waste(self, space: str) -> float:
        sites = [site for launch in self.launches for site in launch.sites if site.space == space]
        return _ratio(sum(site.transactions for site in sites), sum(site.ideal for site in sites))

    def report(self, all_sites: bool = False) -> str:
        """The conclusion, what it follows from, and the launches by source line; `all_sites` lists unrolled copies."""
        return _report(self, all_sites)

    def picture(self, path: str | Path, tensor: str | None = None) -> None:
        """Draw a plane of a tensor as SVG: how often each sector is requested, and fetched from L2, and by which lines.

        Parameters
        ----------
        path
            The file, whose name ends in ``.svg``.
        tensor
            As the pass names it, such as ``"x"``, ``"w"`` or ``"dy"``; default: ``"x"``, in dgrad ``"dy"``.

        Raises
        ------
        ValueError
            When the trace has no counts of sectors (``trace(…, sectors=True)`` makes them), there is no such tensor, or
            the file's name does not end in ``.svg``.
        RuntimeError
            When matplotlib or numpy is not installed.
        OSError
            When the file cannot be written.
        """
        from convbound.trace_picture import draw  # not above: few reports become pictures

        draw([self], path, tensor)

    def __str__(self) -> str:
        return self.report()


def _report(trace: Trace, all_sites: bool) -> str:
    p = trace.problem
    wide = trace.wide_share
    run = "interpreted" if math.isnan(wide) else "emulated"
    lines = [
        f"{p}  {trace.pass_} of {p.family}, {DTYPE_NAMES[trace.dtype]} {trace.layout}, {trace.kernel} {run} as on "
        f"{trace.gpu.name} ({trace.gpu.profile})" + (f"  ({p.origin})" if p.origin else "")
    ]
    bounds = ", ".join(f"{bound.resource} {bound.seconds * 1e6:.2f}" for bound in trace.bounds)
    lines += [
        trace.conclusion,
        f"  at least, in us, by the data sheet of {trace.gpu.name}: {bounds}",
        f"  compulsory    {_bytes(trace.compulsory_bytes)}  every input read once, every output written once",
        f"  SM-L2         {trace.sm_l2_ratio:10.2f} x  compulsory",
        f"  DRAM          {trace.dram_ratio:10.2f} x  compulsory",
        f"  coalescing    {trace.coalescing:10.2f} x  the fewest sectors",
        f"  shared memory {trace.bank_conflicts:10.2f} x  the fewest wavefronts",
        *([] if math.isnan(wide) else [f"  16-byte wide  {wide:10.0%}    of the bytes loaded and stored"]),
    ]
    for launch in trace.launches:
        lines += _launch(launch, all_sites)
    return "\n".join(lines)


def _launch(launch: TracedLaunch, all_sites: bool) -> list[str]:
    grid, block = ("x".join(map(str, _trimmed(size))) for size in (launch.grid, launch.block))
    cached = f"{launch.blocks_in_l1} of {launch.blocks} blocks within their {launch.l1_share:,} bytes of L1"
    shown = launch.sites if all_sites else launch.lines[:_MOST_LINES]
    sites = [
        f"    {site.location:32} {site.tensor or site.space:9} {site.kind:11} {site.width:2} B "
        f"{site.requests:12,} requests {site.transactions:12,} "
        f"{'sectors   ' if site.space == 'global' else 'wavefronts'} {site.waste:5.2f} x"
        + (f"  ({site.copies} copies)" if site.copies > 1 else "")
        for site in shown
    ]
    if rest := launch.lines[len(shown) :]:
        share = sum(site.l1_cycles for site in rest) / sum(site.l1_cycles for site in launch.lines)
        sites.append(f"    {len(rest)} more with {share:.0%} of the clocks of L1; trace --all-sites lists each")
    loads, stores = launch.loaded_bytes_by_width, launch.stored_bytes_by_width
    widths = [f"    widths        loads {_widths(loads)}; stores {_widths(stores)}"] if any((*loads, *stores)) else []
    return [
        f"  {launch.kernel}",
        f"    grid {grid}, block {block}, {launch.shared_bytes:,} bytes of shared memory, "
        f"{launch.resident_blocks} resident blocks per SM",
        f"    SM-L2 loads   {_bytes(launch.load_bytes)}  ({cached})",
        f"    SM-L2 stores  {_bytes(launch.store_bytes)}, DRAM {_bytes(launch.dram_bytes).strip()}",
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


def _ratio(value: float, ideal: float) -> float:
    return value / ideal if ideal else 1.0
