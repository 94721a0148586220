"""What a run shows while it measures: a bar, or plain lines where rich is not installed or not wanted."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


# Of an output that is no terminal: every column has room.
FULL_WIDTH = 205


def terminal() -> Console:
    """Where tables are printed."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=FULL_WIDTH)


class Progress(Protocol):
    """Shows which of `total` steps is under way, between ``with`` and its end."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def total(self, steps: int) -> None:
        """How many steps there are."""

    def step(self, description: str) -> None:
        """What is under way now."""

    def advance(self) -> None:
        """One step is done."""


class Lines:
    """One line for each step, with the time left if the steps to come take as long as those that are done."""

    def __init__(self) -> None:
        self._done, self._total = 0, 0
        self._started = time.perf_counter()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def total(self, steps: int) -> None:
        self._total = steps

    def step(self, description: str) -> None:
        left = ""
        if 0 < self._done < self._total:
            seconds = (time.perf_counter() - self._started) / self._done * (self._total - self._done)
            left = f", {seconds // 60:.0f}:{seconds % 60:02.0f} left"
        sys.stdout.write(f"{self._done}/{self._total} {description}{left}\n")
        sys.stdout.flush()

    def advance(self) -> None:
        self._done += 1


class Bar:
    """A bar of rich's."""

    def __init__(self, console: Console) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("elapsed,"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
        )
        self._task = self._bar.add_task("")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def total(self, steps: int) -> None:
        self._bar.update(self._task, total=steps)

    def step(self, description: str) -> None:
        self._bar.update(self._task, description=description)

    def advance(self) -> None:
        self._bar.advance(self._task)


def bar(console: Console) -> Progress:
    """A bar in a terminal, lines elsewhere: a bar would show nothing there before the end."""
    return Bar(console) if console.is_terminal else Lines()
