"""``explain`` of GPUs that are not there, for the CUDA kernels and for Triton's."""

from __future__ import annotations

import pytest
import torch
from support import device, triton_rows  # noqa: F401  (the latter skips where there is no Triton)

import convbound
from convbound import _library
from convbound.__main__ import main
from convbound.gpus import GPUS, find_gpu
from convbound.kernels import table
from convbound.problem import DTYPE_NAMES, PASSES, ConvProblem
from convbound.serving import LaunchSizes, serving_kernel

DEPTHWISE = "mb2g32ic32ih28oc32kh3ph1"
DENSE = "ic256ih9oc256kh3"

needs_registry = pytest.mark.skipif(
    not hasattr(_library.introspect, "device_select"), reason="built without the registry of CUDA kernels"
)


@needs_registry
@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.profile)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=DTYPE_NAMES.get)
def test_cuda_kernels_are_those_of_the_dispatcher(gpu, dtype: torch.dtype):
    introspect = device.introspect
    assert introspect.simt_profile(gpu.profile)[:2] == (gpu.arch, gpu.shared_per_block)
    told = convbound.explain(DEPTHWISE, dtype=dtype, device="cuda", backend="cuda", arch=gpu.name)
    assert [row.pass_ for row in told.passes] == list(PASSES)
    for row in told.passes:
        found = introspect.device_select(
            introspect.Pass[row.pass_],
            device.native(ConvProblem.parse(DEPTHWISE)),
            introspect.DType[DTYPE_NAMES[dtype]],
            introspect.Layout.NCHW,
            gpu.arch,
            gpu.shared_per_block,
            gpu.sms,
        )
        assert (row.kernel, row.tile) == (found["name"], found["tile"])
        assert row.launches == (LaunchSizes(found["grid"], found["block"], found["shared_bytes"]),)
        assert row.refused == tuple(found["refused"])
        assert all(f"not {name}: {reason}\n" in f"{told}\n" for name, reason in found["refused"])
        assert row.reason.startswith("naive" if found["naive"] else "auto times it")


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("text", [DEPTHWISE, DENSE])
def test_triton_kernels_are_those_of_the_table(text: str, arch: str):
    problem, number = ConvProblem.parse(text), find_gpu(arch).arch
    told = convbound.explain(text, dtype=torch.float16, layout="NHWC", device="cuda", backend="triton", arch=arch)
    for row in told.passes:
        selected = table.select(problem, row.pass_, torch.float16, "NHWC", number)
        assert row.kernel == selected.name
        for launch, planned in zip(
            row.launches, selected.plan(problem, torch.float16, bias=False).launches, strict=True
        ):
            assert (launch.grid, launch.block) == ((planned.programs, 1, 1), (32 * planned.warps, 1, 1))
            assert launch.shared_bytes is launch.registers is None  # of a kernel that nobody compiled


def test_architectures_differ():
    def kernels(arch: str) -> set[str]:
        told = convbound.explain(DENSE, dtype=torch.float16, layout="NHWC", device="cuda", backend="triton", arch=arch)
        return {row.kernel for row in told.passes}

    assert "grouped_fprop_128x256_nhwc" in kernels("sm_90") - kernels("sm_80")


def test_sizes_are_those_in_use():
    """Narrow images take fewer columns of more channels than the row's tile has at most."""
    told = convbound.explain("mb2g32ic32ih40oc32kh3ph1", device="cuda", backend="triton", arch="sm_90")
    fprop = told.passes[0]
    assert "columns 128, channels 1, rows 16" in fprop.tile
    assert fprop.launches[0].sizes == "rows 14, columns 64, channels 2"
    assert "depthwise_rows (rows 14, columns 64, channels 2): grid 96, block 128" in str(told)


@needs_registry
def test_without_a_backend_both_are_told():
    told = convbound.explain(DEPTHWISE, device="cuda", arch="A100")
    assert [(row.pass_, row.backend) for row in told.passes] == [(p, b) for p in PASSES for b in ("cuda", "triton")]
    assert "on A100 (sm_80)" in str(told)


def test_what_has_no_kernel_says_why():
    def reason(text: str, **options: str) -> str:
        return convbound.explain(text, device="cuda", **options).passes[0].reason

    assert reason(DEPTHWISE, backend="triton", arch="sm_75") == "fprop: backend='triton' has no kernel for sm_75"
    assert "1 and 2 spatial dimensions" in reason("ic4id6ih6iw6oc4kd3kh3kw3", backend="triton", arch="sm_90")
    assert reason(DEPTHWISE, backend="cpu", arch="sm_90") == "backend='cpu' has no kernels for GPUs"
    naive = convbound.explain(DEPTHWISE, dtype=torch.float64, device="cuda", backend="triton", arch="sm_90")
    assert {row.reason for row in naive.passes} == {"naive: auto never takes it"}


def test_a_compiled_kernel_has_registers_and_shared_memory():
    case = (ConvProblem.parse("mb2g32ic32ih28oc32kh3ph1"), "wgrad", torch.float16, "NHWC", "triton")
    first, second = serving_kernel(*case, gpu=find_gpu("sm_90"), compiled=True).launches
    assert (first.function, second.function) == ("depthwise_rows_wgrad", "partial_sums")
    for launch in (first, second):
        assert launch.registers is not None
        assert launch.shared_bytes is not None
        assert 16 < launch.registers <= 255
        assert 0 < launch.shared_bytes < 48 * 1024
        assert f"{launch.shared_bytes} bytes of shared memory, {launch.registers} registers" in str(launch)


def test_the_command_line(capsys: pytest.CaptureFixture[str]):
    assert main(["explain", DEPTHWISE, "--arch", "sm_90", "--backend", "triton"]) == 0
    printed = capsys.readouterr().out
    assert "on H100 SXM (sm_90)" in printed
    assert "depthwise_fprop_planes_fp32_nchw" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "sm_90", "--device", "cpu"], "arch='sm_90' is a GPU's, but device='cpu' is none"),
        (["--arch", "sm_1"], "gpu='sm_1' is unknown; choose one of T4 (sm_75)"),
    ],
)
def test_wrong_calls(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["explain", DEPTHWISE, *options])
    assert message in capsys.readouterr().err
