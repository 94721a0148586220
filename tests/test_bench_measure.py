"""The benchmark's parts: rivals, check and timer. No assertion depends on how fast anything is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from convbound import choice, ops, roofs
from convbound.bench import overhead, runner
from convbound.bench.auto import AUTO
from convbound.bench.cases import Case, Tensors, contenders, dense, random_tensors
from convbound.bench.check import Reference, poisoned_outputs
from convbound.bench.measure import COMPUTE, EITHER, MEMORY, judge
from convbound.bench.plan import LEAST_SECONDS, MOST_SECONDS, Budget
from convbound.bench.progress import Lines
from convbound.bench.rows import Row
from convbound.bench.summary import remark_lines
from convbound.bench.tables import Layer
from convbound.choice import Choice
from convbound.devices import Device
from convbound.problem import PASSES, ConvProblem
from convbound.roofs import Roofs
from convbound.timing import LONG_CALL, MAX_SAMPLES, CpuTimer, interleave

PROBLEMS = [
    "mb2g6ic6ih9iw7oc12kh3kw5sh2sw1ph1pw2",
    "mb2g2ic4ih8oc6kh3ph2dh2",
    "mb2ic4iw12oc6kw4pw3ew0",
    "mb1g4ic4id5oc4kd3pd1",
]


def case(text: str, pass_: str = "fprop", transposed: bool = False, dtype: torch.dtype = torch.float32) -> Case:
    return Case(Layer("toy", "layer", 1, transposed, "quick", ConvProblem.parse(text)), pass_, dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("text", PROBLEMS)
def test_contenders_agree_in_both_layouts(text, pass_):
    this = case(text, pass_)
    tensors = random_tensors(this.problem, this.dtype)
    reference = Reference(this, tensors)
    for contender in contenders(this, tensors, ["cpu", AUTO], ["NCHW", "NHWC"]):
        assert reference.error(contender.call()) <= reference.limit(1e-6), contender


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("text", ["mb2ic3ih8oc6kh4sh2ph1", "mb2g2ic4ih8iw7oc6kh3sh2ph1", "mb1g4ic4iw9oc4kw3sw2pw1"])
def test_transposed_layers_are_the_transposed_passes_of_their_problem(text, pass_):
    this = case(text, pass_, transposed=True)
    tensors = random_tensors(this.problem, this.dtype)
    reference = Reference(case(text, pass_), tensors)
    for contender in contenders(this, tensors, ["cpu", AUTO], ["NCHW", "NHWC"]):
        assert reference.error(contender.call()) <= reference.limit(1e-6), contender
    assert this.family == "transposed"
    assert this.role == {"fprop": "input gradient", "dgrad": "forward", "wgrad": "weight gradient"}[pass_]


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
def test_auto_runs_what_it_chose_and_says_so(transposed, backend, pass_, monkeypatch):
    monkeypatch.setattr("convbound.bench.auto.choose", lambda *what, **how: Choice(backend, "given"))
    monkeypatch.setattr(choice, "choose", lambda *what, **how: Choice(backend, "given"))
    ran: list[str] = []
    real = getattr(ops, pass_)
    monkeypatch.setattr(ops, pass_, lambda *what, **where: ran.append(where["backend"]) or real(*what, **where))
    # Of a size that no other test has, for plans are cached.
    this = case(f"mb1g4ic4ih{11 + transposed}iw{7 + (backend == 'cpu')}oc4kh3ph1", pass_, transposed)
    found = contenders(this, random_tensors(this.problem, this.dtype), [AUTO], ["NCHW"])[0]
    found.call()
    assert found.kernel().startswith(f"auto: {backend}")
    assert (found.kernel() == f"auto: cpu depthwise_{pass_}") == (backend == "cpu")
    assert ran == (["cpu"] if backend == "cpu" else [])  # where torch has the layer, none of our functions runs


def test_auto_names_the_layout_that_it_returns():
    """Whatever its input's, a result of one dimension is NCL with a depthwise filter, as torch's is."""
    this = case("mb1g4ic4iw9oc4kw3pw1")
    found = contenders(this, random_tensors(this.problem, this.dtype), [AUTO], ["NHWC"])[0]
    assert found.call().is_contiguous()


def test_a_strided_dgrad_is_of_the_transposed_family():
    strided, plain = "g4ic4ih8oc4kh3sh2ph1", "g4ic4ih8oc4kh3ph1"
    assert [case(strided, p).family for p in PASSES] == ["depthwise", "transposed", "depthwise"]
    assert [case(plain, p).family for p in PASSES] == ["depthwise"] * 3


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (4, 1, 3, 3), (2, 3, 5, 4, 2)])
def test_dense_layouts_hold_no_copy(shape):
    tensor = torch.randn(shape)
    last = dense(tensor, "NHWC")
    assert torch.equal(last, tensor)
    assert last.movedim(1, -1).is_contiguous()
    assert dense(last, "NCHW").is_contiguous()
    if len(shape) == 4:
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert last.contiguous(memory_format=torch.channels_last).data_ptr() == last.data_ptr()


WRONG = {
    "one element off": lambda y: y.index_put((torch.tensor(0),) * 4, y[0, 0, 0, 0] + 1e-3),
    "shifted by one": lambda y: y.roll(1, -1),
    "halo missing": lambda y: torch.cat([torch.zeros_like(y[..., :1]), y[..., 1:]], -1),
    "never written": lambda y: y.index_put((torch.tensor(0),) * 4, torch.tensor(math.nan)),
    "computed in half": lambda y: y.half().float(),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_check_finds_what_is_wrong(wrong):
    this = case("mb2g4ic4ih8oc4kh3ph1")
    tensors = random_tensors(this.problem, this.dtype)
    reference = Reference(this, tensors)
    right = contenders(this, tensors, [], ["NCHW"])[0].call()
    assert reference.error(right) < 1e-6
    assert reference.error(WRONG[wrong](right.clone())) > reference.limit(reference.error(right))


def test_the_check_refuses_zeros_and_other_shapes():
    this = case("mb2g4ic4ih8oc4kh3ph1")
    reference = Reference(this, random_tensors(this.problem, this.dtype))
    with pytest.raises(ValueError, match="zero everywhere"):
        reference.error(torch.zeros(this.problem.y_shape))
    with pytest.raises(ValueError, match=r"has shape \(1,\)"):
        reference.error(torch.ones(1))


def test_an_element_that_only_padding_reaches_has_to_be_zero():
    this = case("ic1iw1oc1kw1pw1")
    one = torch.ones(1, 1, 1)
    reference = Reference(this, Tensors(one, one, torch.ones(1, 1, 3)))
    assert reference.error(torch.tensor([[[0.0, 1.0, 0.0]]])) == 0
    assert reference.error(torch.tensor([[[1e-9, 1.0, 0.0]]])) == math.inf
    assert reference.error(torch.tensor([[[0.0, 1.0, torch.nan]]])) == math.inf


def test_outputs_are_poisoned_only_while_checking():
    with poisoned_outputs():
        assert torch.empty(8).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


class ScriptedTimer:
    """Calls take what they return, and no other time passes."""

    def sample(self, call):
        return call()


class Recorder:
    def __init__(self, log: list[str], name: str, seconds: float) -> None:
        self.log, self.name, self.seconds = log, name, seconds

    def __call__(self) -> float:
        self.log.append(self.name)
        return self.seconds


def test_samples_are_taken_forwards_and_backwards(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr("convbound.timing.time.perf_counter", lambda: next(ticks) / 1024)
    log: list[str] = []
    calls = [Recorder(log, name, 0.001) for name in "ABC"]
    samples = interleave(calls, ScriptedTimer(), budget=12 / 1024, first=[0.001] * 3)
    assert "".join(log) == "ABC" + "ABCCBA" * 2
    assert samples == [[0.001] * 4] * 3


def test_a_long_call_that_fills_its_share_is_sampled_by_its_checked_run_alone():
    log: list[str] = []
    calls = [Recorder(log, "A", 9.0), Recorder(log, "B", 0.001)]
    samples = interleave(calls, ScriptedTimer(), budget=0.02, first=[9.0, 0.001])
    assert samples[0] == [9.0]
    assert 2 <= len(samples[1]) <= MAX_SAMPLES + 1
    assert "A" not in log


def test_every_call_has_a_sample_however_small_the_budget():
    assert interleave([lambda: LONG_CALL / 2], ScriptedTimer(), budget=1e-9, first=[LONG_CALL / 2])[0]
    assert interleave([lambda: 2 * LONG_CALL], ScriptedTimer(), budget=1e-9, first=[2 * LONG_CALL])[0]
    assert interleave([], ScriptedTimer(), budget=1.0, first=[]) == []


@pytest.mark.parametrize("cold", [True, False])
def test_the_cpu_timer_runs_each_call_once(cold):
    runs: list[int] = []
    assert CpuTimer(cold=cold, cache_bytes=1 << 16).sample(lambda: runs.append(1)) > 0
    assert runs == [1]


def test_a_budget_shares_what_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("convbound.bench.plan.time.perf_counter", lambda: now[0])
    assert Budget(None, 5, started=100.0).share() == MOST_SECONDS
    budget = Budget(1000.0, 2000, started=100.0)
    early = budget.share()
    assert LEAST_SECONDS <= early < MOST_SECONDS
    for _ in range(1990):
        budget.spent(total=0.0, timed=0.0)
    assert budget.share() == MOST_SECONDS
    assert Budget(50.0, 20, started=100.0, behind=44.0).share() < Budget(50.0, 20, started=100.0).share()
    now[0] = 1100.0
    assert budget.share() == LEAST_SECONDS


class SmallDevice(Device):
    min_copy_bytes = max_copy_bytes = 1 << 20
    product_edges = (32,)


def test_roofs_are_measured():
    measured = roofs.measure_roofs(SmallDevice(), [torch.float32, torch.bfloat16])
    assert set(measured.peak_gflops) == {"fp32", "bf16"}
    assert measured.peak_gflops["bf16"] >= measured.peak_gflops["fp32"] > 0
    assert measured.ridge("fp32") == measured.peak_gflops["fp32"] / measured.copy_gbps > 0


def measured(copy: float, peak: float, fma: float | None = None, method: str = "copy_") -> Roofs:
    return Roofs(copy, method, {"fp32": peak}, fma)


def test_the_roofs_of_a_run_are_medians_with_their_spread():
    found = roofs.median_roofs([measured(25, 160), measured(38, 100, method="memcpy"), measured(29, 170)])
    assert (found.copy_gbps, found.copy_method, found.peak_gflops) == (29, "copy_", {"fp32": 160})
    assert found.fma_gflops is None
    assert (found.repeats, found.spread) == (3, {"copy": (25, 38), "fp32": (100, 170)})
    assert found.ridge("fp32") == 160 / 29
    assert found.ridge_spread("fp32") == (100 / 38, 170 / 25)
    gpu = roofs.median_roofs([measured(20, 400, 40), measured(10, 300, 30)])
    assert gpu.ridge_spread("fp32") == (15, 40)
    assert gpu.ridge_spread("fp32", depthwise=True) == (1.5, 4)


def test_a_single_measurement_has_no_spread():
    single = measured(20, 100)
    assert roofs.median_roofs([single]) is single
    assert single.ridge_spread("fp32") == (5, 5)


def row(**values: object) -> Row:
    names = ("model", "layer", "op", "family", "role")
    texts = dict.fromkeys(names, "x") | {"problem": "mb1ic8ih8oc8kh3ph1", "pass_": "fprop", "dtype": "fp32"}
    return Row(**{**texts, "count": 1, "layout": "NCHW", "backend": "cpu", **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("intensity", "bound"), [(1.0, MEMORY), (2.0, MEMORY), (2.1, EITHER), (7.9, EITHER), (8.0, COMPUTE), (9.0, COMPUTE)]
)
def test_a_verdict_within_the_spread_of_the_ridge_is_none(intensity, bound):
    spread = roofs.median_roofs([measured(50, 100), measured(25, 200)])  # a ridge of 2 to 8
    this = row(intensity=intensity, gbps=15.0, gflops=15.0 * intensity)
    judge(this, spread)
    assert this.bound == bound
    assert this.roof_share == max(15 / 37.5, 15 * intensity / 150)
    judge(this, measured(25, 100))
    assert this.bound == (MEMORY if intensity <= 4 else COMPUTE)


@pytest.mark.parametrize(("p80", "noisy"), [(1.49, False), (1.5, True), (None, False)])
def test_a_row_with_a_far_80th_percentile_is_noisy(p80, noisy):
    this = row(median_ms=1.0, p80_ms=p80)
    assert this.noisy is noisy
    assert any("1 of 1 times are noisy" in line for line in remark_lines([this])) is noisy
    assert not row().noisy


def test_a_repeat_of_the_roofs_that_fails_leaves_those_before(monkeypatch):
    results: list[Roofs | Exception] = [measured(20, 100), RuntimeError("out of memory"), measured(30, 100)]

    def measure(device, dtypes):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(runner, "measure_roofs", measure)
    meter = runner.RoofMeter(Device(), [torch.float32])
    for _ in range(3):
        meter.measure()
    assert (meter.found.copy_gbps, meter.found.repeats) == (25, 2)
    results.append(RuntimeError("no memory at all"))
    with pytest.raises(RuntimeError, match="at all"):
        runner.RoofMeter(Device(), [torch.float32]).measure()


def host(threads: int, microseconds: float, backend: str = "torch", layer: str = "dense") -> Row:
    return row(model="host", layer=layer, backend=backend, threads=threads, median_ms=microseconds / 1e3)


def test_threads_that_wait_for_one_another_are_told_of():
    rows = [host(1, 20), host(1, 21, "auto"), host(2, 4128), host(2, 22, "auto"), host(2, 50, layer="1-D")]
    assert overhead.contention(rows) == [(rows[0], rows[2])]
    assert remark_lines(rows) == [
        "host overhead per call on 1 thread, us: torch 20.0; auto 21.0",
        "host overhead per call on 2 threads, us (dense, 1-D): torch 4128.0, 50.0; auto 22.0",
        "on 2 threads these calls spend their time waiting for threads, as they do where other programs use the cores: "
        "torch dense 4128.0 us instead of 20.0",
    ]
    assert len(remark_lines(rows[:2])) == 1


def test_the_host_overhead_is_measured_on_one_thread_and_on_all(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.append(count))
    now = [3]
    rows = overhead.measure_overhead(["cpu"], Device(), budget=1e-9)
    assert [(r.layer, r.threads) for r in rows[::3]] == [(layer, n) for layer in overhead.PROBLEMS for n in (1, 3)]
    assert {r.backend for r in rows} == {AUTO, "cpu", "torch"}
    assert all(r.ok and r.median_ms for r in rows)
    assert now[-1] == 3


def test_lines_tell_the_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("convbound.bench.progress.time.perf_counter", lambda: now[0])
    lines = Lines()
    lines.total(4)
    lines.step("first")
    now[0] += 30.0
    lines.advance()
    lines.step("second")
    for _ in range(3):
        lines.advance()
    lines.step("done")
    assert capsys.readouterr().out == "0/4 first\n1/4 second, 1:30 left\n4/4 done\n"
