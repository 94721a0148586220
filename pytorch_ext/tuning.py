"""First use: where it may, ``auto`` times its candidates against torch, once per problem, and remembers the winner.

Each pass is decided apart, when it first runs and on the tensors that it is called with: who only infers pays for no
gradient, and no tensor has to be invented. Until then the :class:`~convbound.autograd.Plan` says ``"auto"`` for it.

A call that somebody watches (a compiler, a tracer, a transform, a CUDA graph) is never measured: it gets what is
remembered, else what the preference table says. Nor is anything measured or remembered while
``torch.use_deterministic_algorithms`` is on, for times differ from run to run.
"""

from __future__ import annotations

import datetime
import os
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from convbound import _library, decisions, measuring, selection
from convbound._version import __version__
from convbound.decisions import Decision, Key
from convbound.measuring import Work
from convbound.problem import DTYPE_NAMES, PASSES, ConvProblem, Layout, Pass
from convbound.selection import Choice

VARIABLE = "CONVBOUND_TUNE"
UNDECIDED = "auto"
# The rivals of torch; simt is left out, for it emulates.
CANDIDATES = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
# A designed kernel's name begins with its family. Naive ones, which are "naive_fprop" or "depthwise_fprop_naive_nchw",
# never compete.
FAST_FAMILIES = ("dense", "depthwise", "dilated", "grouped", "transposed")
_NAIVE = "_naive"

_generation = 1
_measuring = threading.Lock()


def enabled(device: str) -> bool:
    """Whether problems on this type of device are measured: on GPUs, and on CPUs if CONVBOUND_TUNE=1 says so."""
    value = os.environ.get(VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE}={value!r} must be 0 (measure nowhere) or 1 (everywhere, not on GPUs only)")
    return device in CANDIDATES and (value == "1" or (value == "" and device == "cuda"))


def state() -> str:
    """Where tuning is on, and where its file is, in words."""
    devices = [name for name in CANDIDATES if enabled(name)]
    where = f"on for {' and '.join(devices)} tensors" if devices else "off"
    value = os.environ.get(VARIABLE, "").strip()
    setting = f"{VARIABLE}={value}" if value else f"{VARIABLE} is not set"
    return f"{where} ({setting}), cache {decisions.location_text()}"


def stamp() -> int:
    """Part of a plan's key: another number after each decision, and 0 where the preference table alone decides."""
    return 0 if torch.are_deterministic_algorithms_enabled() else _generation


def choose(
    problem: ConvProblem,
    pass_: Pass,
    dtype: torch.dtype,
    layout: Layout,
    device: torch.device,
    backend: str = "auto",
    *,
    measured: bool = True,
) -> Choice:
    """The backend of one pass: a decision by measurement, or ``UNDECIDED``, or what `selection.choose` says.

    The last is so for a named backend, where tuning is off or `measured` is False, and where nothing of ours competes.
    """
    by_table = selection.choose(problem, pass_, dtype, layout, device.type, backend)
    if backend != "auto" or not measured or not enabled(device.type) or dtype not in DTYPE_NAMES:
        return by_table
    rivals = candidates(problem, pass_, dtype, layout, device)
    if not rivals:
        return by_table
    decision = decisions.find(_key(problem, pass_, dtype, layout, device))
    otherwise = f"otherwise {by_table.backend}: {by_table.reason}"
    if decision is None or not decision.covers(rivals):
        first_use = f"not measured yet, the first call will time {', '.join(rivals)} and torch; {otherwise}"
        return Choice(pass_, UNDECIDED, first_use)
    agreed = decision.backend == by_table.backend
    return Choice(pass_, decision.backend, decision.reason if agreed else f"{decision.reason}; {otherwise}")


def choose_all(
    problem: ConvProblem,
    dtype: torch.dtype,
    layout: Layout,
    device: torch.device,
    backend: str = "auto",
    *,
    measured: bool = True,
) -> tuple[Choice, ...]:
    """The choices of the three passes, in the order fprop, dgrad, wgrad."""
    return tuple(choose(problem, pass_, dtype, layout, device, backend, measured=measured) for pass_ in PASSES)


def candidates(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, device: torch.device
) -> tuple[str, ...]:
    """The backends that would serve this pass by more than a naive kernel."""
    from convbound.explanation import serving_kernel  # not above: explanations ask this module in their turn

    if isinstance(_library.introspect, str):
        return ()
    found = []
    for backend in selection.backends():
        if not backend.available or backend.emulated or backend.name not in CANDIDATES[device.type]:
            continue
        if selection.unsupported(problem, pass_, dtype, backend.name) is None:
            with _current(device):
                kernel, _ = serving_kernel(problem, pass_, dtype, layout, backend.name)
            if is_designed(kernel):
                found.append(backend.name)
    return tuple(found)


def is_designed(kernel: str) -> bool:
    """Whether a kernel of this name is more than a naive one."""
    return kernel.startswith(FAST_FAMILIES) and _NAIVE not in kernel


def run(work: Work) -> Any:
    """Do work whose backend is undecided: measure first, if that may be done now, then run what serves."""
    # Never wait for another thread's measurement: its GPU work may be waiting for ours.
    if _may_measure(work) and _measuring.acquire(blocking=False):
        try:
            _decide(work)
        finally:
            _measuring.release()
    return work.run(_settled(*_case(work), stamp()))


def _case(work: Work) -> tuple[ConvProblem, Pass, torch.dtype, Layout, torch.device]:
    layout: Layout = "NHWC" if work.channels_last else "NCHW"
    return work.problem, work.pass_, work.first.dtype, layout, work.first.device


@lru_cache(maxsize=4096)
def _settled(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, device: torch.device, stamp: int
) -> str:
    """What serves without further measurement."""
    choice = choose(problem, pass_, dtype, layout, device, measured=bool(stamp))
    if choice.backend != UNDECIDED:
        return choice.backend
    return selection.choose(problem, pass_, dtype, layout, device.type).backend


def _may_measure(work: Work) -> bool:
    """Whether nobody sees, records or transforms what is called beside the call that was asked for."""
    tensors = [tensor for tensor in (work.first, work.second, work.bias) if tensor is not None]
    return (
        bool(stamp())
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
        and not _is_capturing(work.first.device)
    )


def _current(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()  # type: ignore[return-value]


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _decide(work: Work) -> None:
    """Measure and remember, unless it has been done by now or the data does not tell right from wrong."""
    global _generation
    case = _case(work)
    device = work.first.device
    if choose(*case).backend != UNDECIDED:
        return
    with _current(device), torch.autocast(device.type, enabled=False):
        findings = measuring.measure(work, candidates(*case), measuring.timer_for(device))
    if findings is None:
        return
    key, today = _key(*case), datetime.date.today().isoformat()
    decision = Decision(key, findings.best, findings.milliseconds, today, findings.dropped)
    # Memory may suffice another time.
    decisions.remember(decision, lasting=not findings.out_of_memory)
    _generation += 1
    if findings.dropped.keys() - findings.out_of_memory:
        what = f"{key.pass_} of {key.problem}, {key.dtype} {key.layout}"
        warnings.warn(f"convbound: {decision.reason}, for {what}", RuntimeWarning, stacklevel=2)


def _key(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, device: torch.device) -> Key:
    return Key(_device_name(device), build(device.type), str(problem), DTYPE_NAMES[dtype], layout, pass_)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, sm_{major}{minor}"
    return f"{_cpu_name()}, {selection.CPU_ISA}, {torch.get_num_threads()} threads"


@cache
def _cpu_name() -> str:
    from convbound.bench.machine import cpu_name  # not above: the benchmark imports all of convbound

    return cpu_name()


@cache
def build(device: str) -> str:
    """Which kernels compete with which torch: versions, and the hash of our sources."""
    ours = f"convbound {__version__} ({_library.build_info().get('source_hash')})"
    cudnn = f", cuDNN {torch.backends.cudnn.version()}" if device == "cuda" else ""  # type: ignore[no-untyped-call]
    return f"{ours}, torch {torch.__version__}{cudnn}"
