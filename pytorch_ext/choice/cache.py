"""What first uses found out, in memory and in one JSON file of the user's cache, so that each problem is measured once.

The file is ``tuning.json`` in ``$CONVBOUND_CACHE_DIR``, else in ``convbound`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
Processes share it: whoever adds a decision reads the file under a lock, and replaces it by a whole new one. The file is
not trusted (:mod:`convbound.untrusted`). One that cannot be read or written is worth one warning and never an error:
the decisions then hold for this process only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from convbound.problem import DTYPE_NAMES, LAYOUTS, PASSES
from convbound.untrusted import (
    MOST_BYTES,
    check_kinds,
    open_file,
    own_folder,
    parse_json,
    printable,
    read_text,
    replace_text,
)

DIRECTORY_VARIABLE = "CONVBOUND_CACHE_DIR"
# A process that was stopped while it holds the lock makes another one wait for so long, and once only. Many that write
# without a pause hold it for milliseconds each, with a tenth of one between them: waiting is looking often.
_LOCK_SECONDS = 10.0
_LOOK_SECONDS = 1e-3


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
            "dropped": {backend: printable(why) for backend, why in self.dropped.items()},
        }

    @classmethod
    def from_row(cls, row: Any) -> Decision:
        """The inverse; raises a ValueError on what is no row."""
        check_kinds(row, _KINDS)
        key = Key(*(row[name] for name in Key._fields))
        if key.dtype not in DTYPE_NAMES.values() or key.layout not in LAYOUTS or key.pass_ not in PASSES:
            raise ValueError(f"{key.dtype} {key.layout} {key.pass_} is no dtype, layout and pass")
        for backend, ms in row["milliseconds"].items():
            if not isinstance(ms, int | float) or ms < 0:
                raise ValueError(f"the milliseconds of {backend} are not a positive number")
        check_kinds(row["dropped"], dict.fromkeys(row["dropped"], str))
        return cls(key, row["backend"], row["milliseconds"], row["date"], row["dropped"])


_KINDS = {**dict.fromkeys((*Key._fields, "backend", "date"), str), "milliseconds": dict, "dropped": dict}
Decisions = dict[Key, Decision]

# Another number after each decision.
generation = 1
_known: Decisions | None = None
_waited_in_vain = False


def find(key: Key) -> Decision | None:
    """The decision, of this process or of an earlier one."""
    global _known
    if _known is None:
        _known = read()
    return _known.get(key)


def remember(decision: Decision, *, lasting: bool = True) -> None:
    """Keep a decision: for this process, and where it is lasting for later ones."""
    global _waited_in_vain, generation
    find(decision.key)  # reads the file if nobody did
    assert _known is not None
    _known[decision.key] = decision
    generation += 1
    if lasting and not _waited_in_vain:
        try:
            with _locked():
                known = read()
                known.pop(decision.key, None)
                _write([*known.values(), decision])
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
            _waited_in_vain = isinstance(error, TimeoutError)
            _warn(f"convbound cannot keep what it measured: {error}; {DIRECTORY_VARIABLE} names another folder")


def forget() -> None:
    """Drop what this process knows; the file stays."""
    global _known, _waited_in_vain
    _known, _waited_in_vain = None, False


def read() -> Decisions:
    """What the file says."""
    try:
        rows = parse_json(read_text(location(), own=True))
        if not isinstance(rows, list):
            raise ValueError("it is no list of decisions")
        return {decision.key: decision for decision in map(Decision.from_row, rows)}
    except FileNotFoundError:
        return {}
    except (OSError, RuntimeError, ValueError) as error:
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
    if directory := os.environ.get(DIRECTORY_VARIABLE, "").strip():
        return Path(directory).expanduser() / "tuning.json"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))  # to be ignored unless it is absolute, as its standard says
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "convbound" / "tuning.json"


def location_text() -> str:
    """The file, or why there is none."""
    try:
        return printable(str(location()))
    except RuntimeError as error:
        return str(error)


def _write(decisions: Iterable[Decision]) -> None:
    """Replace the file, which has to be locked; the oldest decisions are left out where it would become too large."""
    rows = [json.dumps(decision.to_row()) for decision in decisions]
    size = sum(len(row) + 2 for row in rows) + 4
    while size > MOST_BYTES:
        size -= len(rows.pop(0)) + 2
    text = ",\n".join(rows)
    replace_text(location(), f"[\n{text}\n]\n", private=True)


@contextmanager
def _locked() -> Iterator[None]:
    """No other process changes the file meanwhile. The lock is a file of its own, for the other one is replaced."""
    path = location().with_suffix(".lock")
    own_folder(path.parent)
    lock = open_file(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(errno.ETIMEDOUT, "another process keeps it locked", str(path)) from None
                time.sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(lock)


@lru_cache(maxsize=64)
def _warn(message: str) -> None:
    """Once per message."""
    warnings.warn(printable(message), RuntimeWarning, stacklevel=2)
