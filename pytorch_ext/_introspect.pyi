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
def cpu_serves(row: int, problem: ConvProblem, dtype: DType, layout: Layout) -> bool: ...
def cpu_run(
    row: int,
    problem: ConvProblem,
    dtype: DType,
    layout: Layout,
    x: int,
    w: int,
    y: int,
    bias: int,
    threads: int = 1,
) -> None: ...

DeviceRow = TypedDict(
    "DeviceRow",
    {
        "index": int,
        "name": str,
        "family": str,
        "pass": Pass,
        "dtype": DType,
        "layout": Layout,
        "filter": int,
        "stride": int,
        "min_arch": int,
        "naive": bool,
        "tensor_cores": bool,
        "tile": str,
    },
)

class LaunchedRow(DeviceRow):
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    workspace_bytes: int

class SelectedRow(LaunchedRow):
    refused: list[tuple[str, str]]

class Trace(TypedDict):
    kernel: str
    profile: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    load_bytes: int
    store_bytes: int
    compulsory_bytes: int
    dram_bytes: int
    traffic_ratio: float
    coalescing: float
    bank_conflicts: float
    loaded_bytes_by_width: list[int]
    stored_bytes_by_width: list[int]
    sectors: dict[str, tuple[bytes, bytes]]
    report: str

def device_kernels() -> list[DeviceRow]: ...
def device_select(
    pass_: Pass, problem: ConvProblem, dtype: DType, layout: Layout, arch: int, shared_per_block: int, sms: int
) -> SelectedRow | None: ...
def device_plan(row: int, problem: ConvProblem, arch: int, shared_per_block: int, sms: int) -> LaunchedRow | str: ...
def simt_profile(name: str) -> tuple[int, int, int]: ...
def simt_run(
    pass_: Pass,
    problem: ConvProblem,
    dtype: DType,
    layout: Layout,
    x: int,
    w: int,
    y: int,
    bias: int,
    options: str,
    row: int | None = None,
) -> list[Trace]: ...
