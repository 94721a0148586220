"""The Triton kernels, one row each, with the columns of the CUDA registry: what explain, tests and benchmark read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

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
from convbound.kernels.depthwise_planes import PlaneTile
from convbound.kernels.depthwise_toeplitz import ToeplitzTile
from convbound.kernels.grouped_wgrad import SplitTile
from convbound.kernels.implicit_gemm import ProductTile, packed_groups
from convbound.kernels.launch import Plan
from convbound.kernels.limits import LARGEST, unsupported
from convbound.kernels.strips import StripTile
from convbound.kernels.tile import PositionTile, Tile
from convbound.problem import DTYPES, ConvProblem, Family, Layout, Pass

Planner = Callable[[ConvProblem, torch.dtype, Layout, Any, bool], Plan]  # of a tile of its family


@dataclass(frozen=True)
class Kernel:
    """One row. A stride of None means any; `least_arch` is a compute capability such as 80.

    Rows are for depthwise problems, or for all others. `naive` ones are version 0, for readers and for what nothing
    faster covers: ``backend="auto"`` never takes them. Those with `tensor_cores` multiply by ``tl.dot``. `able` tells
    what else a problem has to be like; of an `aligned` row, that channels come in multiples of 16.
    """

    name: str
    family: Family
    pass_: Pass
    layout: Layout
    tile: Tile
    dtypes: tuple[torch.dtype, ...]
    planner: Planner
    depthwise: bool
    stride: tuple[int, int] | None = None
    least_arch: int = 80
    naive: bool = False
    tensor_cores: bool = False
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
            and self.stride in (None, (1, *problem.stride)[-2:])
            and (self.able is None or self.able(problem))
            and unsupported(problem, pass_, dtype) is None
            and self._fits_a_grid(problem, dtype)
        )

    def _fits_a_grid(self, problem: ConvProblem, dtype: torch.dtype) -> bool:
        """Whether its launches have no more programs than a grid; those of smaller problems are not counted."""
        if max(math.prod(problem.x_shape), math.prod(problem.y_shape)) <= LARGEST // 16:
            return True
        return all(launch.programs <= LARGEST for launch in self.plan(problem, dtype, bias=True).launches)


_HALVES = (torch.float16, torch.bfloat16)
_SINGLE = (torch.float32,)
_PLANNERS: dict[str, dict[Pass, Planner]] = {
    "naive": {"fprop": depthwise_fprop.plan, "dgrad": depthwise_dgrad.plan, "wgrad": depthwise_wgrad.plan},
    "rows": {
        "fprop": depthwise_rows.plan_fprop,
        "dgrad": depthwise_rows.plan_dgrad,
        "wgrad": depthwise_rows_wgrad.plan,
    },
    "planes": {"fprop": depthwise_planes.plan_fprop, "dgrad": depthwise_planes.plan_dgrad},
    "toeplitz": {"fprop": depthwise_toeplitz.plan_fprop, "dgrad": depthwise_toeplitz.plan_dgrad},
    "large": {
        "fprop": depthwise_large.plan_fprop,
        "dgrad": depthwise_large.plan_dgrad,
        "wgrad": depthwise_rows_wgrad.plan,
    },
    "products": {"fprop": grouped_fprop.plan, "dgrad": grouped_dgrad.plan, "wgrad": grouped_wgrad.plan},
}


def _naive(pass_: Pass, layout: Layout, tile: PositionTile) -> Kernel:
    name, planner = f"depthwise_{pass_}_naive_{layout.lower()}", _PLANNERS["naive"][pass_]
    return Kernel(name, "depthwise", pass_, layout, tile, DTYPES, planner, depthwise=True, naive=True)


def _designed(
    family: Family,
    pass_: Pass,
    name: str,
    layout: Layout,
    tile: Tile,
    planner: Planner,
    able: Callable[[ConvProblem], bool],
    dtypes: tuple[torch.dtype, ...] = (*_HALVES, torch.float32),
    tensor_cores: bool = False,
) -> Kernel:
    """A depthwise row that is not version 0. A dgrad with a stride is of the transposed family."""
    return Kernel(
        f"{family}_{pass_}_{name}_{layout.lower()}",
        family,
        pass_,
        layout,
        tile,
        dtypes,
        planner,
        depthwise=True,
        stride=(1, 1) if (family, pass_) == ("depthwise", "dgrad") else None,
        tensor_cores=tensor_cores,
        able=able,
    )


def _rows(name: str, taps: int, layout: Layout, tile: StripTile, pass_: Pass, line: bool = False) -> Kernel:
    """A row of depthwise_rows, for filters of at most so many taps, or for signals in one dimension."""

    def able(problem: ConvProblem) -> bool:
        serves = depthwise_rows.serves_dgrad if pass_ == "dgrad" else depthwise_rows.serves_fprop
        return math.prod(problem.filter) <= taps and (problem.ndim == 1 or not line) and serves(problem)

    return _designed("depthwise", pass_, name, layout, tile, _PLANNERS["rows"][pass_], able)


def _depthwise(pass_: Pass) -> tuple[Kernel, ...]:
    """The rows of depthwise_rows, with at most so many rows of the image to a strip.

    The more taps, the fewer channels per thread, for each keeps its filter, or its sums, in registers.
    """
    line = _rows("line", 9, "NCHW", StripTile(512, 1, 1, warps=4), pass_, line=True)
    if pass_ == "wgrad":
        return (
            line,
            _rows("line", 9, "NHWC", StripTile(64, 32, 1, warps=16), pass_, line=True),
            _rows("rows49", 49, "NCHW", StripTile(128, 1, 64, warps=4), pass_),
            _rows("rows9", 9, "NHWC", StripTile(32, 16, 64, warps=8), pass_),
            _rows("rows49", 49, "NHWC", StripTile(32, 16, 64, warps=16), pass_),
        )
    return (
        line,
        _rows("line", 9, "NHWC", StripTile(128, 32, 1, warps=16), pass_, line=True),
        _planes("depthwise", pass_, "planes", _HALVES),
        _planes("depthwise", pass_, "planes_fp32", _SINGLE),
        _rows("rows49", 49, "NCHW", StripTile(128, 1, 16, warps=4), pass_),
        _rows("rows9", 9, "NHWC", StripTile(32, 32, 28, warps=8), pass_),
        _rows("rows25", 25, "NHWC", StripTile(32, 32, 28, warps=16), pass_),
        _rows("rows49", 49, "NHWC", StripTile(32, 16, 28, warps=16), pass_),
    )


def _planes(family: Family, pass_: Pass, name: str, dtypes: tuple[torch.dtype, ...]) -> Kernel:
    """A row of depthwise_planes, for dtypes of one size, which tells where whole planes pay."""
    tile = PlaneTile(128, warps=4)

    def able(problem: ConvProblem) -> bool:
        strided = family == "transposed" and math.prod(problem.stride) == 1
        return not strided and depthwise_planes.serves(problem, pass_, tile, dtypes[0].itemsize)

    return _designed(family, pass_, name, "NCHW", tile, _PLANNERS["planes"][pass_], able, dtypes)


def _toeplitz(pass_: Pass) -> Kernel:
    tile, planner = ToeplitzTile(128, warps=8), _PLANNERS["toeplitz"][pass_]
    able = depthwise_toeplitz.serves
    return _designed("depthwise", pass_, "toeplitz", "NCHW", tile, planner, able, _HALVES, tensor_cores=True)


def _large(pass_: Pass, layout: Layout, tile: StripTile) -> Kernel:
    """A row of depthwise_large, or in wgrad of depthwise_rows_wgrad, for filters of any size."""
    swaps = pass_ != "wgrad" and layout == "NHWC"

    def able(problem: ConvProblem) -> bool:
        return depthwise_large.serves(problem, swaps)

    return _designed("depthwise", pass_, "large", layout, tile, _PLANNERS["large"][pass_], able)


def _transposed_depthwise(name: str, taps: int, layout: Layout, tile: StripTile) -> Kernel:
    """A row of transposed_depthwise, for filters of at most so many taps."""

    def able(problem: ConvProblem) -> bool:
        return math.prod(problem.filter) <= taps and transposed_depthwise.serves(problem)

    return _designed("transposed", "dgrad", name, layout, tile, transposed_depthwise.plan, able)


@dataclass(frozen=True)
class _Product:
    """A tile of matrix products: what its rows are called, and what they are for.

    `least_channels` are the fewest per group that it is meant for, of the pass's result (of dy in wgrad).
    """

    name: str
    tile: ProductTile
    dtypes: tuple[torch.dtype, ...] = _HALVES
    least_channels: int = 1
    least_arch: int = 80
    aligned: bool = False

    def serves(self, problem: ConvProblem, pass_: Pass) -> bool:
        """Whether groups have channels enough; if aligned, whether they and their packs come in multiples of 16."""
        group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
        result = group_c if pass_ == "dgrad" else group_k
        pack = packed_groups(problem, result, self.tile.rows if pass_ == "wgrad" else self.tile.columns)
        channels = (problem.c, problem.k, pack * group_c, pack * group_k)
        return result >= self.least_channels and not (self.aligned and any(size % 16 for size in channels))


# Where channels lie side by side and by 16, tiles are as large as registers and shared memory allow. Elsewhere each
# element is loaded by its own address, which takes a register or two: 8 warps share a smaller tile. So do the phases of
# a strided dgrad, and products of NCHW.
_DOUBLE_TILE = _Product("fp64", ProductTile(32, 32, 16, warps=4), (torch.float64,))
_ANY_TILE = _Product("any", ProductTile(64, 32, 32, warps=8), (*_HALVES, torch.float32))
_PACKS_TILE = _Product("packs", ProductTile(128, 32, 32, warps=4), aligned=True)
_SINGLE_TILE = _Product("fp32", ProductTile(64, 64, 32, stages=3, warps=8), _SINGLE, 33)
_NHWC_TILES = (
    _Product("128x256", ProductTile(128, 256, 64, stages=3, warps=8), least_channels=256, least_arch=90, aligned=True),
    _Product("128x128", ProductTile(128, 128, 64, stages=3, warps=8), least_channels=128, aligned=True),
    _Product("128x64", ProductTile(128, 64, 64, stages=3, warps=4), least_channels=33, aligned=True),
    _PACKS_TILE,
    _SINGLE_TILE,
    _ANY_TILE,
    _DOUBLE_TILE,
)
_NCHW_TILES = (
    _Product("128x64", ProductTile(128, 64, 32, warps=8), least_channels=33),
    _SINGLE_TILE,
    _ANY_TILE,
    _DOUBLE_TILE,
)
_TRANSPOSED_NHWC_TILES = (
    _Product("128x64", ProductTile(128, 64, 32, stages=3, warps=8), least_channels=33, aligned=True),
    _PACKS_TILE,
    _ANY_TILE,
    _DOUBLE_TILE,
)
_TRANSPOSED_NCHW_TILES = (_ANY_TILE, _DOUBLE_TILE)
_WGRAD_NCHW_TILES = (
    _Product("64x64", SplitTile(64, 64, 32, stages=3, warps=8, steps=8), (*_HALVES, torch.float32), 33),
    _Product("packs", SplitTile(32, 128, 32, warps=8, steps=8), (*_HALVES, torch.float32)),
    _Product("fp64", SplitTile(32, 32, 16, warps=4, steps=16), (torch.float64,)),
)
_WGRAD_NHWC_TILES = (
    _Product("128x128", SplitTile(128, 128, 32, stages=4, warps=8, steps=8), least_channels=128, aligned=True),
    *_WGRAD_NCHW_TILES,
)


def _products(family: Family, pass_: Pass, layout: Layout, tiles: tuple[_Product, ...]) -> tuple[Kernel, ...]:
    """The rows of matrix products; dgrad with any stride is of the transposed family, of the grouped one the rest."""
    return tuple(
        Kernel(
            f"{family}_{pass_}_{product.name}_{layout.lower()}",
            family,
            pass_,
            layout,
            product.tile,
            product.dtypes,
            _PLANNERS["products"][pass_],
            depthwise=False,
            stride=(1, 1) if (family, pass_) == ("grouped", "dgrad") else None,
            least_arch=product.least_arch,
            tensor_cores=True,
            aligned=product.aligned,
            able=partial(product.serves, pass_=pass_),
        )
        for product in tiles
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
    _planes("transposed", "dgrad", "planes_fp32", _SINGLE),
    _large("fprop", "NCHW", StripTile(128, 1, 28, warps=4)),
    _large("fprop", "NHWC", StripTile(64, 16, 28, warps=16)),
    _large("dgrad", "NCHW", StripTile(128, 1, 28, warps=4)),
    _large("dgrad", "NHWC", StripTile(64, 16, 28, warps=16)),
    _large("wgrad", "NCHW", StripTile(128, 1, 64, warps=4)),
    _large("wgrad", "NHWC", StripTile(32, 16, 64, warps=16)),
    _transposed_depthwise("blocks49", 49, "NCHW", StripTile(128, 1, 16, warps=4)),
    _transposed_depthwise("blocks16", 16, "NHWC", StripTile(32, 32, 28, warps=16)),
    _transposed_depthwise("blocks49", 49, "NHWC", StripTile(32, 16, 28, warps=16)),
    _naive("fprop", "NCHW", PositionTile(128, 1, warps=4)),
    _naive("fprop", "NHWC", PositionTile(32, 32, warps=4)),
    _naive("dgrad", "NCHW", PositionTile(128, 1, warps=4)),
    _naive("dgrad", "NHWC", PositionTile(32, 32, warps=4)),
    _naive("wgrad", "NCHW", PositionTile(128, 1, steps=32, warps=4)),
    _naive("wgrad", "NHWC", PositionTile(32, 32, steps=16, warps=4)),
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
