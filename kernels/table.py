"""The Triton kernels, one row each, with the columns of the CUDA registry: what explain, tests and benchmark read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from convbound.kernels import (
    depthwise_dgrad,
    depthwise_fprop,
    depthwise_large,
    depthwise_planes,
    depthwise_rows,
    depthwise_rows_wgrad,
    depthwise_toeplitz,
    depthwise_wgrad,
    grouped_dgrad,
    grouped_fprop,
    grouped_wgrad,
    transposed_depthwise,
)
from convbound.kernels.implicit_gemm import packed_groups
from convbound.kernels.launch import Plan
from convbound.kernels.limits import LARGEST, unsupported
from convbound.kernels.tile import Tile
from convbound.problem import DTYPES, ConvProblem, Family, Layout, Pass

Planner = Callable[[ConvProblem, torch.dtype, Layout, Tile, bool], Plan]


@dataclass(frozen=True)
class Kernel:
    """One row. A filter or stride of None means any; `least_arch` is a compute capability such as 80.

    Rows are for depthwise problems, or for all others. `least_channels` are the fewest per group that a row's tile is
    meant for, of the pass's result (of dy in wgrad); an `aligned` row needs channels in multiples of 16; `able` tells
    what else a problem has to be like. `naive` rows
    are version 0, for readers and for what nothing faster covers: ``backend="auto"`` never takes them.
    """

    name: str
    family: Family
    pass_: Pass
    layout: Layout
    filter: tuple[int, int] | None
    stride: tuple[int, int] | None
    tile: Tile
    dtypes: tuple[torch.dtype, ...]
    least_arch: int
    naive: bool
    planner: Planner
    depthwise: bool
    least_channels: int = 1
    aligned: bool = False
    able: Callable[[ConvProblem], bool] | None = None

    def plan(self, problem: ConvProblem, dtype: torch.dtype, bias: bool) -> Plan:
        """The launches for a problem; `bias` tells whether there is one, or in wgrad whether its gradient is wanted."""
        return self.planner(problem, dtype, self.layout, self.tile, bias)

    def serves(
        self, problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, arch: int | None = None
    ) -> bool:
        """Whether this row can do the pass of a problem, on an architecture such as 90 (None: any)."""
        return (
            (self.pass_, self.layout, self.depthwise) == (pass_, layout, problem.depthwise)
            and dtype in self.dtypes
            and (arch is None or arch >= self.least_arch)
            and self.filter in (None, (1, *problem.filter)[-2:])
            and self.stride in (None, (1, *problem.stride)[-2:])
            and self.least_channels <= (problem.c if pass_ == "dgrad" else problem.k) // problem.groups
            and (not self.aligned or self._aligns(problem))
            and (self.able is None or self.able(problem))
            and unsupported(problem, pass_, dtype) is None
            and self._fits_a_grid(problem, dtype)
        )

    def _fits_a_grid(self, problem: ConvProblem, dtype: torch.dtype) -> bool:
        """Whether its launches have no more programs than a grid; those of smaller problems are not counted."""
        if max(math.prod(problem.x_shape), math.prod(problem.y_shape)) <= LARGEST // 16:
            return True
        return all(launch.programs <= LARGEST for launch in self.plan(problem, dtype, bias=True).launches)

    def _aligns(self, problem: ConvProblem) -> bool:
        """Whether the channels of a problem, and those of each pack of groups, come in multiples of 16."""
        group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
        result = group_c if self.pass_ == "dgrad" else group_k
        pack = packed_groups(problem, result, self.tile.positions if self.pass_ == "wgrad" else self.tile.channels)
        return not any(size % 16 for size in (problem.c, problem.k, pack * group_c, pack * group_k))


def _naive(pass_: Pass, layout: Layout, tile: Tile, planner: Planner) -> Kernel:
    name = f"depthwise_{pass_}_naive_{layout.lower()}"
    return Kernel(name, "depthwise", pass_, layout, None, None, tile, DTYPES, 80, True, planner, depthwise=True)


_HALVES = (torch.float16, torch.bfloat16)
_ROW_PLANNERS: dict[Pass, Planner] = {
    "fprop": depthwise_rows.plan_fprop,
    "dgrad": depthwise_rows.plan_dgrad,
    "wgrad": depthwise_rows_wgrad.plan,
}


def _designed(
    family: Family,
    pass_: Pass,
    name: str,
    layout: Layout,
    tile: Tile,
    planner: Planner,
    able: Callable[[ConvProblem], bool],
    dtypes: tuple[torch.dtype, ...] = (*_HALVES, torch.float32),
) -> Kernel:
    """A depthwise row that is not version 0. A dgrad with a stride is of the transposed family."""
    return Kernel(
        f"{family}_{pass_}_{name}_{layout.lower()}",
        family,
        pass_,
        layout,
        None,
        (1, 1) if (family, pass_) == ("depthwise", "dgrad") else None,
        tile,
        dtypes,
        80,
        False,
        planner,
        depthwise=True,
        able=able,
    )


def _rows(name: str, taps: int, layout: Layout, tile: Tile, pass_: Pass, line: bool = False) -> Kernel:
    """A row of depthwise_rows, for filters of at most so many taps, or for signals in one dimension."""

    def able(problem: ConvProblem) -> bool:
        serves = depthwise_rows.serves_dgrad if pass_ == "dgrad" else depthwise_rows.serves_fprop
        return math.prod(problem.filter) <= taps and (problem.ndim == 1 or not line) and serves(problem)

    return _designed("depthwise", pass_, name, layout, tile, _ROW_PLANNERS[pass_], able)


def _depthwise(pass_: Pass) -> tuple[Kernel, ...]:
    """The rows of depthwise_rows, with at most so many rows of the image to a strip.

    The more taps, the fewer channels per thread, for each keeps its filter, or its sums, in registers.
    """
    line = _rows("line", 9, "NCHW", Tile(512, 1, warps=4), pass_, line=True)
    if pass_ == "wgrad":
        return (
            line,
            _rows("line", 9, "NHWC", Tile(64, 32, warps=16), pass_, line=True),
            _rows("rows49", 49, "NCHW", Tile(128, 1, warps=4, steps=64), pass_),
            _rows("rows9", 9, "NHWC", Tile(32, 16, warps=8, steps=64), pass_),
            _rows("rows49", 49, "NHWC", Tile(32, 16, warps=16, steps=64), pass_),
        )
    return (
        line,
        _rows("line", 9, "NHWC", Tile(128, 32, warps=16), pass_, line=True),
        _planes("depthwise", pass_, "planes", _HALVES),
        _planes("depthwise", pass_, "planes_fp32", (torch.float32,)),
        _rows("rows49", 49, "NCHW", Tile(128, 1, warps=4, steps=16), pass_),
        _rows("rows9", 9, "NHWC", Tile(32, 32, warps=8, steps=28), pass_),
        _rows("rows25", 25, "NHWC", Tile(32, 32, warps=16, steps=28), pass_),
        _rows("rows49", 49, "NHWC", Tile(32, 16, warps=16, steps=28), pass_),
    )


def _planes(family: Family, pass_: Pass, name: str, dtypes: tuple[torch.dtype, ...]) -> Kernel:
    """A row of depthwise_planes, for dtypes of one size, which tells where whole planes pay."""
    tile = Tile(128, 1, warps=4)

    def able(problem: ConvProblem) -> bool:
        strided = family == "transposed" and math.prod(problem.stride) == 1
        return not strided and depthwise_planes.serves(problem, pass_, tile, dtypes[0].itemsize)

    planner = depthwise_planes.plan_dgrad if pass_ == "dgrad" else depthwise_planes.plan_fprop
    return _designed(family, pass_, name, "NCHW", tile, planner, able, dtypes)


def _toeplitz(pass_: Pass) -> Kernel:
    planner = depthwise_toeplitz.plan_dgrad if pass_ == "dgrad" else depthwise_toeplitz.plan_fprop
    tile = Tile(128, 1, warps=8)
    return _designed("depthwise", pass_, "toeplitz", "NCHW", tile, planner, depthwise_toeplitz.serves, _HALVES)


def _large(pass_: Pass, layout: Layout, tile: Tile) -> Kernel:
    """A row of depthwise_large, or in wgrad of depthwise_rows_wgrad, for filters of any size."""
    planners: dict[Pass, Planner] = {
        "fprop": depthwise_large.plan_fprop,
        "dgrad": depthwise_large.plan_dgrad,
        "wgrad": depthwise_rows_wgrad.plan,
    }
    swaps = pass_ != "wgrad" and layout == "NHWC"

    def able(problem: ConvProblem) -> bool:
        return depthwise_large.serves(problem, swaps)

    return _designed("depthwise", pass_, "large", layout, tile, planners[pass_], able)


def _transposed_depthwise(name: str, taps: int, layout: Layout, tile: Tile) -> Kernel:
    """A row of transposed_depthwise, for filters of at most so many taps."""

    def able(problem: ConvProblem) -> bool:
        return math.prod(problem.filter) <= taps and transposed_depthwise.serves(problem)

    return _designed("transposed", "dgrad", name, layout, tile, transposed_depthwise.plan, able)


_PLANNERS: dict[Pass, Planner] = {"fprop": grouped_fprop.plan, "dgrad": grouped_dgrad.plan, "wgrad": grouped_wgrad.plan}


@dataclass(frozen=True)
class _Product:
    """A tile of matrix products: what its rows are called, and what they are for."""

    name: str
    tile: Tile
    dtypes: tuple[torch.dtype, ...] = _HALVES
    least_channels: int = 1
    least_arch: int = 80
    aligned: bool = False


# Where channels lie side by side and by 16, tiles are as large as registers and shared memory allow. Elsewhere each
# element is loaded by its own address, which takes a register or two: 8 warps share a smaller tile. So do the phases of
# a strided dgrad, and products of NCHW.
_DOUBLE_TILE = _Product("fp64", Tile(32, 32, warps=4, depth=16), (torch.float64,))
_ANY_TILE = _Product("any", Tile(64, 32, warps=8, depth=32), (*_HALVES, torch.float32))
_PACKS_TILE = _Product("packs", Tile(128, 32, warps=4, depth=32), aligned=True)
_SINGLE_TILE = _Product("fp32", Tile(64, 64, warps=8, depth=32, stages=3), (torch.float32,), 33)
_NHWC_TILES = (
    _Product("128x256", Tile(128, 256, warps=8, depth=64, stages=3), least_channels=256, least_arch=90, aligned=True),
    _Product("128x128", Tile(128, 128, warps=8, depth=64, stages=3), least_channels=128, aligned=True),
    _Product("128x64", Tile(128, 64, warps=4, depth=64, stages=3), least_channels=33, aligned=True),
    _PACKS_TILE,
    _SINGLE_TILE,
    _ANY_TILE,
    _DOUBLE_TILE,
)
_NCHW_TILES = (
    _Product("128x64", Tile(128, 64, warps=8, depth=32), least_channels=33),
    _SINGLE_TILE,
    _ANY_TILE,
    _DOUBLE_TILE,
)
_TRANSPOSED_NHWC_TILES = (
    _Product("128x64", Tile(128, 64, warps=8, depth=32, stages=3), least_channels=33, aligned=True),
    _PACKS_TILE,
    _ANY_TILE,
    _DOUBLE_TILE,
)
_TRANSPOSED_NCHW_TILES = (_ANY_TILE, _DOUBLE_TILE)
_WGRAD_NCHW_TILES = (
    _Product("64x64", Tile(64, 64, warps=8, steps=8, depth=32, stages=3), (*_HALVES, torch.float32), 33),
    _Product("packs", Tile(32, 128, warps=8, steps=8, depth=32), (*_HALVES, torch.float32)),
    _Product("fp64", Tile(32, 32, warps=4, steps=16, depth=16), (torch.float64,)),
)
_WGRAD_NHWC_TILES = (
    _Product("128x128", Tile(128, 128, warps=8, steps=8, depth=32, stages=4), least_channels=128, aligned=True),
    *_WGRAD_NCHW_TILES,
)


def _products(family: Family, pass_: Pass, layout: Layout, tiles: tuple[_Product, ...]) -> tuple[Kernel, ...]:
    """The rows of matrix products; dgrad with any stride is of the transposed family, of the grouped one the rest."""
    stride = (1, 1) if pass_ == "dgrad" and family == "grouped" else None
    return tuple(
        Kernel(
            f"{family}_{pass_}_{tile.name}_{layout.lower()}",
            family,
            pass_,
            layout,
            None,
            stride,
            tile.tile,
            tile.dtypes,
            tile.least_arch,
            False,
            _PLANNERS[pass_],
            depthwise=False,
            least_channels=tile.least_channels,
            aligned=tile.aligned,
        )
        for tile in tiles
    )


# The preferred first: select takes the first row that serves.
KERNELS: tuple[Kernel, ...] = (
    *_products("grouped", "fprop", "NHWC", _NHWC_TILES),
    *_products("grouped", "fprop", "NCHW", _NCHW_TILES),
    *_products("grouped", "dgrad", "NHWC", _NHWC_TILES),
    *_products("grouped", "dgrad", "NCHW", _NCHW_TILES),
    *_products("transposed", "dgrad", "NHWC", _TRANSPOSED_NHWC_TILES),
    *_products("transposed", "dgrad", "NCHW", _TRANSPOSED_NCHW_TILES),
    *_products("grouped", "wgrad", "NHWC", _WGRAD_NHWC_TILES),
    *_products("grouped", "wgrad", "NCHW", _WGRAD_NCHW_TILES),
    _toeplitz("fprop"),
    _toeplitz("dgrad"),
    *_depthwise("fprop"),
    *_depthwise("dgrad"),
    *_depthwise("wgrad"),
    _planes("transposed", "dgrad", "planes", _HALVES),
    _planes("transposed", "dgrad", "planes_fp32", (torch.float32,)),
    _large("fprop", "NCHW", Tile(128, 1, warps=4, steps=28)),
    _large("fprop", "NHWC", Tile(64, 16, warps=16, steps=28)),
    _large("dgrad", "NCHW", Tile(128, 1, warps=4, steps=28)),
    _large("dgrad", "NHWC", Tile(64, 16, warps=16, steps=28)),
    _large("wgrad", "NCHW", Tile(128, 1, warps=4, steps=64)),
    _large("wgrad", "NHWC", Tile(32, 16, warps=16, steps=64)),
    _transposed_depthwise("blocks49", 49, "NCHW", Tile(128, 1, warps=4, steps=16)),
    _transposed_depthwise("blocks16", 16, "NHWC", Tile(32, 32, warps=16, steps=28)),
    _transposed_depthwise("blocks49", 49, "NHWC", Tile(32, 16, warps=16, steps=28)),
    _naive("fprop", "NCHW", Tile(128, 1, warps=4), depthwise_fprop.plan),
    _naive("fprop", "NHWC", Tile(32, 32, warps=4), depthwise_fprop.plan),
    _naive("dgrad", "NCHW", Tile(128, 1, warps=4), depthwise_dgrad.plan),
    _naive("dgrad", "NHWC", Tile(32, 32, warps=4), depthwise_dgrad.plan),
    _naive("wgrad", "NCHW", Tile(128, 1, warps=4, steps=32), depthwise_wgrad.plan),
    _naive("wgrad", "NHWC", Tile(32, 32, warps=4, steps=16), depthwise_wgrad.plan),
)


def select(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, arch: int | None = None) -> Kernel:
    """The row that serves a pass of a problem on an architecture such as 90 (None: any).

    Raises
    ------
    RuntimeError
        Where there is none; the message says why.
    """
    for row in KERNELS:
        if row.serves(problem, pass_, dtype, layout, arch):
            return row
    reason = unsupported(problem, pass_, dtype)
    if reason is None and arch is not None and arch < min(row.least_arch for row in KERNELS):
        reason = f"has no kernel for sm_{arch}"
    reason = reason or f"would need a grid of more than {LARGEST} programs for {problem}"
    raise RuntimeError(f"{pass_}: backend='triton' {reason}")
