"""What tuning found out, in memory and in one JSON file of the user's cache, so that each problem is measured once.

The file is ``tuning.json`` in ``$CONVBOUND_CACHE_DIR``, else in ``convbound`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
Processes share it: whoever adds a decision reads the file under a lock, and replaces it by a whole new one. A file that
cannot be read or written is worth one warning and never an error: the decisions then hold for this process only.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY_VARIABLE = "CONVBOUND_CACHE_DIR"


class Key(NamedTuple):
    """What a decision holds for."""

    device: str
    build: str
    problem: str
    dtype: str
    layout: str
    pass_: str


@dataclass(frozen=True)
class Decision:
    """The backend that serves, the medians that say so, and which backends are not to be used and why."""

    key: Key
    backend: str
    milliseconds: dict[str, float]
    date: str
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """In words: ``measured: cpu 0.71 ms, torch 2.10 ms on …``."""
        measured = f"measured: {self.times} on {self.key.device}, {self.date}" if self.milliseconds else ""
        return "; ".join(filter(None, (measured, self.complaints)))

    @property
    def times(self) -> str:
        """The medians."""
        return ", ".join(f"{backend} {ms:.3g} ms" for backend, ms in self.milliseconds.items())

    @property
    def complaints(self) -> str:
        """Why backends are not used."""
        return "; ".join(f"{backend} is not used: {why}" for backend, why in self.dropped.items())

    def covers(self, rivals: Iterable[str]) -> bool:
        """Whether it is between these rivals of torch: each was tried, and none that is gone by now has won."""
        tried = {*self.milliseconds, *self.dropped}
        return tried.issuperset(rivals) and self.backend in (*rivals, "torch")

    def to_row(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            **self.key._asdict(),
            "backend": self.backend,
            "milliseconds": {backend: round(ms, 4) for backend, ms in self.milliseconds.items()},
            "date": self.date,
            "dropped": self.dropped,
        }

    @classmethod
    def from_row(cls, row: Any) -> Decision:
        """The inverse; raises a KeyError, TypeError, ValueError or AttributeError on what is no row."""
        return cls(
            Key(*(str(row[name]) for name in Key._fields)),
            str(row["backend"]),
            {str(backend): float(ms) for backend, ms in row["milliseconds"].items()},
            str(row["date"]),
            {str(backend): str(why) for backend, why in row["dropped"].items()},
        )


Decisions = dict[Key, Decision]

_known: Decisions | None = None


def find(key: Key) -> Decision | None:
    """The decision, of this process or of an earlier one."""
    global _known
    if _known is None:
        _known = read()
    return _known.get(key)


def remember(decision: Decision, *, lasting: bool = True) -> None:
    """Keep a decision: for this process, and where it is lasting for later ones."""
    find(decision.key)  # reads the file if nobody did
    assert _known is not None
    _known[decision.key] = decision
    if lasting:
        try:
            with _locked():
                _write({**read(), decision.key: decision}.values())
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
            _warn(f"convbound cannot keep what it measured: {error}; {DIRECTORY_VARIABLE} names another folder")


def forget() -> None:
    """Drop what this process knows; the file stays."""
    global _known
    _known = None


def read() -> Decisions:
    """What the file says."""
    try:
        rows = json.loads(location().read_text(encoding="utf-8"))
        return {decision.key: decision for decision in map(Decision.from_row, rows)}
    except FileNotFoundError:
        return {}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        _warn(f"convbound cannot use what it measured before: {location_text()}: {type(error).__name__}: {error}")
        return {}


def table() -> str:
    """What the file says, for people: a paragraph per device and build."""
    groups: dict[tuple[str, str], list[Decision]] = {}
    for decision in read().values():
        groups.setdefault(decision.key[:2], []).append(decision)
    lines = []
    for (device, build), decided in groups.items():
        lines.append(f"{device}; {build}")
        for row in decided:
            key = row.key
            outcome = "; ".join(filter(None, (row.times, row.complaints)))
            lines.append(
                f"  {key.problem}  {key.dtype} {key.layout} {key.pass_}  {row.backend:6} {outcome}, {row.date}"
            )
    return "\n".join(lines)


def clear() -> int:
    """Empty the file; returns how many decisions it held."""
    with _locked():
        count = len(read())
        location().unlink(missing_ok=True)
    return count


def location() -> Path:
    """The file; raises a RuntimeError where there is no home directory."""
    if directory := os.environ.get(DIRECTORY_VARIABLE):
        return Path(directory) / "tuning.json"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "convbound" / "tuning.json"


def location_text() -> str:
    """The file, or why there is none."""
    try:
        return str(location())
    except RuntimeError as error:
        return str(error)


def _write(decisions: Iterable[Decision]) -> None:
    """Replace the file, which has to be locked; who reads it meanwhile gets the old one or the new one."""
    path = location()
    rows = ",\n".join(json.dumps(decision.to_row()) for decision in decisions)
    new = path.with_suffix(".new")
    new.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    new.replace(path)


@contextmanager
def _locked() -> Iterator[None]:
    """No other process changes the file meanwhile. The lock is a file of its own, for the other one is replaced."""
    path = location()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@lru_cache(maxsize=64)
def _warn(message: str) -> None:
    """Once per message."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)
