"""The benchmark's GPU branch on a stand-in for ``torch.cuda``: what it calls, in which order, and what it keeps."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
from pathlib import Path

import pytest
import torch
from support.fake_cuda import FakeCuda

from convbound import ops
from convbound.bench import arguments, cli, provenance, runner
from convbound.bench.cases import Case, contenders, random_tensors
from convbound.bench.measure import NOT_RUN
from convbound.bench.rivals import INDUCTOR, NATIVE, TORCH, rival_kernel, rival_run
from convbound.bench.rows import read_result
from convbound.bench.tables import Layer, load_models
from convbound.choice import backends
from convbound.cuda_timing import GRAPH_BELOW, MAX_CALLS, WARM_UP_RUNS, CudaTimer
from convbound.devices import Cuda
from convbound.problem import PASSES, ConvProblem
from convbound.roofs import Roofs

CPU = torch.device("cpu")
PROBLEM = "mb1g4ic4ih6oc4kh3ph1"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A GPU whose tensors are on the CPU, with the native CPU kernels for a backend."""
    monkeypatch.setattr(Cuda, "place", CPU)
    monkeypatch.setattr(provenance, "nvidia_smi", lambda uuid: {})
    row = next(row for row in backends.backends() if row.name == "cpu")
    torch_row = next(row for row in backends.backends() if row.name == "torch")
    monkeypatch.setattr(backends, "_BACKENDS", (dataclasses.replace(row, devices=("cpu", "cuda")), torch_row))
    monkeypatch.setattr(runner, "measure_roofs", lambda device, dtypes: Roofs(20.0, "given", {"fp16": 400.0}, 40.0))
    # What a run sets for its process is set back.
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda wanted: None)
    return FakeCuda(monkeypatch)


def case(text: str = PROBLEM, pass_: str = "fprop", transposed: bool = False) -> Case:
    return Case(Layer("toy", "layer", 1, transposed, "quick", ConvProblem.parse(text)), pass_, torch.float32)  # type: ignore[arg-type]


class Flush:
    """The buffer by which L2 is flushed."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def zero_(self) -> None:
        self.log.append("write")

    def sum(self) -> None:
        self.log.append("read")


def timer(fake: FakeCuda, cold: bool = True) -> CudaTimer:
    made = CudaTimer(cold=cold, cache_bytes=1 << 20, place=CPU)
    if cold:
        assert made._flush.nbytes == 2 << 20
        made._flush = Flush(fake.log)
    return made


def test_a_cold_sample_flushes_then_times_between_events(fake):
    seconds = timer(fake).sample(lambda: fake.log.append("call"))
    assert fake.log == ["write", "read", "record", "call", "record", "synchronize"]
    assert 0 < seconds < 1


def test_a_warm_sample_runs_once_before(fake):
    timer(fake, cold=False).sample(lambda: fake.log.append("call"))
    assert fake.log == ["call", "record", "call", "record", "synchronize"]


def test_short_calls_become_a_graph_after_a_warm_up_on_its_stream(fake):
    made = timer(fake)
    calls = [lambda i=i: fake.log.append(f"call {i}") for i in range(MAX_CALLS)]
    prepared = made.prepare(lambda count: calls[:count], 1e-4)
    assert (prepared.calls, prepared.timing) == (2, "graph")
    round_ = ["call 0", "call 1"]
    assert fake.log == [
        "side waits for main",
        "on side",
        *round_ * WARM_UP_RUNS,
        "capture on side",
        *round_,
        "captured",
        "on main",
        "main waits for side",
    ]
    fake.log.clear()
    made.sample(prepared.run)
    assert fake.log == ["write", "read", "record", "replay", "record", "synchronize"]


@pytest.mark.parametrize(("seconds", "calls"), [(0.0, MAX_CALLS), (1e-6, MAX_CALLS), (150e-6, 2), (900e-6, 1)])
def test_the_shorter_a_call_the_more_often_a_sample_repeats_it(fake, seconds, calls):
    assert timer(fake).prepare(lambda count: [lambda: None] * count, seconds).calls == calls


def test_long_calls_are_timed_as_they_are(fake):
    call = [lambda: None]
    prepared = timer(fake).prepare(lambda count: call * count, GRAPH_BELOW)
    assert (prepared.run, prepared.calls, prepared.timing) == (call[0], 1, "events")
    assert fake.log == []


def test_what_cannot_be_captured_is_timed_as_it_is(fake):
    fake.capture_error = "operation not permitted when stream is capturing"
    prepared = timer(fake).prepare(lambda count: [lambda: None] * count, 1e-5)
    assert (prepared.calls, prepared.timing) == (1, "events")
    assert fake.log[-2:] == ["on main", "synchronize"]
    assert torch.cuda.current_stream().name == "main"


def test_a_device_that_is_lost_in_a_capture_is_not_hidden(fake):
    fake.capture_error = fake.lost = "an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        timer(fake).prepare(lambda count: [lambda: None] * count, 1e-5)


def test_calls_rotate_through_operands_and_results_of_their_own(fake):
    this = case()
    contender = contenders(this, random_tensors(this.problem, this.dtype), [], ["NHWC"])[1]
    assert contender.layout == "NHWC"
    calls = contender.calls(3)
    assert len({tensors.x.data_ptr() for tensors in contender.tensors}) == 3
    assert len({tensors.x.stride() for tensors in contender.tensors}) == 1
    results = [call() for call in calls]
    assert torch.equal(results[0], results[2])
    graph_results: list[int] = []
    timer(fake).prepare(lambda count: [lambda: note(graph_results, contender.call())] * count, 1e-6)
    captured = graph_results[-MAX_CALLS:]
    assert len(set(captured)) == MAX_CALLS


def note(addresses: list[int], result: torch.Tensor) -> torch.Tensor:
    addresses.append(result.data_ptr())
    return result


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
def test_rivals_agree(monkeypatch, transposed, pass_):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, mode, **how: real(run, backend="aot_eager", **how))
    this = case("mb2g2ic4ih7iw6oc6kh3sh2ph1", pass_, transposed)
    tensors = random_tensors(this.problem, this.dtype)
    found = [rival_run(rival, this.layer, this.pass_)(*tensors) for rival in (TORCH, NATIVE, INDUCTOR)]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_the_native_rival_runs_without_cudnn():
    layer = case().layer
    seen: list[bool] = []
    x, w, dy = random_tensors(layer.problem, torch.float32)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(torch.backends.cudnn.enabled)
            return func(*args, **(kwargs or {}))

    with Watch():
        rival_run(NATIVE, layer, "fprop")(x, w, dy)
        assert torch.backends.cudnn.enabled
        rival_run(TORCH, layer, "fprop")(x, w, dy)
    assert set(seen[:1]) == {False}
    assert seen[-1]


def test_a_rival_names_the_backend_that_torch_chooses():
    tensors = random_tensors(ConvProblem.parse(PROBLEM), torch.float32)
    assert rival_kernel(TORCH, case().layer, *tensors) == "Mkldnn"
    assert rival_kernel(TORCH, case(transposed=True).layer, *tensors) == ""  # oneDNN's has no name in Python


def bench(folder: Path, *arguments: str) -> int:
    """A run of the backend cpu, unless backends are named."""
    backend = () if "--backend" in arguments else ("--backend", "cpu")
    return cli.main([*arguments, *backend, "--device", "cuda", "--out", str(folder), "--time", "0.1"])


def records(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_on_a_gpu(fake, tmp_path, capsys):
    assert bench(tmp_path, "--problem", PROBLEM, "--pass", "fprop", "dgrad") == cli.EXIT_OK
    rows = records(tmp_path)
    assert {(row["backend"], row["layout"]) for row in rows} == {
        (backend, layout) for backend in ("cpu", TORCH, NATIVE) for layout in ("NCHW", "NHWC")
    }
    for row in rows:
        assert (row["device"], row["dtype"], row["gpu"], row["cache"]) == ("cuda", "fp16", "Fake GPU", "cold")
        assert row["timing"] in ("graph", "events")
        assert float(row["median_ms"]) > 0
        assert row["kernel"]
    result = read_result(tmp_path / "result.json")
    assert result.machine["sms"] == 132
    assert result.machine["cudnn_benchmark"] is True
    ours = [row for row in result.rows if row.backend == "cpu"]
    for row in ours:
        rivals = [r.median_ms for r in result.rows if r.pass_ == row.pass_ and r.backend in (TORCH, NATIVE)]
        assert row.speedup_best_layout == pytest.approx(min(rivals) / row.median_ms, rel=1e-4)
        assert row.peak_share == pytest.approx(row.gflops / 40, rel=1e-4)  # depthwise: without tensor cores
    printed = capsys.readouterr().out
    assert "Fake GPU, 132 SMs, L2 1 MB" in printed
    assert "40 GFLOP/s fp32 without tensor cores" in printed
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_a_plain_run_needs_neither_table_nor_picture(fake, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(arguments, "EXTRAS", ("a_library_that_is_not_there",))
    assert bench(tmp_path, "--problem", PROBLEM, "--pass", "fprop", "--plain") == cli.EXIT_OK
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "rows.csv", "rows.jsonl"]
    assert "1/1 done" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "tf32"), [("ieee", False), ("tf32", True)])
def test_the_roof_of_fp32_follows_torchs_current_setting(fake, monkeypatch, precision, tf32):
    """After which torch's former one can no longer be read."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    if conv is None:
        pytest.skip("this torch has allow_tf32 alone")
    wanted, before = [], conv.fp32_precision
    monkeypatch.setattr(torch, "set_float32_matmul_precision", wanted.append)
    try:
        conv.fp32_precision = precision
        Cuda().start()
        assert provenance.describe_gpu()["cudnn_tf32"] is tf32
    finally:
        conv.fp32_precision = before
    assert wanted == ["high" if tf32 else "highest"]


def test_a_lost_device_ends_the_run_with_what_was_measured(fake, monkeypatch, tmp_path, capsys):
    def kernel(dy, *arguments, **where):
        fake.lost = "CUDA error: an illegal memory access was encountered"
        raise RuntimeError(fake.lost)

    monkeypatch.setattr(ops, "dgrad", kernel)
    assert bench(tmp_path, "--problem", PROBLEM) == cli.EXIT_FAILED_ROWS
    rows = records(tmp_path)
    assert {row["pass"] for row in rows} == {"fprop", "dgrad"}
    assert all(row["status"] == "ok" for row in rows if row["pass"] == "fprop")
    messages = [row["message"] for row in rows if row["pass"] == "dgrad"]
    assert messages == [f"RuntimeError: {fake.lost}"] + [NOT_RUN] * 5
    result = read_result(tmp_path / "result.json")
    assert not result.complete
    assert result.ended == f"the device was lost: {fake.lost}"
    assert f"{result.ended}: 12 rows were measured and kept" in capsys.readouterr().out


def test_a_failing_kernel_that_leaves_the_device_alone_ends_nothing(fake, monkeypatch, tmp_path):
    def kernel(*arguments, **where):
        raise RuntimeError("no kernel of convbound serves this")

    monkeypatch.setattr(ops, "dgrad", kernel)
    assert bench(tmp_path, "--problem", PROBLEM) == cli.EXIT_FAILED_ROWS
    rows = records(tmp_path)
    assert {row["pass"] for row in rows} == set(PASSES)
    assert [row["backend"] for row in rows if row["status"] == "failed"] == ["cpu", "cpu"]


def test_host_overhead_is_timed_between_synchronisations(fake, tmp_path):
    assert bench(tmp_path, "--suite", "dcgan", "--quick", "--batch", "1", "--pass", "fprop", "--plain") == cli.EXIT_OK
    host = [row for row in records(tmp_path) if row["model"] == "host"]
    assert [(row["backend"], row["timing"], row["device"]) for row in host] == [
        (backend, "clock", "cuda") for _ in ("depthwise", "dense", "1-D") for backend in ("auto", "cpu", TORCH)
    ]


def test_defaults_follow_the_device(fake):
    parser = cli.run_parser()
    options = cli._options(parser, parser.parse_args(["--inductor"]))
    assert (options.device, options.dtypes, options.rivals) == ("cuda", (torch.float16,), (TORCH, NATIVE, INDUCTOR))
    on_cpu = cli._options(parser, parser.parse_args(["--device", "cpu"]))
    assert (on_cpu.device, on_cpu.dtypes, on_cpu.rivals) == ("cpu", (torch.float32,), (TORCH,))
    assert all(model.gpu_batch >= model.batch for model in load_models().values())


def test_the_peak_without_tensor_cores_is_measured_without_tf32(monkeypatch):
    set_: list[str] = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_.append)
    assert Cuda().fma_peak(lambda dtype: 60.0 if dtype == torch.float32 else 0.0) == 60.0
    assert set_ == ["highest", "high"]


def test_nvidia_smi_is_read_by_name_and_may_be_absent(monkeypatch):
    values = "580.65.06, P0, 1980 MHz, 2619 MHz, 1980 MHz, 2619 MHz, 700.00 W, 31"

    def run(command, **how):
        assert "--id=GPU-1234" in command
        return subprocess.CompletedProcess(command, 0, values + "\n", "")

    monkeypatch.setattr(provenance.subprocess, "run", run)
    found = provenance.nvidia_smi("1234")
    assert (found["driver_version"], found["clocks.sm"], found["temperature.gpu"]) == ("580.65.06", "1980 MHz", "31")
    monkeypatch.setattr(
        provenance.subprocess, "run", lambda command, **how: subprocess.CompletedProcess(command, 9, "", "")
    )
    assert provenance.nvidia_smi("") == {}

    def missing(command, **how):
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(provenance.subprocess, "run", missing)
    assert provenance.nvidia_smi("") == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--device", "cuda"])
    error = capsys.readouterr().err
    assert "sees no GPU here; --device cpu measures the CPU" in error
    assert error.count("\n") == 1


def test_a_backend_of_another_device_is_refused(fake, monkeypatch, capsys):
    rows = tuple(dataclasses.replace(row, devices=("cpu",)) for row in backends.backends())
    monkeypatch.setattr(backends, "_BACKENDS", rows)
    for given, message in {
        ("--backend", "cpu"): "--backend: cpu runs on cpu tensors, not on cuda; --device chooses the device",
        (): "--backend: no backend of convbound is available on cuda",
    }.items():
        with pytest.raises(SystemExit):
            cli.main(["--device", "cuda", *given])
        assert message in capsys.readouterr().err
