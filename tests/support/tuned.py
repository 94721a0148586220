"""Tuning on a CPU, by times that a test invents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from convbound import choice, ops
from convbound.choice import backends, cache, first_use
from convbound.timing import Prepared
from support.preferring import forget_plans


@dataclass
class Tuned:
    """What a test sees of tuning: how often something was measured, by which times."""

    seconds: dict[str, float]
    measured: list[first_use.Work] = field(default_factory=list)

    def sample(self, call: Any) -> float:
        """As a timer: makes the call and returns the backend's time, as invented."""
        call()
        return self.seconds[call.args[0]]

    def prepare(self, calls: Callable[[int], Sequence[Any]], seconds: float) -> Prepared:
        """A contender is sampled call by call."""
        return Prepared(calls(1)[0], 1, "invented")

    @property
    def passes(self) -> list[str]:
        """The passes that were measured."""
        return [work.pass_ for work in self.measured]


def new_process() -> None:
    """Forget what a new process would not know."""
    cache.forget()
    cache._warn.cache_clear()
    first_use._serving.cache_clear()
    forget_plans()


@contextmanager
def tuning_by(*, naive: bool = False, **seconds: float) -> Iterator[Tuned]:
    """Tuning is on and the cache empty; backends take so long. With `naive`, naive kernels compete, for every pass."""
    tuned = Tuned({"cpu": 1.0, "torch": 2.0, **seconds})
    measure = first_use.measure

    def counted(work: first_use.Work, *args: Any) -> Any:
        tuned.measured.append(work)
        return measure(work, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(choice.VARIABLE, "1")
        patch.setattr(first_use, "measure", counted)
        patch.setattr(first_use, "timer_for", lambda device: tuned)
        if naive:
            patch.setattr(choice, "candidates", lambda *case: tuple(backends.our_backends(case[-1].type)))
        cache.clear()
        new_process()
        yield tuned
    new_process()


@contextmanager
def native_kernel(pass_: str, replace: Callable[..., Any]) -> Iterator[None]:
    """The native CPU op of a pass is this function of the real op and its arguments."""
    op = ops._NATIVE["cpu"][pass_]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ops._NATIVE["cpu"], pass_, lambda *args: replace(op, *args))
        yield


def spoiled(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """A kernel with a changed result, and the right bias gradient."""

    def run(op: Any, *args: Any) -> Any:
        result = op(*args)
        return change(result) if isinstance(result, torch.Tensor) else (change(result[0]), result[1])

    return run
