"""A stand-in for ``torch.cuda`` where there is no GPU: tensors stay on the CPU, and all that is called is logged.

It makes host code that drives a GPU testable: the order of its calls, and what it does when one of them fails. Work
runs at once, as if every stream were synchronous. A captured graph remembers the ops that ran under it and runs them
again, into the same outputs, when it is replayed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROPERTIES = SimpleNamespace(
    name="Fake GPU",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    L2_cache_size=1 << 20,
    shared_memory_per_block_optin=227 << 10,
    uuid="",
)


class _Recorder(TorchDispatchMode):
    """Runs ops and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ops.append((func, args, kwargs or {}, result))
        return result


class FakeCuda:
    """The patched functions of ``torch.cuda``, by their names, and what became of them.

    Attributes
    ----------
    log
        What was called, in order.
    lost
        When set, an error of a kernel that every later call reports, as a GPU's sticky errors are.
    capture_error
        When set, what the end of a capture raises.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, devices: int = 1) -> None:
        self.log: list[str] = []
        self.lost = ""
        self.capture_error = ""
        self._streams = [self._stream_class()("main")]
        self._device = 0
        self._devices = devices
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: self._devices,
            "current_device": lambda: self._device,
            "get_device_properties": lambda device=None: PROPERTIES,
            "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
            "get_device_name": lambda device=None: PROPERTIES.name,
            "synchronize": self._synchronize,
            "empty_cache": lambda: None,
            "Event": self._event_class(),
            "Stream": self._stream_class(),
            "current_stream": lambda device=None: self._streams[-1],
            "stream": self._use_stream,
            "device": self._use_device,
            "CUDAGraph": self._graph_class(),
            "graph": self._capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def _synchronize(self, device: Any = None) -> None:
        self.log.append("synchronize")
        if self.lost:
            raise RuntimeError(self.lost)

    def _event_class(self) -> type:
        fake = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.enable_timing = enable_timing
                self.recorded: float | None = None

            def record(self, stream: Any = None) -> None:
                fake.log.append("record")
                self.recorded = time.perf_counter()

            def synchronize(self) -> None:
                fake._synchronize()

            def elapsed_time(self, end: Event) -> float:
                assert self.enable_timing
                assert end.enable_timing
                return (end.recorded - self.recorded) * 1e3

        return Event

    def _stream_class(self) -> type:
        fake = self

        class Stream:
            def __init__(self, name: str = "side", device: Any = None) -> None:
                self.name = name

            def wait_stream(self, other: Stream) -> None:
                fake.log.append(f"{self.name} waits for {other.name}")

            def synchronize(self) -> None:
                fake._synchronize()

        return Stream

    def _graph_class(self) -> type:
        fake = self

        class CUDAGraph:
            def __init__(self) -> None:
                self.recorder = _Recorder()

            def replay(self) -> None:
                fake.log.append("replay")
                for func, args, kwargs, result in self.recorder.ops:
                    again = func(*args, **kwargs)
                    for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                        if isinstance(old, torch.Tensor) and old is not new:
                            old.copy_(new)

        return CUDAGraph

    @contextmanager
    def _use_stream(self, stream: Any) -> Iterator[None]:
        self.log.append(f"on {stream.name}")
        self._streams.append(stream)
        before = len(self._streams) - 1
        try:
            yield
        finally:
            del self._streams[before:]
            self.log.append(f"on {self._streams[-1].name}")

    @contextmanager
    def _use_device(self, device: Any) -> Iterator[None]:
        before, self._device = self._device, torch.device(device).index if not isinstance(device, int) else device
        try:
            yield
        finally:
            self._device = before

    @contextmanager
    def _capture(
        self, graph: Any, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local", "other threads of a user's process use the GPU meanwhile"
        self.log.append(f"capture on {stream.name}")
        self._streams.append(stream)  # as torch does it, not restored when the capture fails
        with graph.recorder:
            yield
        self.log.append("captured")
        if self.capture_error:
            raise RuntimeError(self.capture_error)
        self._streams.pop()
