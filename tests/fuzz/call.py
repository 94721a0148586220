"""One call of a public function with all its gradients, held against torch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.check import explain_inexact, poisoned_outputs
from support.preferring import native_preferred
from support.problems import ISA_VARIABLE
from torch import Tensor

import convbound
from convbound import layout
from convbound.problem import NAMED_DTYPES, Pass
from fuzz.judge import Pasted, Wrong, check_close, check_exact, check_strides
from fuzz.memory import Place, View, place

# The largest sum that the dtype's accumulator, and the largest value that the dtype, holds exactly.
_LARGEST = {"fp16": (60_000, 2**11), "bf16": (2**24, 2**8), "fp32": (2**24, 2**12), "fp64": (2**50, 2**20)}

Options = dict[str, Any]
Sizes = tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Call(Pasted):
    """Sizes, options and tensors of a call. ``c`` and ``k`` are per group; an `n` of None is a call without a batch.

    `wanted` names the tensors that require a gradient: x, w and b. `twice` takes the gradients of the gradients too.
    `preferring` are the passes for which ``auto`` takes native kernels; `options` are those of the emulator.
    """

    function: str
    backend: str
    n: int | None
    c: int
    k: int
    input: Sizes
    filter: Sizes
    groups: int = 1
    stride: Sizes | int = 1
    padding: Sizes | int | str = 0
    output_padding: Sizes | int = 0
    dilation: Sizes | int = 1
    bias: bool = False
    dtype: str = "fp32"
    data: str = "integers"
    wanted: str = "xwb"
    twice: bool = False
    views: tuple[View, View, View] = ("dense", "dense", "dense")  # of x, w and the gradient of y
    places: tuple[Place, Place, Place] = ("begin", "begin", "begin")
    preferring: tuple[Pass, ...] = ()
    threads: int = 1
    isa: str = ""
    options: str = ""
    seed: int = 0

    @property
    def transposed(self) -> bool:
        """Whether the function is a conv_transpose."""
        return "transpose" in self.function

    @property
    def labels(self) -> tuple[str, ...]:
        """Under which names a run of this case is counted."""
        return (f"{self.backend}: {self.function}, {self.dtype}",)

    def options_of(self) -> Options:
        """The function's arguments besides the tensors."""
        found: Options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return {**found, "groups": self.groups} | ({"output_padding": self.output_padding} if self.transposed else {})

    def _numbers(self) -> Iterator[Sizes]:
        for value in self.options_of().values():
            if not isinstance(value, str):
                yield value if isinstance(value, tuple) else (value,)

    def shapes(self) -> tuple[Sizes, Sizes, Sizes]:
        """Of x, w and bias."""
        c, k = self.groups * self.c, self.groups * self.k
        w = (c, self.k) if self.transposed else (k, self.c)
        return (*([] if self.n is None else [self.n]), c, *self.input), (*w, *self.filter), (k,)

    def y_shape(self) -> Sizes | None:
        """What torch says; None where it refuses the call."""
        x, w, _ = (torch.empty(shape, device="meta") for shape in self.shapes())
        try:
            return tuple(getattr(F, self.function)(x, w, **self.options_of()).shape)
        except (RuntimeError, ValueError, TypeError):
            return None

    def check(self) -> None:
        """Raise a :class:`Wrong` where torch and convbound differ."""
        with self._environment():
            operands = Operands.of(self)
            # Where strides are open, torch's own kernels may err, or read outside of a filter.
            regular = operands if self._has_strides(operands) else operands.map(_contiguous)
            torchs = outcome(getattr(F, self.function), self, regular)
            before = [tensor.clone() for tensor in operands.tensors]
            with poisoned_outputs():
                ours = outcome(getattr(convbound, self.function), self, operands, backend=self.backend)
            if not all(map(torch.equal, before, operands.tensors)):
                raise Wrong("changed input", "a tensor of the caller has changed")
            self._judge(operands, ours, torchs)

    def _judge(self, operands: Operands, ours: Outcome, torchs: Outcome) -> None:
        if ours.error is not None or torchs.error is not None:
            self._judge_errors(ours.error, torchs.error, self._has_strides(operands))
            return
        for name, result in torchs.results.items():
            if name not in ours.results:
                raise Wrong("no gradient", f"{name} is None, torch's has shape {tuple(result.shape)}")
            if not name.startswith("d2") and self._has_strides(operands):
                check_strides(name, ours.results[name], result)
        dtype = NAMED_DTYPES[self.dtype]
        doubles = outcome(getattr(F, self.function), self, operands.map(_clean))
        if doubles.error is not None:  # an empty output is refused in some dtypes; elsewhere gradients are zeros
            check_exact(ours.results, torchs.results, dtype)
            return
        right = doubles.results
        if self.data == "integers" and self.backend != "auto":
            check_exact(ours.results, right, dtype)
            return
        if self.data == "integers" and not explain_inexact(ours.results, right, dtype):
            return  # torch's own kernels need not be exact in 16 bits
        magnitudes = outcome(getattr(F, self.function), self, operands.map(lambda t: _clean(t).abs())).results
        terms = operands.terms
        check_close(ours.results, right, magnitudes, terms, dtype, torchs.results)

    def _has_strides(self, operands: Operands) -> bool:
        """Whether strides of the results say something.

        Of an empty batch torch returns whatever was at hand. A size of 1 leaves a stride open, which torch's layout may
        depend on: that is asked of plain layouts only.
        """
        plain = {"dense", "channels_last"}.issuperset(self.views) and self.padding != "same"
        open_ = any(1 in t.shape[1:] for t in (operands.x, operands.w))
        # Where oneDNN takes 16 bits nobody has looked yet.
        seen = self.dtype == "fp32" or NAMED_DTYPES[self.dtype] not in layout._ONEDNN_DTYPES
        return self.n != 0 and ((plain and seen) or not open_)

    def _judge_errors(self, ours: Exception | None, torchs: Exception | None, alike: bool) -> None:
        """`alike`: torch got the very same strides, which some of its words depend on."""
        if torchs is None:
            # Native kernels say what they do not cover.
            if "has kernels for 1 and 2 spatial dimensions" in str(ours) and len(self.input) == 3:
                return
            counted = "beyond 2^" in str(ours) or "the most that the kernels count to" in str(ours)
            if counted and any(max(v) >= 2**29 for v in self._numbers()):
                return
            if self.n == 0 and "output_padding" in str(ours):  # of which torch looks at no more than an empty batch
                return
            raise Wrong("refused", f"torch takes it, but {type(ours).__name__}: {ours}")
        if ours is None:
            raise Wrong("accepted", f"torch refuses it, {type(torchs).__name__}: {torchs}")
        if not isinstance(ours, (RuntimeError, ValueError, TypeError)) or "INTERNAL ASSERT" in str(ours):
            raise Wrong("other error", f"{type(ours).__name__}: {ours}; torch's {type(torchs).__name__}: {torchs}")
        if self.backend == "auto" and (type(ours) is not type(torchs) or (alike and str(ours) != str(torchs))):
            raise Wrong("other error", f"{type(ours).__name__}: {ours}; torch's {type(torchs).__name__}: {torchs}")

    @contextmanager
    def _environment(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
            for variable, value in ((ISA_VARIABLE, self.isa), ("CONVBOUND_SIMT_OPTIONS", self.options)):
                if value:
                    patch.setenv(variable, value)
                else:
                    patch.delenv(variable, raising=False)
            if self.threads != threads:
                torch.set_num_threads(self.threads)
            if self.backend == "auto":
                stack.enter_context(native_preferred(self.preferring))
            try:
                yield
            finally:
                if self.threads != threads:
                    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Operands:
    """The tensors of a call, the gradient of its result, and the directions of second derivatives."""

    x: Tensor
    w: Tensor
    b: Tensor | None
    dy: Tensor | None
    terms: int  # the longest sum
    directions: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        return [t for t in (self.x, self.w, self.b, self.dy) if t is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> Operands:
        """The same change made to all tensors."""
        x, w, b, dy = (None if t is None else change(t.detach()) for t in (self.x, self.w, self.b, self.dy))
        assert x is not None
        assert w is not None
        return replace(self, x=x, w=w, b=b, dy=dy, directions={k: change(v) for k, v in self.directions.items()})

    @classmethod
    def of(cls, call: Call) -> Operands:
        """Integers for which every sum is exact, or numbers of a normal distribution."""
        draw, generator = Random(call.seed), torch.Generator().manual_seed(call.seed)
        x_shape, w_shape, b_shape = call.shapes()
        y_shape = call.y_shape()
        spatial = len(call.input)
        longest = max(math.prod(call.input), math.prod(y_shape[-spatial:]) if y_shape else 0)
        terms = max(1, max(call.c, call.k) * math.prod(call.filter), (call.n or 1) * longest)
        largest_sum, largest_value = _LARGEST[call.dtype]
        largest = 1 if call.twice else max(1, min(largest_value, math.isqrt(largest_sum // (terms + 1))))
        dtype = NAMED_DTYPES[call.dtype]

        def values(shape: Sequence[int]) -> Tensor:
            if call.data == "reals":
                return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)
            return torch.randint(-largest, largest + 1, tuple(shape), generator=generator).to(dtype)

        def placed(shape: Sequence[int], at: int) -> Tensor:
            return place(values(shape), call.views[at], call.places[at], draw)

        x, w = placed(x_shape, 0), placed(w_shape, 1)
        b = place(values(b_shape), "dense", call.places[0], draw) if call.bias else None
        dy = None if y_shape is None else placed(y_shape, 2)
        directions = {}
        if call.twice and dy is not None:
            named = {"x": x, "w": w, "b": b}
            directions = {name: values(t.shape) for name, t in named.items() if t is not None}
        return cls(x, w, b, dy, terms, directions)


@dataclass
class Outcome:
    """The results of a call by name, or its error."""

    results: dict[str, Tensor] = field(default_factory=dict)
    error: Exception | None = None


def outcome(function: Callable[..., Tensor], call: Call, operands: Operands, **backend: str) -> Outcome:
    """What a function makes of the call: y, the gradients that are wanted, and those of these gradients."""
    found = Outcome()
    leaves = {"x": operands.x.detach(), "w": operands.w.detach()}
    if operands.b is not None:
        leaves["b"] = operands.b.detach()
    wanted = {name: leaf.requires_grad_() for name, leaf in leaves.items() if name in call.wanted}
    try:
        y = function(leaves["x"], leaves["w"], leaves.get("b"), **call.options_of(), **backend)
        found.results["y"] = y.detach()
        if not wanted or operands.dy is None:
            return found
        dy = operands.dy.detach().requires_grad_(call.twice)
        first = torch.autograd.grad(y, list(wanted.values()), dy, create_graph=call.twice)
        found.results |= {f"d{name}": g.detach() for name, g in zip(wanted, first, strict=True)}
        if call.twice:
            inputs = {**wanted, "dy": dy}
            directions = [operands.directions[name] for name in wanted]
            tangled = [(g, v) for g, v in zip(first, directions, strict=True) if g.requires_grad]
            if tangled:
                gs, vs = zip(*tangled, strict=True)
                second = torch.autograd.grad(gs, list(inputs.values()), vs, allow_unused=True)
                found.results |= {
                    f"d2{name}": g.detach()
                    for name, g in zip(inputs, second, strict=True)
                    if g is not None and g.any()  # torch gives zeros for some that are none
                }
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        found.error = error
    return found


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _clean(tensor: Tensor) -> Tensor:
    """In fp64 and contiguous: of a size of 1 with an odd stride torch's own kernels make a wrong result at times."""
    return _contiguous(tensor.double())
