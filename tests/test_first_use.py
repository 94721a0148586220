"""First use: what is measured decides, what may not be measured is not, and a backend that errs is dropped."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.dispatched import Dispatched
from support.fake_cuda import FakeCuda
from support.tuned import native_kernel, new_process, spoiled, tuning_by
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import convbound
from convbound import autograd, choice, ops, serving
from convbound.choice import backends, cache, cpu_table, first_use
from convbound.choice.first_use import Work
from convbound.cuda_timing import WARM_UP_RUNS
from convbound.problem import PASSES, ConvProblem
from convbound.timing import medians

pytestmark = pytest.mark.skipif(
    backends.CPU_ISA not in cpu_table.MEASURED_ISAS, reason="no SIMD kernel on this instruction set"
)

PROBLEM = ConvProblem.parse("mb2g4ic4ih9iw11oc4kh3ph1")
BY_TABLE = "depthwise in fp32: as fast as torch, or faster, on every layer measured"
X, W = torch.randn(PROBLEM.x_shape), torch.randn(PROBLEM.w_shape)


def conv(x: Tensor = X, w: Tensor = W, **kwargs: Any) -> Tensor:
    return convbound.conv2d(x, w, padding=1, groups=4, backend="auto", **kwargs)


def train() -> list[str]:
    """One step; returns the native ops that ran, which is nothing that measures."""
    with Dispatched() as dispatched:
        train_unseen()
    return dispatched.native


def train_unseen() -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    conv(x, w).square().sum().backward()


@pytest.mark.parametrize(
    ("ours", "torchs", "winner"),
    [(1.0, 2.0, "cpu"), (2.0, 1.0, "torch"), (1.0, 1.04, "cpu"), (1.0, 1.02, "torch")],
    ids=["faster", "slower", "4 % faster", "2 % faster"],
)
def test_the_faster_one_serves(ours: float, torchs: float, winner: str):
    with tuning_by(cpu=ours, torch=torchs) as tuned:
        train_unseen()
        assert tuned.passes == ["fprop", "dgrad", "wgrad"]
        assert train() == (["cpu_fprop", "cpu_dgrad", "cpu_wgrad"] if winner == "cpu" else [])
        assert tuned.passes == ["fprop", "dgrad", "wgrad"]
        choices = [choice.choose(PROBLEM, pass_, torch.float32, "NCHW", torch.device("cpu")) for pass_ in PASSES]
    assert [found.backend for found in choices] == [winner] * 3
    assert f"measured: cpu {ours * 1e3:.3g} ms, torch {torchs * 1e3:.3g} ms on " in choices[0].reason


def test_who_only_infers_pays_for_no_gradient():
    with tuning_by() as tuned:
        conv()
        conv()
    assert tuned.passes == ["fprop"]


def test_passes_of_a_transposed_convolution():
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with tuning_by(naive=True) as tuned:
        for _ in range(2):
            convbound.conv_transpose2d(x, w, padding=1, groups=4).square().sum().backward()
    assert tuned.passes == ["dgrad", "fprop", "wgrad"]


def test_who_trains_pays_for_the_gradients_in_use():
    x, w = X.clone(), W.clone().requires_grad_()
    with tuning_by(naive=True) as tuned:
        conv(x, w).square().sum().backward()
        assert tuned.passes == ["fprop", "wgrad"]
        conv(x.requires_grad_(), w).square().sum().backward()
    assert tuned.passes == ["fprop", "wgrad", "dgrad"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("winner", ["cpu", "torch"])
def test_measured_calls_return_what_torch_returns(winner: str, layout: torch.memory_format):
    bias = torch.randn(4)
    tensors = [X.contiguous(memory_format=layout), W, bias]
    mine, torchs = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    with tuning_by(naive=True, **{winner: 0.1}):
        y = convbound.conv2d(*mine, padding=1, groups=4)
        y.square().sum().backward()
    wanted = F.conv2d(*torchs, padding=1, groups=4)
    wanted.square().sum().backward()
    for result, expected in [(y, wanted), *((a.grad, b.grad) for a, b in zip(mine, torchs, strict=True))]:
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
        assert result.stride() == expected.stride()


def test_naive_kernels_do_not_compete():
    with tuning_by() as tuned:
        convbound.conv2d(torch.randn(2, 80, 6, 6), torch.randn(80, 40, 3, 3), groups=2)  # wide groups
        convbound.conv2d(X.double(), W.double(), padding=1, groups=4)
    assert tuned.passes == []


@pytest.mark.parametrize(
    ("kernel", "found"),
    [
        (serving.ServingKernel("naive_fprop"), ()),
        (serving.ServingKernel("none"), ()),
        (serving.ServingKernel("depthwise_fprop_nchw_3x3", designed=True), ("cuda",)),
    ],
)
def test_what_competes_on_a_gpu(monkeypatch: pytest.MonkeyPatch, kernel: serving.ServingKernel, found: tuple[str, ...]):
    """Without a GPU: torch.cuda and the dispatcher's answer are made up."""
    monkeypatch.setattr(backends, "_BACKENDS", (backends.Backend("cuda", "", ("cuda",)), *backends._BACKENDS))
    monkeypatch.setattr(serving, "serving_kernel", lambda *_: kernel)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    case: Any = (PROBLEM, "fprop", torch.float16, "NCHW", torch.device("cuda:1"))
    assert choice.candidates(*case) == found
    assert choice.choose(*case).untried == found
    assert choice.choose(*case).backend == "torch"
    assert choice.choose(*case, measured=False).backend == "torch"
    assert choice.key(*case).device == "NVIDIA H100, sm_90"


@pytest.mark.parametrize(
    ("value", "devices"),
    [("", ["cuda"]), (" ", ["cuda"]), ("0", []), (" 0 ", []), ("1", ["cpu", "cuda"]), ("1\n", ["cpu", "cuda"])],
    ids=["unset", "blank", "0", "blanks and 0", "1", "1 and a blank"],
)
def test_the_switch(monkeypatch: pytest.MonkeyPatch, value: str, devices: list[str]):
    monkeypatch.setenv("CONVBOUND_TUNE", value)
    assert [device for device in ("cpu", "cuda", "meta", "xpu") if choice.measures_on(device)] == devices
    if value.strip() != "1":
        new_process()
        assert train() == ["cpu_fprop", "cpu_dgrad", "cpu_wgrad"]  # as the table says
        assert convbound.explain(PROBLEM).passes[0].reason == BY_TABLE


def test_a_wrong_switch_says_what_would_be_right(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBOUND_TUNE", "yes")
    with pytest.raises(ValueError, match=r"CONVBOUND_TUNE='yes' must be 0 .* or 1"):
        choice.measures_on("cpu")


def _fails(*_: Any) -> Any:
    raise RuntimeError("no such luck")


def _off_by_a_percent(y: Tensor) -> Tensor:
    y[1, 0, 2, 2] += 0.01 * y[1, 0, 2, 2].abs() + 0.01
    return y


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "one element off": (spoiled(_off_by_a_percent), "WrongResultError: the error"),
    "NaN": (spoiled(lambda y: y.index_fill(3, torch.tensor(2), torch.nan)), "the error is inf"),
    "no last row": (spoiled(lambda y: F.pad(y[:, :, :-1], (0, 0, 0, 1))), "WrongResultError: the error"),
    "zeros": (spoiled(torch.zeros_like), "WrongResultError: the error"),
    "another shape": (spoiled(lambda y: y[:, :, 1:]), "the result is torch.float32"),
    "another dtype": (spoiled(Tensor.double), "the result is torch.float64"),
    "an error": (_fails, "RuntimeError: no such luck"),
}


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_backend_that_errs_is_dropped(kind: str, pass_: str):
    kernel, message = WRONG[kind]
    with tuning_by(naive=True) as tuned, native_kernel(pass_, kernel):
        with pytest.warns(RuntimeWarning, match=f"cpu is not used: .*{message}.* for {pass_} of {PROBLEM}"):
            train_unseen()
        for restarted in (False, True):
            if restarted:
                new_process()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                train_unseen()
                assert f"cpu_{pass_}" not in train()
        assert tuned.passes == ["fprop", "dgrad", "wgrad"]
        row = next(row for row in convbound.explain(PROBLEM).passes if row.pass_ == pass_)
    assert row.backend == "torch"
    assert message in row.reason
    assert "otherwise" in row.reason or pass_ == "wgrad"


def test_a_call_that_drops_a_backend_returns_torchs_result():
    with tuning_by(), native_kernel("fprop", spoiled(torch.zeros_like)), pytest.warns(RuntimeWarning):
        assert torch.equal(conv(), F.conv2d(X, W, padding=1, groups=4))


def test_an_element_that_is_never_written_is_seen():
    def forgetful(op: Any, *args: Any) -> Tensor:
        result: Tensor = op(*args)
        stale = torch.empty_like(result)
        stale[..., 1:] = result[..., 1:]
        return stale

    with tuning_by(), native_kernel("fprop", forgetful), pytest.warns(RuntimeWarning, match="cpu is not used"):
        conv()


NO_MEMORY = {
    "torch on a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …"),
    "torch on a CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 281475110928400 bytes. Error code 12 (Cannot allocate memory)"),
    "torch's stable interface": RuntimeError('torch_call_dispatcher( "aten::new_empty", "", …) API call failed at '
    "torch/csrc/stable/ops.h, line 631"),
    "Python": MemoryError(),
    "C++": RuntimeError("std::bad_alloc"),
    "CUDA": RuntimeError("CUDA error: out of memory"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_MEMORY)
def test_want_of_memory_is_not_remembered(kind: str):
    def hungry(*_: Any) -> Any:
        raise NO_MEMORY[kind]

    with tuning_by() as tuned, native_kernel("fprop", hungry), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(conv(), F.conv2d(X, W, padding=1, groups=4))
        conv()
        assert tuned.passes == ["fprop"]
        assert cache.read() == {}
        reason = convbound.explain(PROBLEM).passes[0].reason
    size = 4 * (2 * X.numel() + W.numel())
    assert (
        f"cpu is not used: out of memory for {PROBLEM}, whose tensors take {size} bytes (6.48e-06 GB) in fp32" in reason
    )
    assert str(NO_MEMORY[kind]) in reason


def test_want_of_memory_in_an_op_of_ours_is_not_remembered():
    """Really too much, by the op itself."""

    def hungry(op: Any, x: Tensor, *args: Any) -> Any:
        return op(x[:1].expand(1 << 45, -1, -1, -1), *args)

    with tuning_by(), native_kernel("fprop", hungry), warnings.catch_warnings():
        warnings.simplefilter("error")
        conv()
        assert cache.read() == {}


def test_want_of_memory_for_the_comparison_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch):
    def hungry(_: Tensor) -> Tensor:
        raise NO_MEMORY["torch on a GPU"]

    with tuning_by() as tuned, warnings.catch_warnings():
        warnings.simplefilter("error")
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "isfinite", hungry)
            assert torch.equal(conv(), F.conv2d(X, W, padding=1, groups=4))
        conv()
        assert tuned.passes == ["fprop"]
        assert cache.read() == {}


def test_other_resources_that_lack_are_remembered():
    """What Triton says of a tile that no GPU of this kind has the shared memory for."""

    class OutOfResources(Exception):  # noqa: N818
        pass

    def large(*_: Any) -> Any:
        raise OutOfResources("out of resource: shared memory, Required: 294912, Hardware limit: 232448.")

    with tuning_by(), native_kernel("fprop", large):
        with pytest.warns(RuntimeWarning, match="out of resource"):
            conv()
        assert len(cache.read()) == 1


def test_errors_of_torch_stay_torchs(monkeypatch: pytest.MonkeyPatch):
    def fails(*_: Any) -> Tensor:
        raise NotImplementedError("torch cannot")

    with tuning_by() as tuned:
        monkeypatch.setattr(ops, "_torch_fprop", fails)
        with pytest.raises(NotImplementedError, match="torch cannot"):
            conv()
        assert tuned.passes == ["fprop"]
        assert cache.read() == {}


@pytest.mark.parametrize("value", [0.0, torch.inf, torch.nan])
def test_data_that_shows_no_error_decides_nothing(value: float):
    with tuning_by(cpu=3.0) as tuned:
        result = conv(X * value)
        assert result.isnan().any() if value else not result.any()
        assert cache.read() == {}
        conv()
        conv()
        assert tuned.passes == ["fprop", "fprop"]
        assert len(cache.read()) == 1


def compiled(x: Tensor) -> Tensor:
    result: Tensor = torch.compile(conv, fullgraph=True, backend="aot_eager")(x)
    return result


def vmapped(x: Tensor) -> Tensor:
    return torch.func.vmap(conv)(x[None])[0]


def traced_by_fx(x: Tensor) -> Tensor:
    graph = make_fx(lambda x: conv(x))(x)
    assert sum("fprop" in str(node.target) or "conv" in str(node.target) for node in graph.graph.nodes) == 1
    result: Tensor = graph(x)
    return result


def traced_by_jit(x: Tensor) -> Tensor:
    result: Tensor = torch.jit.trace(conv, x, check_trace=False)(x)
    return result


def faked(x: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        assert conv(mode.from_tensor(x), mode.from_tensor(W)).shape == x.shape
    return F.conv2d(x, W, padding=1, groups=4)


def watched(x: Tensor) -> Tensor:
    with Dispatched():
        return conv(x)


def captured(x: Tensor) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_use, "_is_capturing", lambda device: True)
        return conv(x)


def deterministic(x: Tensor) -> Tensor:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        return conv(x)
    finally:
        torch.set_deterministic_debug_mode(before)


WATCHERS = [compiled, vmapped, traced_by_fx, traced_by_jit, faked, watched, captured, deterministic]


@pytest.fixture
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.usefixtures("_nothing_compiled")
@pytest.mark.parametrize("watcher", WATCHERS, ids=lambda f: f.__name__)
def test_calls_that_somebody_watches_are_not_measured(watcher: Callable[[Tensor], Tensor]):
    with tuning_by() as tuned:
        torch.testing.assert_close(watcher(X), F.conv2d(X, W, padding=1, groups=4))
        assert tuned.passes == []
        conv()
        assert tuned.passes == ["fprop"]


@pytest.mark.parametrize(
    ("watcher", "served"),
    [(captured, "torch"), (vmapped, "torch"), (deterministic, "cpu")],
    ids=["captured", "vmapped", "deterministic"],
)
def test_what_is_remembered_serves_them_unless_they_ask_for_determinism(
    watcher: Callable[[Tensor], Tensor], served: str
):
    """The table says cpu, the measurement torch."""
    with tuning_by(torch=0.1):
        conv()
        with Dispatched() as dispatched:
            watcher(X)
    assert bool(dispatched.native) is (served == "cpu")


def test_capture_is_torchs_word(monkeypatch: pytest.MonkeyPatch):
    for answer in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda answer=answer: answer)
        assert first_use._is_capturing(torch.device("cuda")) is answer
        assert first_use._is_capturing(torch.device("cpu")) is False


def test_measurements_are_made_once_and_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch):
    """While one thread measures, another is served by the table."""
    measuring_now, others_done = threading.Event(), threading.Event()
    wanted = F.conv2d(X, W, padding=1, groups=4)
    wrong: list[str] = []

    with tuning_by() as tuned:
        counted = first_use.measure

        def slow(*args: Any) -> Any:
            measuring_now.set()
            if not others_done.wait(60):
                wrong.append("the other thread waited")
            return counted(*args)

        def call() -> None:
            if not torch.allclose(conv(), wanted, atol=1e-5):
                wrong.append("a result is wrong")

        monkeypatch.setattr(first_use, "measure", slow)
        first = threading.Thread(target=call)
        first.start()
        assert measuring_now.wait(60)
        call()
        others_done.set()
        first.join()
        assert not wrong
        assert tuned.passes == ["fprop"]
        assert len(cache.read()) == 1


def test_checkpoints_recompute_with_whatever_was_decided_meanwhile():
    """Equal layers: when the first recomputes, the last has had torch chosen for all passes."""
    weights = [W.clone().requires_grad_() for _ in range(3)]
    with tuning_by(naive=True, torch=0.1):
        y = X
        for w in weights:
            y = checkpoint(lambda y, w: conv(y, w).tanh(), y, w, use_reentrant=False)
        y.sum().backward()
    gradients = [w.grad for w in weights]
    y = X
    for w in weights:
        w.grad = None
        y = F.conv2d(y, w, padding=1, groups=4).tanh()
    y.sum().backward()
    for w, gradient in zip(weights, gradients, strict=True):
        torch.testing.assert_close(gradient, w.grad)


def test_a_decided_plan_costs_nothing_more(monkeypatch: pytest.MonkeyPatch):
    with tuning_by():
        train_unseen()
        monkeypatch.setattr(first_use, "run", _fails)
        assert train() == ["cpu_fprop", "cpu_dgrad", "cpu_wgrad"]


def test_torchs_own_function_serves_what_torch_has_won(monkeypatch: pytest.MonkeyPatch):
    """In inference the undecided gradients do not count."""
    with tuning_by(torch=0.1):
        conv()
        monkeypatch.setattr(autograd, "fprop", _fails)
        conv()
        with torch.no_grad():
            conv(X, torch.nn.Parameter(W))
        with pytest.raises(RuntimeError, match="no such luck"):
            conv(X.clone().requires_grad_(), W)


def test_on_a_gpu_replays_are_timed_and_not_the_host(monkeypatch: pytest.MonkeyPatch):
    """However often a short call is sampled, the host makes it for the check and the capture alone."""
    fake = FakeCuda(monkeypatch)
    timer: Any = first_use.timer_for(torch.device("cuda"))
    monkeypatch.setattr(timer._start, "elapsed_time", lambda end: 40e-3)  # milliseconds
    made: list[str] = []

    def call(name: str) -> Tensor:
        made.append(name)
        return X + 1

    found = medians([partial(call, "ours"), partial(call, "torch")], timer, 0.05)
    captured = 5  # calls that fill 200 us
    assert found == [pytest.approx(40e-6 / captured)] * 2
    assert made.count("ours") == made.count("torch") == 2 + (WARM_UP_RUNS + 1) * captured
    assert fake.log[-5:] == ["replay", "record", "replay", "record", "synchronize"]


def test_kernels_on_a_gpu_are_checked_and_then_captured(monkeypatch: pytest.MonkeyPatch):
    fake = FakeCuda(monkeypatch)
    timer: Any = first_use.timer_for(torch.device("cuda"))
    monkeypatch.setattr(timer._start, "elapsed_time", lambda end: 1e-3)
    monkeypatch.setattr(first_use, "BUDGET", 0.01)
    with native_kernel("fprop", spoiled(torch.zeros_like)):
        dropped = first_use.measure(Work("fprop", PROBLEM, False, X, W), ("cpu",), timer)
    assert dropped is not None
    assert "cpu" in dropped.dropped
    assert "captured" not in fake.log
    findings = first_use.measure(Work("fprop", PROBLEM, False, X, W), ("cpu",), timer)
    assert findings is not None
    assert findings.dropped == {}
    assert findings.milliseconds.keys() == {"cpu", "torch"}
    assert fake.log.count("captured") == 2


def test_explain_tells_what_was_measured_and_what_would_be_without():
    with tuning_by(torch=0.1):
        before = convbound.explain(PROBLEM)
        conv()
        after = convbound.explain(PROBLEM)
    assert [row.backend for row in before.passes] == ["cpu"] * 3
    assert before.passes[0].reason.startswith("not measured yet, the first call will time cpu and torch; otherwise cpu")
    assert [row.backend for row in after.passes] == ["torch", "cpu", "cpu"]
    assert after.passes[0].reason.startswith("measured: cpu 1e+03 ms, torch 100 ms on ")
    assert after.passes[0].reason.endswith(f"otherwise cpu: {BY_TABLE}")
