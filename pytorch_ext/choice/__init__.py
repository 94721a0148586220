"""Which backend serves a pass, and why: `choose` is the only entrance.

A backend that is named is taken at its word. ``auto`` asks what was measured on this machine, where that may be done
(on GPUs; on CPUs where the environment says so), else the table for CPUs:

    backends.py    which backends there are, and what each of them cannot do
    cpu_table.py   where native kernels are faster than torch on a CPU, and why not elsewhere
    first_use.py   times the candidates of a pass when it first runs
    cache.py       what that found, in memory and in a file of the user's
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache as cached

import torch

from convbound import _library, serving
from convbound._version import __version__
from convbound.choice import backends, cache, cpu_table
from convbound.choice.backends import Choice
from convbound.machine import cpu_name
from convbound.problem import DTYPE_NAMES, DTYPES, ConvProblem, Layout, Pass

__all__ = ["Choice", "choose"]

VARIABLE = "CONVBOUND_TUNE"
_DEVICES = ("cpu", "cuda")


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
    """The backend of one pass; with `measured` False, what serves where no measurement counts."""
    if backend != "auto":
        return Choice(backend, f"asked for by backend={backend!r}")
    unmeasured = _unmeasured(problem, pass_, dtype, layout, device.type)
    if not measured or not measures_on(device.type) or dtype not in DTYPE_NAMES:
        return unmeasured
    rivals = candidates(problem, pass_, dtype, layout, device)
    if not rivals:
        return unmeasured
    decision = cache.find(key(problem, pass_, dtype, layout, device))
    otherwise = f"otherwise {unmeasured.backend}: {unmeasured.reason}"
    if decision is None or not decision.covers(rivals):
        first_use = f"not measured yet, the first call will time {', '.join(rivals)} and torch; {otherwise}"
        return Choice(unmeasured.backend, first_use, rivals)
    agreed = decision.backend == unmeasured.backend
    return Choice(decision.backend, decision.reason if agreed else f"{decision.reason}; {otherwise}")


def _unmeasured(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, device: str) -> Choice:
    """What serves untried; never a backend that cannot run."""
    if device == "cuda":
        return Choice("torch", "no kernel of ours was measured faster on a GPU")
    if device != "cpu":
        return Choice("torch", f"there are no native kernels for {device} tensors")
    if _library.ABSENT["cpu"] is not None:
        return Choice("torch", "the native CPU kernels are not built")
    if dtype not in DTYPES:
        return Choice("torch", f"{dtype} has no native kernel")
    if backends.CPU_ISA not in cpu_table.MEASURED_ISAS:
        return Choice("torch", f"nothing was measured on the instruction set {backends.CPU_ISA}")
    return cpu_table.look_up(problem, pass_, dtype, layout, backends.CPU_ISA)


def measures_on(device: str) -> bool:
    """Whether problems on this type of device are measured: on GPUs, and on CPUs if CONVBOUND_TUNE=1 says so."""
    value = os.environ.get(VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE}={value!r} must be 0 (measure nowhere) or 1 (everywhere, not on GPUs only)")
    return device in _DEVICES and (value == "1" or (value == "" and device == "cuda"))


def state() -> str:
    """Where problems are measured, and where the cache is, in words."""
    devices = [name for name in _DEVICES if measures_on(name)]
    where = f"on for {' and '.join(devices)} tensors" if devices else "off"
    value = os.environ.get(VARIABLE, "").strip()
    setting = f"{VARIABLE}={value}" if value else f"{VARIABLE} is not set"
    return f"{where} ({setting}), cache {cache.location_text()}"


def stamp() -> int:
    """Part of the key of what rests on choices: another number after each decision, and 0 where none of them counts.

    Times differ from run to run, so under ``torch.use_deterministic_algorithms`` nothing measured does.
    """
    return 0 if torch.are_deterministic_algorithms_enabled() else cache.generation


def candidates(
    problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, device: torch.device
) -> tuple[str, ...]:
    """The backends that would serve this pass by more than a naive kernel."""
    if isinstance(_library.introspect, str):
        return ()
    found = []
    for backend in backends.our_backends(device.type):
        if backends.unsupported(problem, pass_, dtype, backend) is None:
            with current(device):
                kernel = serving.serving_kernel(problem, pass_, dtype, layout, backend)
            if kernel.designed:
                found.append(backend)
    return tuple(found)


def current(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()  # type: ignore[return-value]


def key(problem: ConvProblem, pass_: Pass, dtype: torch.dtype, layout: Layout, device: torch.device) -> cache.Key:
    """What a decision about this pass holds for."""
    return cache.Key(_name(device), build(device.type), str(problem), DTYPE_NAMES[dtype], layout, pass_)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, sm_{major}{minor}"
    return f"{cpu_name()}, {backends.CPU_ISA}, {torch.get_num_threads()} threads"


@cached
def build(device: str) -> str:
    """Which kernels compete with which torch: versions, and the hash of our sources."""
    ours = f"convbound {__version__} ({_library.build_info().get('source_hash')})"
    cudnn = f", cuDNN {torch.backends.cudnn.version()}" if device == "cuda" else ""  # type: ignore[no-untyped-call]
    return f"{ours}, torch {torch.__version__}{cudnn}"
