"""How the depthwise row kernels cut a convolution: lanes of columns and channels, and strips of rows that fit in L1.

A program loads each value of x once for each column of the filter. All but the first of these loads hit L1, if what the
program needs stays there: so its rows are as few as fit into its share of an H100's L1 that all programs fill which an
SM has registers for. Filter or sums are in registers, so large filters leave few programs, and each a large share. The
cut is the same on all GPUs, and so are the sums of wgrad.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from convbound.kernels.launch import L1, residents
from convbound.kernels.tile import Tile
from convbound.problem import Layout

SECTOR = 32
# What a thread has registers for besides its filter or sums; a test finds as many in each compiled kernel.
OTHER_REGISTERS = 16


@dataclass(frozen=True)
class StripTile(Tile):
    """`columns` of an image times `channels`, and at most so many `rows` to a strip.

    The channels of NHWC are those of 16-bit types; of wider types a program takes as many as are as many bytes.
    """

    columns: int
    channels: int
    rows: int


@dataclass(frozen=True)
class Strips:
    """Lanes of a program, whose threads have at least so many `registers`, and `rows` of output in a strip.

    A plane has `of_a_plane` strips, by columns, classes of rows modulo the dilation, and rows; a program walks over
    `per_program` of them, one after the other.
    """

    columns: int
    channels: int
    warps: int
    registers: int
    rows: int
    of_a_plane: int
    per_program: int


def cut(
    sizes: dict[str, int], r: int, s: int, tile: StripTile, layout: Layout, dtype: torch.dtype, wgrad: bool
) -> Strips:
    """The strips of x (C, H, W) for outputs (K, P, Q), of at most `tile.rows` rows; in wgrad both are loaded.

    In NHWC a tile has the channels of 16-bit types; of wider ones it takes as many as are as many bytes, and where a
    dilation reaches far over the tile's columns, it takes more columns of fewer channels, down to a sector.
    """
    channels = max(1, tile.channels * 2 // dtype.itemsize) if layout == "NHWC" else tile.channels
    lanes = tile.columns * channels
    shift = (s - 1) * sizes["dilation_w"]
    positions = tile.columns
    if layout == "NHWC" and 4 * shift > positions:
        positions = max(positions, lanes * dtype.itemsize // SECTOR)
    columns = min(positions, int(triton.next_power_of_2(sizes["Q"])))
    channels = lanes // columns
    warps = max(1, min(tile.warps, lanes // 32))
    registers = r * s * max(1, lanes // (32 * warps)) + OTHER_REGISTERS

    planes = min(channels, sizes["K"])

    def row_bytes(width: int, of: int) -> int:
        """What so many columns of all channels take; parts of a row in NCHW begin and end within a sector."""
        return planes * (width * dtype.itemsize + (SECTOR if layout == "NCHW" and width < of else 0))

    read = min(sizes["W"], (columns - 1) * sizes["stride_w"] + shift + 1)
    x_row, y_row = row_bytes(read, sizes["W"]), row_bytes(min(columns, sizes["Q"]), sizes["Q"])
    halo = max(0, r - sizes["stride_h"]) * x_row
    per_row = sizes["stride_h"] * x_row + (y_row if wgrad else 0)
    share = L1 // residents(warps, registers) - (0 if wgrad else planes * (r * s * dtype.itemsize + SECTOR))
    classes = min(sizes["dilation_h"], sizes["P"])
    of_a_class = triton.cdiv(sizes["P"], classes)
    strips = triton.cdiv(of_a_class, max(1, min(tile.rows, (share - halo) // per_row)))
    rows = triton.cdiv(of_a_class, strips)
    of_a_plane = triton.cdiv(sizes["Q"], columns) * classes * triton.cdiv(of_a_class, rows)

    # Planes that are smaller than their parts with halos are not cut.
    plane = planes * (sizes["H"] * sizes["W"] + (sizes["P"] * sizes["Q"] if wgrad else 0)) * dtype.itemsize
    per_program = share // (rows * per_row + halo) if wgrad else 1
    if classes > 1 and plane <= share:
        per_program = of_a_plane * (share // plane if wgrad else 1)
    return Strips(columns, channels, warps, registers, rows, of_a_plane, max(1, per_program))
