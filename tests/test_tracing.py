"""Traffic reports: counts that follow by hand from the problem, bounds from a data sheet, and the command lines.

The tracer itself is validated on kernels with known counts in tests/simt/traces.cu.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from support import device

import convbound
from convbound import __main__ as command
from convbound.bench import cli, traces
from convbound.command_line import EXIT_USAGE
from convbound.gpus import GPUS, Gpu, find_gpu

pytestmark = pytest.mark.skipif(device.ABSENT is not None, reason=f"no emulated kernels: {device.ABSENT}")

# One channel and one tap: four blocks that each load 256 elements of x and the one of w, and store 256 of y.
COPY = "ic1ih32oc1kh1"
DEPTHWISE = "mb1g8ic8ih14oc8kh3ph1"
BANDS = "mb1g8ic8ih56oc8kh3ph1"
OWN = "name=Mine,sms=4,gbps=100"


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


def test_the_report_begins_with_its_conclusion():
    text = str(convbound.trace(DEPTHWISE, "wgrad", dtype=torch.float16, layout="NHWC"))
    first = text.splitlines()[1]
    assert first.startswith("On an H100 SXM ")
    assert first.endswith(" times to and from DRAM.")
    for part in ("wgrad of depthwise, fp16 NHWC", "grid 1, block", "SM-L2 loads", "sectors", "compulsory", "at least"):
        assert part in text


def test_copies_of_an_unrolled_loop_are_one_line():
    trace = convbound.trace(BANDS, dtype=torch.float16, kernel="depthwise_fprop_nchw_bands")
    (launch,) = trace.launches
    for name in ("accesses", "requests", "transactions", "ideal", "copies"):
        assert sum(getattr(line, name) for line in launch.lines) == sum(getattr(site, name) for site in launch.sites)
    assert len(launch.lines) < 12 < 100 < len(launch.sites)
    keys = Counter((line.location, line.tensor, line.space, line.kind, line.width) for line in launch.lines)
    assert set(keys.values()) == {1}
    cycles = [line.l1_cycles for line in launch.lines]
    assert cycles == sorted(cycles, reverse=True)
    report = str(trace).splitlines()
    assert len(report) < 25
    assert sum("copies)" in line for line in report) >= 3
    everything = trace.report(all_sites=True)
    assert everything.count("depthwise_nchw_bands.h:") == len(launch.sites)
    assert "copies" not in everything


def test_lines_that_the_report_leaves_out_are_counted():
    trace = convbound.trace("mb1g4ic4ih28oc4kh9ph4", kernel="depthwise_fprop_nchw_tiled")
    (launch,) = trace.launches
    shown = [line for line in str(trace).splitlines() if "depthwise_nchw_tiled.cu:" in line]
    assert len(shown) == 9 < len(launch.lines)
    rest = sum(line.l1_cycles for line in launch.lines[9:]) / sum(line.l1_cycles for line in launch.lines)
    assert f"    {len(launch.lines) - 9} more with {rest:.0%} of the clocks of L1; trace --all-sites" in str(trace)


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
    assert find_gpu(gpu.name.upper()) is gpu
    if find_gpu(gpu.profile) is not gpu:  # another one with the same architecture
        return
    assert f"sm_{device.introspect.simt_profile(gpu.profile)[0]}" == {"h200": "sm_90"}.get(gpu.profile, gpu.profile)
    assert device.introspect.simt_profile(gpu.profile)[2] == gpu.sms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pass_": "forward"}, "pass_='forward' must be one of fprop, dgrad, wgrad"),
        ({"dtype": torch.int8}, "dtype=torch.int8 must be one of torch.float16"),
        ({"layout": "NWHC"}, "layout='NWHC' must be one of NCHW, NHWC"),
        ({"gpu": "H300"}, r"gpu='H300' is unknown; choose one of T4 \(sm_75\), A100"),
        ({"images": 1, "sectors": True}, "sectors=True counts the whole batch, but images=1 runs a part of it"),
        ({"kernel": "triton", "sectors": True}, "sectors=True needs a CUDA kernel; kernel='triton' is Triton's"),
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


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [("T4", 65), ("A100", 312), ("RTX 3090", 71), ("RTX 4090", 165), ("RTX 5090", 209.5), ("A10", 125), ("L4", 121)],
)
def test_tensor_cores_reach_what_the_data_sheet_promises(name: str, teraflops: float):
    assert 2e-12 * find_gpu(name).product_rate(torch.float16, tf32=False) == pytest.approx(teraflops, rel=0.01)


def test_a_gpu_is_given_by_its_data_sheet():
    first = next(gpu for gpu in GPUS if gpu.profile == "sm_86")
    assert find_gpu("name=RTX 3060,sms=28,gbps=360,profile=sm_86") == Gpu(
        "RTX 3060", "sm_86", 28, first.clock, 360e9, first.fp32_lanes, first.fp64_lanes, first.tensor_lanes
    )
    own = find_gpu("profile=sm_75, clock=1.5 ,fp32=32,fp64=1,name=X,sms=3,gbps=0.5")
    assert own == Gpu("X", "sm_75", 3, 1.5e9, 0.5e9, 32, 1, 512)
    assert find_gpu(OWN).profile == "sm_90"
    trace = convbound.trace(COPY, gpu="name=Small,sms=1,gbps=1,clock=0.001", kernel="naive_fprop")
    (launch,) = trace.launches
    assert launch.resident_blocks == 4  # all of them on the only SM
    assert {bound.resource: bound.seconds for bound in trace.bounds}["DRAM"] == launch.dram_bytes / 1e9
    assert trace.conclusion.startswith("On a Small ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sms=4,gbps=100", "gpu: name= is missing; write name=TEXT,sms=N"),
        ("name=,sms=4,gbps=100", "gpu: name= is missing"),
        ("name=X,gbps=100", "gpu: sms= is missing"),
        ("name=X,sms=4", "gpu: gbps= is missing"),
        (OWN + ",sms=5", "gpu: sms= is given twice"),
        (OWN + ",cores=5", "gpu: 'cores=5' is no part of a GPU; write name=TEXT"),
        (OWN + ",", "gpu: '' is no part of a GPU"),
        (OWN + ",clock", "gpu: 'clock' is no part of a GPU"),
        ("name=X,sms=0,gbps=100", "gpu: sms='0' must be a whole number above 0"),
        ("name=X,sms=1.5,gbps=100", "gpu: sms='1.5' must be a whole number"),
        ("name=X,sms=4,gbps=-1", "gpu: gbps='-1' must be a number above 0"),
        ("name=X,sms=4,gbps=nan", "gpu: gbps='nan' must be a number"),
        ("name=X,sms=4,gbps=inf", "gpu: gbps='inf' must be a number above 0 and at most 1000000"),
        (OWN + ",clock=fast", "gpu: clock='fast' must be a number"),
        (OWN + ",fp32=", "gpu: fp32='' must be a whole number"),
        (OWN + ",profile=sm_42", "gpu: profile='sm_42' must be one of sm_75, sm_80"),
    ],
)
def test_a_bad_part_of_a_data_sheet_is_one_line(text, message, capsys):
    for arguments in (["trace", COPY, "--gpu", text], ["explain", COPY, "--arch", text]):
        with pytest.raises(SystemExit):
            command.main(arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_explain_takes_a_gpu_by_its_data_sheet():
    told = convbound.explain(DEPTHWISE, device="cuda", arch="name=X,sms=4,gbps=100,profile=sm_75")
    assert "fprop" in str(told)


# Loads through L1, by cp.async past L1, through a workspace and in two launches, and more than L1 holds.
@pytest.mark.parametrize(
    ("problem", "pass_", "layout", "kernel", "gpu"),
    [
        (DEPTHWISE, "fprop", "NCHW", "naive", "H100"),
        (BANDS, "fprop", "NCHW", "depthwise_fprop_nchw_bands", "H100"),
        (BANDS, "dgrad", "NHWC", None, "L4"),
        (BANDS, "wgrad", "NHWC", None, "H100"),
        ("mb1g128ic128iw64oc128kw25pw12", "fprop", "NHWC", "naive", "name=X,sms=1,gbps=9,profile=sm_75"),
    ],
)
def test_sectors_add_up_to_the_traffic(problem, pass_, layout, kernel, gpu):
    trace = convbound.trace(problem, pass_, layout=layout, kernel=kernel, gpu=gpu, sectors=True)
    plain = convbound.trace(problem, pass_, layout=layout, kernel=kernel, gpu=gpu)
    assert [launch.load_bytes for launch in plain.launches] == [launch.load_bytes for launch in trace.launches]
    for launch in trace.launches:
        counts = launch.sectors.values()
        moved, requested = (sum(int(getattr(c, name).sum()) for c in counts) for name in ("moved", "requested"))
        assert 32 * moved == launch.load_bytes + launch.store_bytes
        assert requested == sum(site.transactions for site in launch.sites if site.space == "global")
        assert {site.tensor for site in launch.sites if site.space == "global"} <= set(launch.sectors)
        assert {site.tensor for site in launch.sites if site.space == "shared"} <= {""}
    assert plain.launches[0].sectors == {}


def test_sectors_of_a_kernel_whose_counts_are_known():
    (launch,) = convbound.trace(COPY, kernel="naive_fprop", sectors=True).launches
    assert set(launch.sectors) == {"x", "w", "y"}
    for name in ("x", "y"):  # 128 sectors, each of 8 elements
        assert torch.equal(launch.sectors[name].requested, torch.ones(128, dtype=torch.int64))
        assert torch.equal(launch.sectors[name].moved, torch.ones(128, dtype=torch.int64))
    # 32 warps ask for the only weight, and L1 of each of 4 blocks fetches it.
    assert (launch.sectors["w"].requested.tolist(), launch.sectors["w"].moved.tolist()) == ([32], [4])


def texts(file: Path) -> list[str]:
    """The texts of a picture, which has to be well formed."""
    root = ElementTree.parse(file).getroot()
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_picture_says_what_it_shows(tmp_path):
    trace = convbound.trace(DEPTHWISE, dtype=torch.float16, kernel="naive", gpu="A10", sectors=True)
    file, again = tmp_path / "x.svg", tmp_path / "again.svg"
    trace.picture(file)
    trace.picture(again, "x")
    assert file.read_bytes() == again.read_bytes()
    assert len(file.read_bytes()) < 100_000
    found = texts(file)
    for text in (
        "naive_fprop",
        f"fprop of depthwise {DEPTHWISE}",
        "fp16 NCHW, batch 1, counted as on A10",
        "x[0, 0]: one plane; a sector is 16 elements one after the other",
        "requests by warps",
        "fetches from L2",
    ):
        assert text in found
    (line,) = (line for line in trace.launches[0].lines if line.tensor == "x")
    assert f"{line.location}   load of 2 bytes" in found
    assert any(text.startswith(f"{line.requests:,} requests, ") for text in found)
    # The first plane is a block's; sector 12 is its last four elements and the first of the next plane.
    counts = trace.launches[0].sectors["x"]
    elements = torch.arange(14 * 14) // 16
    means = [f"{float(c[elements].double().mean()):.4g}" for c in (counts.requested, counts.moved)]
    assert [text for text in found if text.startswith("mean")] == [
        f"mean {mean}, most {int(c[:13].max())}"
        for mean, c in zip(means, (counts.requested, counts.moved), strict=True)
    ]


@pytest.mark.parametrize(
    ("problem", "pass_", "layout", "tensor", "what"),
    [
        (DEPTHWISE, "dgrad", "NCHW", None, "dy[0, 0]: one plane"),
        (DEPTHWISE, "dgrad", "NHWC", "dx", "dx[0, 0]: one plane; a sector is 8 channels of one pixel"),
        (DEPTHWISE, "wgrad", "NHWC", "dw", "dw: a row for each filter; a sector is 8 elements one after the other"),
        ("mb1g2ic8iw40oc8kw3", "fprop", "NHWC", "w", "w: a row for each filter; a sector is 8 channels of one pixel"),
        ("mb1g4ic4iw700oc4kw3", "wgrad", "NCHW", None, "x[0]: a row for each channel"),
        ("mb1g2ic2id5ih6iw7oc2kd3kh3kw3", "fprop", "NHWC", "y", "y[0, 0, 1]: one plane"),
    ],
)
def test_any_tensor_is_drawn(problem, pass_, layout, tensor, what, tmp_path):
    trace = convbound.trace(problem, pass_, layout=layout, sectors=True)
    trace.picture(tmp_path / "x.svg", tensor)
    found = texts(tmp_path / "x.svg")
    assert any(text.startswith(what) for text in found)
    assert ("stores to L2" if tensor in ("y", "dx", "dw") else "fetches from L2") in found


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    plain, trace = (convbound.trace(COPY, kernel="naive", sectors=sectors) for sectors in (False, True))
    with pytest.raises(ValueError, match=r"no counts of sectors; trace\(..., sectors=True\) makes them"):
        plain.picture(tmp_path / "x.svg")
    with pytest.raises(ValueError, match="tensor='dy' must be one of x, w, y"):
        trace.picture(tmp_path / "x.svg", "dy")
    with pytest.raises(ValueError, match=r"path='.*x.png' must end in .svg"):
        trace.picture(tmp_path / "x.png")
    with pytest.raises(OSError, match="there is no folder"):
        trace.picture(tmp_path / "none" / "x.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeError, match=r"picture: needs matplotlib; pip install 'convbound\[bench\]'"):
        trace.picture(tmp_path / "x.svg")
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws(tmp_path, capsys):
    file = tmp_path / "x.svg"
    arguments = ["trace", DEPTHWISE, "--kernel", "naive", "--picture"]
    assert command.main([*arguments, str(file), "--tensor", "w"]) == 0
    assert capsys.readouterr().out.endswith(f"drawn to {file}\n")
    assert any(text.startswith("w: a row for each filter") for text in texts(file))
    for more, message in (
        ([str(tmp_path / "x.png")], "must end in .svg"),
        ([str(tmp_path / "none" / "x.svg")], "there is no folder"),
        ([str(file), "--tensor", "v"], "tensor='v' must be one of x, w, y"),
    ):
        with pytest.raises(SystemExit):
            command.main([*arguments, *more])
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    with pytest.raises(SystemExit):
        command.main(["trace", DEPTHWISE, "--tensor", "w"])
    assert "--tensor: says what --picture draws, which is missing" in capsys.readouterr().err
    assert command.main(["trace", DEPTHWISE, "--kernel", "naive", "--all-sites"]) == 0
    assert capsys.readouterr().out.count("naive_fprop.cu:") == 3


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


def test_the_column_layer_names_what_was_traced(tmp_path, capsys):
    arguments = (
        "--suite",
        "mobilenet_v2",
        "--problem",
        DEPTHWISE,
        "--pass",
        "fprop",
        "--layout",
        "NCHW",
        "--batch",
        "1",
    )
    assert bench(tmp_path, *arguments, "--quick", "--gpu", OWN) == cli.EXIT_OK
    rows = [traces.TraceRow(**row) for row in json.loads((tmp_path / "traces.json").read_text())]
    names = [traces.COLUMNS["layer"](row) for row in rows]
    assert names[-1] == DEPTHWISE
    assert len(names) > 1
    assert all(name.startswith("mobilenet_v2:") for name in names[:-1])
    assert {row.gpu for row in rows} == {"Mine"}


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
