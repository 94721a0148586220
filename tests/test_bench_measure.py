"""The benchmark's parts: rivals, check and timer. No assertion depends on how fast anything is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from convbound import roofs
from convbound.bench.cases import Case, Tensors, contenders, dense, random_tensors
from convbound.bench.check import Reference, poisoned_outputs
from convbound.bench.plan import LEAST_SECONDS, MOST_SECONDS, Budget
from convbound.bench.tables import Layer
from convbound.devices import Device
from convbound.problem import PASSES, ConvProblem
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
    for contender in contenders(this, tensors, ["cpu"], ["NCHW", "NHWC"]):
        assert reference.error(contender.call()) <= reference.limit(1e-6), contender


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("text", ["mb2ic3ih8oc6kh4sh2ph1", "mb2g2ic4ih8iw7oc6kh3sh2ph1", "mb1g4ic4iw9oc4kw3sw2pw1"])
def test_transposed_layers_are_the_transposed_passes_of_their_problem(text, pass_):
    this = case(text, pass_, transposed=True)
    tensors = random_tensors(this.problem, this.dtype)
    reference = Reference(case(text, pass_), tensors)
    for contender in contenders(this, tensors, ["cpu"], ["NCHW", "NHWC"]):
        assert reference.error(contender.call()) <= reference.limit(1e-6), contender
    assert this.family == "transposed"
    assert this.role == {"fprop": "input gradient", "dgrad": "forward", "wgrad": "weight gradient"}[pass_]


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
