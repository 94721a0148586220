from enum import Enum
from typing import TypedDict

class Pass(Enum):
    fprop = 0
    dgrad = 1
    wgrad = 2

class DType(Enum):
    fp16 = 0
    bf16 = 1
    fp32 = 2
    fp64 = 3

class Layout(Enum):
    NCHW = 0
    NHWC = 1

class ConvProblem:
    def __init__(
        self,
        *,
        n: int,
        c: int,
        k: int,
        groups: int,
        input: list[int],
        filter: list[int],
        output: list[int],
        stride: list[int],
        padding: list[int],
        dilation: list[int],
    ) -> None: ...

KernelRow = TypedDict("KernelRow", {"name": str, "pass": str, "naive": bool})

def source_hash() -> str: ...
def cpu_isa() -> str: ...
def cpu_kernels() -> list[KernelRow]: ...
def cpu_select(pass_: Pass, problem: ConvProblem, dtype: DType, layout: Layout) -> KernelRow: ...
