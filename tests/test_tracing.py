"""Traffic reports: counts that follow by hand from the problem, bounds from a data sheet, and the command lines.

The tracer itself is validated on kernels with known counts in tests/simt/traces.cu.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import device

import convbound
from convbound import __main__ as command
from convbound.bench import cli
from convbound.command_line import EXIT_USAGE
from convbound.gpus import GPUS, find_gpu

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

# One channel and one tap: four blocks that each load 256 elements of x and the one of w, and store 256 of y.
COPY = "ic1ih32oc1kh1"
DEPTHWISE = "mb1g8ic8ih14oc8kh3ph1"


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 2), (torch.float32, 4), (torch.float64, 8)])
def test_what_is_counted_follows_from_the_problem(dtype: torch.dtype, size: int):
    trace = convbound.trace(COPY, dtype=dtype, kernel="naive_fprop")
    (launch,) = trace.launches
    tensor = 32 * 32 * size
    assert (launch.grid, launch.block, launch.blocks) == ((4, 1, 1), (256, 1, 1), 4)
    assert trace.compulsory_bytes == launch.dram_bytes == tensor + 32 + tensor
    assert (launch.load_bytes, launch.store_bytes) == (tensor + 4 * 32, tensor)
    assert launch.blocks_in_l1 == 4
    width = {2: 1, 4: 2, 8: 3}[size]
    assert launch.stored_bytes_by_width[width] == sum(launch.stored_bytes_by_width) == tensor
    sites = {(site.kind, site.transactions, site.requests): site for site in launch.sites}
    assert set(sites) == {("load", tensor // 32, 32), ("load", 32, 32), ("store", tensor // 32, 32)}
    assert [site.waste for site in launch.sites] == [1, 1, 1]
    assert "naive_fprop.cu:" in launch.sites[-1].location
    assert (trace.dram_ratio, trace.coalescing, trace.bank_conflicts, trace.wide_share) == (1, 1, 1, 0)
    assert trace.sm_l2_ratio == (2 * tensor + 4 * 32) / (2 * tensor + 32)


def test_bounds_follow_from_the_data_sheet():
    trace = convbound.trace(COPY, gpu="A100", kernel="naive_fprop")
    a100, bounds = find_gpu("a100"), {bound.resource: bound.seconds for bound in trace.bounds}
    launch = trace.launches[0]
    # Four blocks keep four SMs busy, but all of DRAM.
    assert bounds["DRAM"] == launch.dram_bytes / a100.dram
    assert bounds["the ports between SMs and L2"] == pytest.approx(8320 / 64 / 4 / a100.clock)
    # A request for 128 bytes takes one clock of L1, and so does one for a single element.
    assert bounds["L1 and shared memory"] == pytest.approx((32 + 32 + 32) / 4 / a100.clock)
    assert bounds["multiply-adds"] == pytest.approx(1024 / (4 * 64 * a100.clock))
    assert [bound.seconds for bound in trace.bounds] == sorted(bounds.values(), reverse=True)
    assert "with 104 of 108 SMs idle" in trace.conclusion


def test_the_report_ends_in_a_sentence():
    text = str(convbound.trace(DEPTHWISE, "wgrad", dtype=torch.float16, layout="NHWC"))
    last = text.splitlines()[-1]
    assert last.startswith("On an H100 SXM ")
    assert last.endswith(" times to and from DRAM.")
    for part in ("wgrad of depthwise, fp16 NHWC", "grid 1, block", "SM-L2 loads", "sectors", "compulsory", "at least"):
        assert part in text


def test_a_smaller_l1_catches_less():
    # Two pixels a block: 26 rows of x and 25 of the filter are 26 KB; its share of L1 is 32 KB on an H100, 24 on a T4.
    loads = [
        convbound.trace("mb40g128ic128iw64oc128kw25pw12", layout="NHWC", gpu=gpu, kernel="naive_fprop")
        .launches[0]
        .load_bytes
        for gpu in ("H100", "T4")
    ]
    assert loads[0] < loads[1]


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_gpu_has_a_profile_with_as_many_multiprocessors(gpu):
    assert find_gpu(gpu.profile) is find_gpu(gpu.name.upper()) is gpu
    assert f"sm_{device.introspect.simt_profile(gpu.profile)[0]}" == {"h200": "sm_90"}.get(gpu.profile, gpu.profile)
    assert device.introspect.simt_sm_count(gpu.profile) == gpu.sms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pass_": "forward"}, "pass_='forward' must be one of fprop, dgrad, wgrad"),
        ({"dtype": torch.int8}, "dtype=torch.int8 must be one of torch.float16"),
        ({"layout": "NWHC"}, "layout='NWHC' must be one of NCHW, NHWC"),
        ({"gpu": "H300"}, r"gpu='H300' is unknown; choose one of T4 \(sm_75\), A100"),
        ({"kernel": "naive_dgrad"}, "kernel='naive_dgrad' is no fprop kernel for torch.float32 NCHW; there are "),
        ({"problem": "mb0ic1iw4oc1kw1"}, "has an empty batch"),
        ({"images": 0}, "images=0 must be 1 or more"),
        ({"problem": "ic1iw2000000000oc1kw1sw536870912"}, "no CUDA kernel serves fprop of"),
        (
            {"problem": "ic1iw2000000000oc1kw1sw536870912", "kernel": "naive_fprop"},
            "kernel='naive_fprop' does not serve",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_traced_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        convbound.trace(**{"problem": DEPTHWISE} | arguments)


def test_the_command(capsys):
    assert command.main(["trace", DEPTHWISE, "--gpu", "4090", "--pass", "dgrad", "--dtype", "bf16"]) == 0
    assert "On an RTX 4090" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["trace", DEPTHWISE, "--kernel", "none"])
    assert "kernel='none' is no fprop kernel" in capsys.readouterr().err


def bench(folder: Path, *arguments: str) -> int:
    return cli.main(["--trace", "--out", str(folder), *arguments])


def test_the_benchmark_prints_reports_of_few_cases(tmp_path, capsys):
    assert bench(tmp_path, "--problem", DEPTHWISE, "--pass", "fprop", "--kernel", "naive") == cli.EXIT_OK
    out = capsys.readouterr().out
    assert out.count("On an H100 SXM naive_fprop is bound by") == 2  # layouts
    rows = json.loads((tmp_path / "traces.json").read_text())
    assert [(row["kernel"], row["layout"]) for row in rows] == [("naive_fprop", "NCHW"), ("naive_fprop", "NHWC")]
    assert rows[0]["sm_l2"] >= 1 == rows[0]["dram"]


def test_the_benchmark_prints_and_rewrites_a_table_of_many(tmp_path, capsys):
    document = tmp_path / "traffic.md"
    document.write_text("before\n<!-- naive:start -->\nold\n<!-- naive:end -->\nafter\n")
    small = ("--problem", "mb8g8ic8ih7oc8kh3ph1", "mb2g4ic4iw9oc4kw2", "--gpu", "T4", "--document", f"{document}#naive")
    assert bench(tmp_path, *small) == cli.EXIT_OK
    assert "coalescing" in capsys.readouterr().out
    text = document.read_text()
    assert text.startswith(
        "before\n<!-- naive:start -->\nCounted in the emulator with the architecture of T4.\n\n| layer"
    )
    assert text.endswith("|\n<!-- naive:end -->\nafter\n")
    assert "old" not in text
    assert text.count("| fprop |") == 4


# The last one's blocks have four images each, so that a second image's come with filters of their own.
@pytest.mark.parametrize(
    ("problem", "pass_", "layout"),
    [
        ("mb8g32ic32ih28oc32kh3ph1", "fprop", "NCHW"),
        ("mb8g32ic32ih28oc32kh3ph1", "fprop", "NHWC"),
        ("mb8g32ic32ih28oc32kh3ph1", "wgrad", "NCHW"),
        ("mb8g32ic32ih28oc32kh3ph1", "wgrad", "NHWC"),
        ("mb16g512ic512ih4oc512kh5ph2", "fprop", "NHWC"),
    ],
)
def test_a_batch_is_extrapolated_from_one_image(problem, pass_, layout):
    whole, sampled = (convbound.trace(problem, pass_, layout=layout, images=images) for images in (None, 1))
    assert [launch.blocks for launch in sampled.launches] == [launch.blocks for launch in whole.launches]
    for name in ("sm_l2_ratio", "dram_ratio", "coalescing", "bank_conflicts", "wide_share"):
        assert getattr(sampled, name) == pytest.approx(getattr(whole, name), rel=0.03), name
    assert sampled.bounds[0].seconds == pytest.approx(whole.bounds[0].seconds, rel=0.05)


def test_a_case_that_cannot_be_traced_is_kept_with_its_error(tmp_path, capsys):
    arguments = ("--problem", "mb1g8ic8ih14oc8kh3ph1", "--pass", "fprop", "--kernel", "naive_wgrad")
    assert bench(tmp_path, *arguments) == cli.EXIT_FAILED_ROWS
    rows = json.loads((tmp_path / "traces.json").read_text())
    assert {row["status"] for row in rows} == {"failed"}
    assert "FAILED mb1g8ic8ih14oc8kh3ph1 fprop fp32 NCHW: trace: kernel='naive_wgrad'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--gpu", "H300"), "gpu='H300' is unknown"), (("--document", "/nowhere.md"), "nowhere.md")],
)
def test_a_bad_argument_is_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        bench(tmp_path, "--problem", COPY, "--pass", "fprop", *arguments)
    assert leaving.value.code == EXIT_USAGE
    assert message in capsys.readouterr().err.splitlines()[-1]
