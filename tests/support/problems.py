"""The problems that every kernel is tested on, and which rows of the kernel table serve them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from convbound import _library
from convbound._library import ISA_VARIABLE, ISAS
from convbound.problem import DTYPE_NAMES, DTYPES, LAYOUTS, PASSES, ConvProblem, Layout, Pass

# One of each kind, small; the note says what it is there for. Sizes differ between axes wherever they may.
PROBLEMS = tuple(
    map(
        ConvProblem.parse,
        """
        g16ic16ih14iw17oc16kh3ph1 depthwise:3x3
        mb2g17ic17ih9iw20oc17kh7kw5ph3pw2 depthwise:7x5
        mb2g5ic5ih11iw13oc15kh5kw3sh2sw3ph2pw0 depthwise:multiplier and strides
        mb2g8ic8ih9iw11oc8kh3sh2ph1 depthwise:3x3 stride 2
        mb2g40ic40ih13iw16oc40kh5ph2 depthwise:5x5
        g24ic24ih12iw17oc24kh5sh2ph2 depthwise:5x5 stride 2
        mb3g24ic24ih7iw8oc24kh7ph3 depthwise:7x7
        mb2g8ic8ih12iw21oc8kh3ph2dh2 depthwise:dilated
        g3ic3ih15iw9oc3kh2kw4sh1sw2ph0pw3dh3dw1 depthwise:even filter
        g4ic4ih10iw12oc4kh3sh2eh1ew1 depthwise:padded at the end only
        mb3g6ic6iw29oc6kw4pw3ew0 depthwise:causal 1-D
        mb2g16ic16iw40oc16kw4pw3ew0 depthwise:causal 1-D, rows of whole vectors
        g4ic4id5ih6iw7oc4kd3kh2kw1sd2sh1sw1pd1ph0 depthwise:3-D
        mb2g4ic8ih9iw7oc12kh3ph1 grouped:3x3
        mb2g2ic6ih10iw11oc4kh3sh2ph1 grouped:strided
        mb2g3ic6iw15oc9kw5sw2pw2 grouped:1-D
        g2ic4id4ih5iw6oc6kd2kh3kw3sd1sh2sw1pd1ph1pw0 grouped:3-D
        mb2ic3ih8iw10oc5kh3kw2ph1pw0 dense:3x2
        mb2ic16ih6iw5oc8kh1 dense:1x1
        ic64ih5iw4oc3kh3ph1 dense:long sum
        ic4ih13iw15oc6kh3ph2dh2 dilated:2
        g2ic4ih17iw14oc4kh3ph6dh6 dilated:6
        ic4ih14iw15oc2kh3kw2sh2sw3ph1pw2dh3dw2 dilated:strided
        mb2ic6ih8iw10oc8kh4sh2ph1 transposed:DCGAN's
        ic3ih8iw10oc4kh2sh2 transposed:filter as wide as the stride
        ic3ih7iw11oc4kh1kw2sh2sw3 transposed:positions that no tap reaches
        ic2ih10iw11oc3kh3ph2eh0ew1dh3 transposed:cropped at the end
        ic2ih10iw12oc3kh2ph0pw1eh-1ew-1dh2 transposed:negative end padding
        ic2ih10iw9oc3kh3sh2ph1eh-3pw0ew-2 transposed:cropped by more than the stride
        ic2iw16oc3kw3sw2pw1 transposed:1-D
        g2ic4id6ih5iw8oc2kd2kh3kw4sd2sh1sw2pd0ph1 transposed:3-D
        mb8g2ic2ih28iw30oc2kh3ph1 depthwise:long sum in wgrad
        mb2g16ic16ih13iw18oc16kh3sh2ph1 depthwise:3x3 stride 2
        g8ic8ih10iw13oc8kh4sh2ph1 depthwise:4x4 stride 2
        g8ic8ih12iw9oc8kh5sh2ph2 depthwise:5x5 stride 2
        g8ic8ih17iw12oc8kh7sh2ph3 depthwise:7x7 stride 2
        g8ic8ih9iw14oc8kh2kw5ph1pw4dh3dw2 depthwise:dilated 2x5
        mb2g8ic8iw50oc8kw4pw12ew0dw4 depthwise:dilated causal 1-D
        g4ic4ih17iw15oc8kh3sh3sw1ph2 depthwise:multiplier, stride in height alone
        g3ic3ih9iw10oc3kh5ph2 depthwise:5x5
        mb2g3ic3ih11iw9oc6kh5sh2ph2 depthwise:5x5, multiplier and stride
        g3ic3ih12iw9oc3kh7ph3 depthwise:7x7
        g2ic2ih9iw12oc2kh7sh2ph3 depthwise:7x7, stride
        g2ic2ih30iw23oc2kh13ph6 depthwise:13x13
        """.strip().splitlines(),
    )
)


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    """Kernels of at most this instruction set serve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ISA_VARIABLE, isa)
        yield


def available_isas() -> tuple[str, ...]:
    """The instruction sets that this machine has, the lowest first."""
    introspect: Any = _library.introspect
    if isinstance(introspect, str):
        return ()
    assert ISA_VARIABLE not in os.environ, f"unset {ISA_VARIABLE}: the tests force each instruction set themselves"
    return ISAS[: ISAS.index(introspect.cpu_isa()) + 1]


def kernel_rows() -> tuple[dict[str, Any], ...]:
    """The rows of the kernel table: name, pass, naive."""
    introspect: Any = _library.introspect
    return () if isinstance(introspect, str) else tuple(introspect.cpu_kernels())


def serving_row(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout) -> str:
    """The name of the row that serves, on the instruction set in force."""
    introspect: Any = _library.introspect
    lead = 3 - problem.ndim
    native = introspect.ConvProblem(
        n=problem.n,
        c=problem.c,
        k=problem.k,
        groups=problem.groups,
        input=(1,) * lead + problem.input,
        filter=(1,) * lead + problem.filter,
        output=(1,) * lead + problem.output,
        stride=(1,) * lead + problem.stride,
        padding=(0,) * lead + tuple(begin for begin, _ in problem.padding),
        dilation=(1,) * lead + problem.dilation,
    )
    dtype_ = introspect.DType[DTYPE_NAMES[dtype]]
    return str(introspect.cpu_select(introspect.Pass[pass_], native, dtype_, introspect.Layout[layout])["name"])


@dataclass(frozen=True)
class Case:
    """One pass of a problem, and the row of the kernel table that serves it on an instruction set."""

    problem: ConvProblem
    pass_: Pass
    dtype: torch.dtype
    layout: Layout
    isa: str
    row: str

    @property
    def channels_last(self) -> bool:
        """Whether the layout is NHWC, or its relative in 1-D or 3-D."""
        return self.layout == "NHWC"

    def __str__(self) -> str:
        return f"{self.problem}-{DTYPE_NAMES[self.dtype]}-{self.layout}-{self.row}-{self.isa}"


def cases(problems: Iterable[ConvProblem], dtypes: Iterable[torch.dtype] = DTYPES) -> list[Case]:
    """Every pass, dtype and layout of the problems on every instruction set.

    Where a naive row serves, the instruction set makes no difference: it stands only for the lowest that does so.
    """
    naive = {row["name"] for row in kernel_rows() if row["naive"]}
    dtypes = tuple(dtypes)
    found: dict[Any, Case] = {}
    for isa in available_isas():
        with instruction_set(isa):
            for problem in problems:
                for pass_ in PASSES:
                    for dtype in dtypes:
                        for layout in LAYOUTS:
                            row = serving_row(problem, pass_, dtype, layout)
                            key = (problem, pass_, dtype, layout, row, None if row in naive else isa)
                            found.setdefault(key, Case(problem, pass_, dtype, layout, isa, row))
    return list(found.values())
