"""What can be known of the CUDA library without a GPU: it loads, and its machine code keeps to the limits.

Which kernels a row of the registry launches, with how many threads and how much shared memory, is seen in the emulator;
registers, local memory and the bounds come from the machine code of every architecture in the library.
"""

from __future__ import annotations

import subprocess
from functools import cache
from typing import Any

import pytest
import torch
from support import cubins, device
from support.data import integers
from support.edges import walk

from convbound import _library
from convbound.problem import PASSES

pytestmark = [
    pytest.mark.skipif(_library.LOADED["cuda"] is not None, reason=f"no CUDA kernels: {_library.LOADED['cuda']}"),
]
needs_cuobjdump = pytest.mark.skipif(cubins.cuobjdump() is None, reason="neither a CUDA toolkit nor triton is here")

LIBRARY = _library.PACKAGE / "libconvbound_cuda.so"
ROWS = device.rows()


def kernels() -> dict[tuple[str, str], cubins.Kernel]:
    return cubins.read_kernels(LIBRARY)


def architectures() -> list[str]:
    listed = _library.build_info()["cuda"]["architectures"]
    return [f"sm_{architecture.removesuffix('+PTX').replace('.', '')}" for architecture in listed]


@cache
def launches_of(index: int) -> list[dict[str, Any]]:
    if device.ABSENT is not None:
        pytest.skip(f"no emulated kernels: {device.ABSENT}")
    row = ROWS[index]
    found: dict[str, dict[str, Any]] = {}
    for problem in walk(row["name"]):
        if device.serves(row, problem):
            # Many small blocks suit small problems, large ones a device of one multiprocessor.
            ways = [(False, ""), (True, "")] if not row["naive"] else [(False, "")]
            ways += [(True, " sms=1")] if row["family"] == "grouped" else []
            for aligned, how in ways:
                operands = integers(problem, row["pass"].name, device.dtype_of(row))
                for launch in device.run_row(row, operands, problem, "trace blocks=0:1" + how, aligned=aligned)[1]:
                    launch["problem"] = problem
                    larger = found.setdefault(launch["kernel"], launch)
                    if (launch["block"], launch["shared_bytes"]) > (larger["block"], larger["shared_bytes"]):
                        found[launch["kernel"]] = launch
    return list(found.values())


def launches(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The kernels that a row launches on the problems of the tests, in the largest blocks, as the emulator saw them."""
    return launches_of(row["index"])


def test_the_library_loads_into_this_torch_and_registers_its_ops():
    for pass_ in PASSES:
        schemas = {
            backend: str(getattr(torch.ops.convbound, f"{backend}_{pass_}").default._schema)
            for backend in ("cpu", "cuda")
        }
        assert schemas["cuda"] == schemas["cpu"].replace("cpu_", "cuda_")
    x, w = torch.empty(2, 4, 9, 10, device="meta"), torch.empty(6, 2, 3, 3, device="meta")
    y = torch.ops.convbound.cuda_fprop(x, w, None, [2, 1], [1, 1, 0, 0], [1, 1], 2, False)
    assert y.shape == (2, 6, 5, 8)
    with pytest.raises(NotImplementedError, match="cuda_fprop"):
        torch.ops.convbound.cuda_fprop(
            torch.ones(x.shape), torch.ones(w.shape), None, [1, 1], [0] * 4, [1, 1], 2, False
        )


def test_the_library_needs_no_cuda_library():
    needed = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cpu.so" in needed
    assert "cuda" not in "".join(line for line in needed.splitlines() if "NEEDED" in line)


def test_the_build_keeps_to_its_budget():
    # Everybody who installs waits for nvcc: 12 CPU-minutes at most for the two default architectures.
    built = _library.build_info()["cuda"]
    assert 0 < built["nvcc_cpu_minutes"] <= 6 * len(built["architectures"])


@needs_cuobjdump
def test_every_architecture_has_every_kernel():
    names = {name for name, _ in kernels()}
    assert set(kernels()) == {(name, architecture) for name in names for architecture in architectures()}
    launched = {launch["kernel"] for row in ROWS for launch in launches(row)}
    assert launched == names


@needs_cuobjdump
@pytest.mark.parametrize("row", ROWS, ids=device.row_id)
def test_every_launch_fits(row: dict[str, Any]):
    for launch in launches(row):
        threads = launch["block"][0] * launch["block"][1] * launch["block"][2]
        for architecture in architectures():
            kernel = kernels()[launch["kernel"], architecture]
            assert threads <= kernel.max_threads, "more threads than __launch_bounds__ promises, or none are promised"
            allocated = (kernel.registers + 7) // 8 * 8
            assert allocated * kernel.max_threads <= cubins.REGISTERS
            for profile in device.PROFILES:
                at, shared, _ = device.introspect.simt_profile(profile)
                if at >= row["min_arch"] and launch["shared_bytes"] > shared:
                    # Then the dispatcher must not choose it there.
                    assert not device.serves(row, launch["problem"], profile)


@needs_cuobjdump
def test_nothing_spills():
    for kernel in kernels().values():
        assert kernel.stack_bytes == kernel.local_bytes == 0, kernel
        assert not [access for access in kernel.accesses if access[0] in ("LDL", "STL")], kernel


@needs_cuobjdump
@pytest.mark.parametrize(
    "row",
    [r for r in ROWS if r["family"] in ("transposed", "dilated") and "_wgrad" not in r["name"]],
    ids=device.row_id,
)
def test_gather_kernels_access_sixteen_bytes(row: dict[str, Any]):
    # Through shared memory in NCHW, directly in NHWC; narrower accesses are for odd ends and the filter.
    for architecture in architectures():
        found = [kernels()[launch["kernel"], architecture].accesses for launch in launches(row)]
        loads = ("LDGSTS", 16) if row["layout"].name == "NCHW" else ("LDG", 16)
        assert any(accesses[loads] and accesses["STG", 16] for accesses in found)


@needs_cuobjdump
@pytest.mark.parametrize("row", [row for row in ROWS if row["naive"]], ids=device.row_id)
def test_naive_kernels_access_one_element_at_a_time(row: dict[str, Any]):
    element = device.dtype_of(row).itemsize
    for launch in launches(row):
        for architecture in architectures():
            accesses = kernels()[launch["kernel"], architecture].accesses
            assert {width for (operation, width) in accesses if operation in ("LDG", "STG")} == {element}
            assert {operation for (operation, _) in accesses} == {"LDG", "STG"}


@needs_cuobjdump
@pytest.mark.parametrize("row", [row for row in ROWS if "_nchw_bands" in row["name"]], ids=device.row_id)
def test_bands_move_16_bytes_at_a_time(row: dict[str, Any]):
    for launch in launches(row):
        for architecture in architectures():
            accesses = kernels()[launch["kernel"], architecture].accesses
            assert accesses["LDGSTS", 16] > 0
            assert accesses["STG", 16] > 0
            # Beside them only ends of runs, a few filters and the bias, one or two elements at a time.
            assert {width for (operation, width) in accesses if operation == "LDG"} <= {2, 4}


@pytest.mark.parametrize("row", [r for r in ROWS if "_wgrad" in r["name"] and not r["naive"]], ids=device.row_id)
def test_wgrad_copies_16_bytes_and_multiplies(row: dict[str, Any]):
    for launch in launches(row):
        if "add_partial_sums" in launch["kernel"] or "relayout" in launch["kernel"]:
            continue
        for architecture in architectures():
            assert kernels()[launch["kernel"], architecture].accesses["LDGSTS", 16] > 0
