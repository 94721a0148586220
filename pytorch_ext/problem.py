"""ConvProblem: what a convolution is, in numbers, for every backend, test, benchmark row and error message."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

Pass = Literal["fprop", "dgrad", "wgrad"]
Layout = Literal["NCHW", "NHWC"]
Family = Literal["depthwise", "grouped", "dilated", "transposed", "dense"]

PASSES: tuple[Pass, ...] = ("fprop", "dgrad", "wgrad")
LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
NAMED_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}

_AXES = {1: "w", 2: "hw", 3: "dhw"}
_TOKEN = re.compile(r"(mb|g|ic|oc|[ikspd][dhw])(\d+)|(e[dhw])(-?\d+)")
_GRAMMAR = (
    "a problem is written like mb8g144ic144ih56oc144kh3sh2ph1: mb batch, g groups, ic and oc channels, then per axis "
    "(d, h, w) i input, k filter, s stride, p padding, e end padding where it differs, d dilation"
)


# The kernels count positions in 64 bits, in 32 where the tensors are small. Below this no position that they come to,
# in the padded image or under the filter, is out of reach of either.
LARGEST = 2**29


def output_size(input: int, filter: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Output positions along one axis of a convolution; a ValueError where the kernels could not count so far."""
    _check_countable(stride=stride, padding=max(padding), dilation=dilation, extent=dilation * (filter - 1))
    return (input + padding[0] + padding[1] - dilation * (filter - 1) - 1) // stride + 1


def transposed_size(input: int, filter: int, stride: int, padding: int, dilation: int, output_padding: int) -> int:
    """Output positions along one axis of a transposed convolution, likewise."""
    _check_countable(stride=stride, padding=padding, dilation=dilation, extent=dilation * (filter - 1))
    return (input - 1) * stride - 2 * padding + dilation * (filter - 1) + output_padding + 1


def _check_countable(**values: int) -> None:
    for name, value in values.items():
        # A symbolic size is one of a tensor that exists somewhere.
        if isinstance(value, int) and value > LARGEST:
            what = "dilation * (filter - 1)" if name == "extent" else name
            raise ValueError(f"{what}={value} is more than {LARGEST}, the most that the kernels count to")


@dataclass(frozen=True)
class ConvProblem:
    """One convolution in 1 to 3 dimensions, the same for its three passes (fprop, dgrad, wgrad).

    A transposed convolution is described by the convolution that it transposes: its forward is that problem's
    dgrad, its input gradient the fprop. Spatial tuples are in the order depth, height, width.

    Parameters
    ----------
    n, c, k
        Batch, input channels and output channels (filters).
    input, filter
        Spatial sizes of input and filter; their length is the number of dimensions.
    stride, dilation
        One entry per dimension, or one for all of them.
    padding
        A (begin, end) pair of zeros per dimension; a plain int stands for an equal pair, one for all dimensions. A
        negative end crops the input, as the output_padding of a transposed convolution may ask for.
    groups
        Groups of channels; ``groups == c`` is depthwise, and ``k // c`` is then the channel multiplier.
    origin
        Where the problem comes from, as ``model:layer``. Not compared.

    Raises
    ------
    ValueError
        When a size is not positive, groups do not divide the channels, or the output would be empty.

    Examples
    --------
    >>> p = ConvProblem.parse("mb8g144ic144ih56oc144kh3sh2ph1 mobilenet_v2:block3.dw")
    >>> p.output, p.family, str(p)
    ((28, 28), 'depthwise', 'mb8g144ic144ih56oc144kh3sh2ph1')
    """

    n: int
    c: int
    k: int
    input: tuple[int, ...]
    filter: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    padding: tuple[tuple[int, int], ...] = ((0, 0),)
    dilation: tuple[int, ...] = (1,)
    groups: int = 1
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        dims = len(self.input)
        if dims not in _AXES:
            raise ValueError(f"input={self.input} has {dims} spatial sizes; a convolution has 1, 2 or 3")
        for name in ("filter", "stride", "padding", "dilation"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, int) else tuple(value)
            if len(value) == 1:
                value *= dims
            if len(value) != dims:
                raise ValueError(f"{name}={value} has {len(value)} entries, but input={self.input} has {dims}")
            if name == "padding":
                value = tuple((p, p) if isinstance(p, int) else tuple(p) for p in value)
            object.__setattr__(self, name, value)
        if self.n < 0:
            raise ValueError(f"n={self.n} must not be negative")
        for name in ("c", "k", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("input", "filter", "stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1 everywhere")
        if min(begin for begin, _ in self.padding) < 0:
            raise ValueError(f"padding={self.padding} must not begin with a negative number")
        for name in ("c", "k"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"groups={self.groups} does not divide {name}={getattr(self, name)}")
        if min(self.output) < 1:
            raise ValueError(f"the output would be empty: {self.output} for input={self.input}, {self._window()}")

    def _window(self) -> str:
        return f"filter={self.filter}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"

    @classmethod
    def parse(cls, text: str) -> ConvProblem:
        """Read a problem string, with an optional note on its origin behind a space; the inverse of ``str``.

        An axis that is not named inherits the one before it (``iw`` from ``ih``), a missing stride or dilation is 1, a
        missing padding 0, a missing ``mb`` or ``g`` 1. Dilation counts as in torch: 1 is a dense filter.
        """
        shape, _, origin = text.strip().partition(" ")
        values: dict[str, int] = {}
        end = 0
        while match := _TOKEN.match(shape, end):
            key = match[1] or match[3]
            if key in values:
                raise ValueError(f"{key} appears twice in problem {shape!r}")
            values[key] = int(match[2] or match[4])
            end = match.end()
        if end != len(shape) or not values:
            raise ValueError(f"cannot read {shape[end:]!r} in problem {shape!r}; {_GRAMMAR}")
        for key in ("ic", "oc"):
            if key not in values:
                raise ValueError(f"problem {shape!r} has no {key}; {_GRAMMAR}")
        axes = next((axes for axes in ("dhw", "hw", "w") if "i" + axes[0] in values), None)
        if axes is None or "k" + axes[0] not in values:
            raise ValueError(f"problem {shape!r} needs input and filter sizes, as in ih56kh3; {_GRAMMAR}")
        if foreign := [key for key in values if len(key) == 2 and key[1] in "dhw" and key[1] not in axes]:
            raise ValueError(f"{foreign[0]} names an axis that problem {shape!r} does not have: it has {axes}")

        def per_axis(letter: str, default: int) -> tuple[int, ...]:
            sizes: list[int] = []
            for axis in axes:
                sizes.append(values.get(letter + axis, sizes[-1] if sizes else default))
            return tuple(sizes)

        begin = per_axis("p", 0)
        end_padding = tuple(values.get("e" + axis, p) for axis, p in zip(axes, begin, strict=True))
        return cls(
            n=values.get("mb", 1),
            c=values["ic"],
            k=values["oc"],
            input=per_axis("i", 1),
            filter=per_axis("k", 1),
            stride=per_axis("s", 1),
            padding=tuple(zip(begin, end_padding, strict=True)),
            dilation=per_axis("d", 1),
            groups=values.get("g", 1),
            origin=origin.strip(),
        )

    def __str__(self) -> str:
        axes = _AXES[self.ndim]

        def write(letter: str, sizes: Sequence[int], default: int | None = None) -> str:
            text, inherited = "", default
            for axis, size in zip(axes, sizes, strict=True):
                if size != inherited:
                    text += f"{letter}{axis}{size}"
                inherited = size
            return text

        return (
            f"mb{self.n}"
            + (f"g{self.groups}" if self.groups != 1 else "")
            + f"ic{self.c}{write('i', self.input)}oc{self.k}{write('k', self.filter)}"
            + write("s", self.stride, 1)
            + write("p", [begin for begin, _ in self.padding], 0)
            + "".join(f"e{axis}{e}" for axis, (b, e) in zip(axes, self.padding, strict=True) if e != b)
            + write("d", self.dilation, 1)
        )

    @property
    def ndim(self) -> int:
        """Number of spatial dimensions: 1, 2 or 3."""
        return len(self.input)

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(
            output_size(i, f, s, p, d)
            for i, f, s, p, d in zip(self.input, self.filter, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the input, (n, c, *input)."""
        return (self.n, self.c, *self.input)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """Shape of the filter, (k, c // groups, *filter)."""
        return (self.k, self.c // self.groups, *self.filter)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the output, (n, k, *output)."""
        return (self.n, self.k, *self.output)

    @property
    def depthwise(self) -> bool:
        """Whether each input channel has filters of its own; ``k // c`` is then the channel multiplier."""
        return self.groups == self.c

    @property
    def family(self) -> Family:
        """The family by shape: depthwise first, then dilated, grouped, and dense for what is left.

        A strided dgrad belongs to the transposed family whatever its shape; that depends on the pass, not on this.
        """
        if self.depthwise:
            return "depthwise"
        if max(self.dilation) > 1:
            return "dilated"
        return "grouped" if self.groups > 1 else "dense"

    @property
    def parameters(self) -> int:
        """Filter elements, without bias."""
        return math.prod(self.w_shape)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of each pass: each output sums c / groups channels times the filter's taps.

        Taps that meet padding are counted. Many papers say "FLOPs" where they count these.
        """
        return math.prod(self.y_shape) * (self.c // self.groups) * math.prod(self.filter)

    @property
    def flops(self) -> int:
        """Floating-point operations of each pass, two per multiply-add."""
        return 2 * self.multiply_adds

    @property
    def memory_access_cost(self) -> int:
        """Elements that each pass has to move at least: its two inputs read once, its output written once.

        For a 1x1 convolution of one h x w image this is hw(c1 + c2) + c1 c2 / g, the "memory access cost" of Ma et al.,
        ShuffleNet V2, ECCV 2018, arXiv:1807.11164, section 2.
        """
        return math.prod(self.x_shape) + math.prod(self.w_shape) + math.prod(self.y_shape)

    def compulsory_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """The memory access cost in bytes."""
        return self.memory_access_cost * dtype.itemsize

    def arithmetic_intensity(self, dtype: torch.dtype = torch.float32) -> float:
        """FLOPs per compulsory byte; below a machine's ridge a problem is bound by memory, above it by arithmetic.

        This is the roofline model's operational intensity: Williams et al., Roofline, CACM 52(4), 2009.
        """
        return self.flops / self.compulsory_bytes(dtype)
