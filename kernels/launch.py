"""Launches as data, so that one description of them is run on a GPU, interpreted, and compiled without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import triton
from torch import Tensor

from convbound.fakes import empty_dense
from convbound.kernels.limits import LARGEST
from convbound.problem import ConvProblem, Layout, Pass

REGISTERS = 65536  # of an SM
ALIGNMENT = 16  # of a tensor's address, which Triton makes use of
# Of an H100: L1 with shared memory, warps and blocks of an SM.
L1, WARPS, BLOCKS = 256 * 1024, 64, 32

# What the sizes of a program are called in the kernels, each of which has some of them.
TILE_SIZES = ("POSITIONS", "PLANES", "ROWS", "COLUMNS", "BLOCKS", "CHANNELS", "DEPTH", "PACK", "CHUNKS", "ELEMENTS")

if triton.knobs.runtime.interpret:
    import convbound.kernels.interpreter  # noqa: F401


def architecture(device: torch.device) -> int | None:
    """10 * major + minor of a GPU's compute capability; None where kernels are interpreted, for any of them can be."""
    if triton.knobs.runtime.interpret:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def operands(problem: ConvProblem, pass_: Pass, like: Tensor, layout: Layout) -> dict[str, Tensor | None]:
    """What a plan runs with, by name: uninitialised tensors with dtype and device of `like`, and no bias."""
    names = {"fprop": ("x", "w", "y"), "dgrad": ("dx", "w", "dy"), "wgrad": ("x", "dw", "dy")}[pass_]
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape)
    tensors: dict[str, Tensor | None] = {"dbias" if pass_ == "wgrad" else "bias": None}
    return tensors | {n: empty_dense(like, s, layout == "NHWC") for n, s in zip(names, shapes, strict=True)}


def residents(warps: int, registers: int) -> int:
    """How many programs an SM holds at once, by their warps and the registers of a thread."""
    by_registers = REGISTERS // (32 * warps * max(8, -(-registers // 8) * 8))
    return max(1, min(BLOCKS, WARPS // warps, by_registers))


@dataclass(frozen=True)
class Launch:
    """One kernel, and everything it is launched with except the tensors themselves.

    Parameters
    ----------
    kernel
        The function, decorated with ``triton.jit``.
    programs
        The size of the grid's axis 0, the only one in use.
    tensors
        The dtype of each tensor by name, None for one that is absent; a kernel's argument is called ``<name>_ptr``.
        They are the kernel's first arguments, in this order.
    sizes
        Integer arguments; Triton compiles a kernel of its own where they are 1 or divisible by 16.
    constants
        Compile-time arguments.
    warps
        Warps per program.
    stages
        Steps of a loop whose loads are under way at once.
    resident
        How many programs an SM has registers for, at least.
    registers
        How many a thread has at least; so no more than so many programs share an L1.
    """

    kernel: Any
    programs: int
    tensors: Mapping[str, torch.dtype | None]
    sizes: Mapping[str, int]
    constants: Mapping[str, Any]
    warps: int
    stages: int = 1
    resident: int = 4
    registers: int = 0
    # Compiled kernels, ready to be launched, by the device and by which tensors are aligned.
    _compiled: dict[Any, Callable[..., None]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def options(self) -> dict[str, int]:
        """What Triton's compiler is told. Without a limit on registers ptxas chooses one, and spills to keep to it."""
        registers = min(255, REGISTERS // (32 * self.warps * self.resident))
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": registers}

    @property
    def sizes_in_use(self) -> str:
        """The sizes of a program in words: those of the tile, cut to the problem."""
        rows = {"ROWS": self.sizes["rows"]} if "rows" in self.sizes else {}  # of a strip
        known = rows | dict(self.constants)
        return ", ".join(f"{name.lower()} {known[name]}" for name in TILE_SIZES if name in known)

    def __str__(self) -> str:
        return f"{self.kernel.__name__} on a grid of {self.programs} programs of {self.warps} warps"

    def run(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Launch on the current device and stream, which have to be those of the tensors.

        The first launch goes through Triton, which compiles. Later ones go to the compiled kernel: Triton would take
        longer to see that it has it than the rest of a call takes.

        Raises
        ------
        RuntimeError
            With the name of the kernel and the size of the grid, whatever Triton raised.
        """
        if not self.programs:
            return
        if self.programs > LARGEST:
            raise RuntimeError(f"{self}: no more than {LARGEST} can be launched")
        pointers = [tensors[name] for name in self.tensors]
        # All else that Triton compiles a kernel of its own for is fixed in a launch.
        key = pointers[0].device, *[t is None or t.data_ptr() % ALIGNMENT == 0 for t in pointers]  # type: ignore[union-attr]
        compiled = self._compiled.get(key)
        try:
            if compiled is not None:
                compiled(*pointers, *self._rest)
            else:
                compiled = self._launched(pointers)
                if compiled is not None:
                    self._compiled[key] = compiled
        except Exception as error:
            raise RuntimeError(f"{self}: {error}") from error

    def _launched(self, pointers: list[Tensor | None]) -> Callable[..., None] | None:
        """Launch by Triton; how to do it again, or None where it interprets."""
        named = {f"{name}_ptr": pointer for name, pointer in zip(self.tensors, pointers, strict=True)}
        kernel = self.kernel[(self.programs,)](**named, **self.sizes, **self.constants, **self.options)
        return None if kernel is None else kernel[(self.programs, 1, 1)]  # type: ignore[no-any-return]

    @cached_property
    def _rest(self) -> list[Any]:
        """The arguments behind the tensors, in the order of the kernel."""
        values = {**self.sizes, **self.constants}
        return [values[name] for name in self.kernel.arg_names[len(self.tensors) :]]


@dataclass(frozen=True)
class Plan:
    """The launches of one pass, in order, and the scratch tensors between them (elements and dtype, by name).

    `names` are the kernels' names of tensors, where a kernel serves another pass than it was written for.
    """

    launches: tuple[Launch, ...]
    workspace: Mapping[str, tuple[int, torch.dtype]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def run(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Run all launches on the device of the tensors, on its current stream."""
        like = next(tensor for tensor in tensors.values() if tensor is not None)
        with _current(like.device):
            if self.workspace or self.names:
                scratch = {name: _scratch(like, name, *what) for name, what in self.workspace.items()}
                renamed = {name: tensors[given] for name, given in self.names.items()}
                tensors = {**tensors, **scratch, **renamed}
            for launch in self.launches:
                launch.run(tensors)


_ALREADY = nullcontext()


def _current(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU the current one, for Triton launches there."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return _ALREADY
    return torch.cuda.device(device)  # type: ignore[return-value]


def _scratch(like: Tensor, name: str, size: int, dtype: torch.dtype) -> Tensor:
    """A workspace on the device of a tensor; where memory is too small for it, the error says what for."""
    try:
        return like.new_empty(size, dtype=dtype)
    except RuntimeError as error:  # a CPU's allocator has no class of its own for it
        kind = torch.OutOfMemoryError if isinstance(error, torch.OutOfMemoryError) else RuntimeError
        raise kind(f"no memory for a workspace of {size * dtype.itemsize} bytes, {name}: {error}") from error
