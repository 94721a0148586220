"""Where a program of the grid stands: device code that the kernels share, and the sizes that they take."""

# Arguments of a Triton kernel have no Python types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass, field, fields

import triton
import triton.language as tl

from convbound.problem import ConvProblem


@dataclass(frozen=True)
class Tile:
    """What one program computes at once, by `warps` warps. Each family of kernels names the sizes of its own."""

    warps: int = field(kw_only=True)

    def __str__(self) -> str:
        return ", ".join(f"{size.name} {getattr(self, size.name)}" for size in fields(self))


@dataclass(frozen=True)
class PositionTile(Tile):
    """Of version 0: `positions` of an image, or in wgrad of all images, times `channels`.

    A wgrad program sums over its positions, at most `steps` times in a row.
    """

    positions: int
    channels: int
    steps: int = 1


@triton.jit
def locate(channels, positions, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr):
    """The image of this program (64 bits), its positions [POSITIONS, 1] and its channels [1, CHANNELS].

    Programs are numbered channels first, then positions, then images, all on axis 0 of the grid: axes 1 and 2 end at
    65535. Positions and channels may lie beyond the last; the caller masks them.
    """
    channel_tiles = tl.cdiv(channels, CHANNELS)
    position_tiles = tl.cdiv(positions, POSITIONS)
    program = tl.program_id(0)
    rest = program // channel_tiles
    channel = program % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)
    position = rest % position_tiles * POSITIONS + tl.arange(0, POSITIONS)
    return (rest // position_tiles).to(tl.int64), position[:, None], channel[None, :]


def sizes(problem: ConvProblem) -> dict[str, int]:
    """The integer arguments of the kernels, by name. In one dimension the height is 1."""

    def plane(values: tuple[int, ...], fill: int) -> tuple[int, ...]:
        return (fill, *values)[-2:]

    (h, w), (p, q) = plane(problem.input, 1), plane(problem.output, 1)
    # A stride does not move a single output, nor a dilation a single tap: such ones may be of any size.
    stride_h, stride_w = (1 if o == 1 else s for o, s in zip((p, q), plane(problem.stride, 1), strict=True))
    padding_h, padding_w = plane(tuple(begin for begin, _ in problem.padding), 0)
    filters, dilations = plane(problem.filter, 1), plane(problem.dilation, 1)
    dilation_h, dilation_w = (1 if r == 1 else d for r, d in zip(filters, dilations, strict=True))
    return {
        "C": problem.c,
        "H": h,
        "W": w,
        "K": problem.k,
        "P": p,
        "Q": q,
        "stride_h": stride_h,
        "stride_w": stride_w,
        "padding_h": padding_h,
        "padding_w": padding_w,
        "dilation_h": dilation_h,
        "dilation_w": dilation_w,
    }


def exchanged(arguments: dict[str, int]) -> dict[str, int]:
    """The sizes where input and output have changed places: dgrad reads dy and computes dx."""
    return arguments | {name: arguments[other] for name, other in zip("CHWKPQ", "KPQCHW", strict=True)}


def constants(problem: ConvProblem, layout: str, tile: PositionTile) -> dict[str, int | bool]:
    """The compile-time arguments of the kernels, by name."""
    r, s = (1, *problem.filter)[-2:]
    return {
        "R": r,
        "S": s,
        "MULTIPLIER": problem.k // problem.c,
        "CHANNELS_LAST": layout == "NHWC",
        "POSITIONS": tile.positions,
        "CHANNELS": tile.channels,
    }
