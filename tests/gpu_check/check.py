"""What one check is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Check:
    """A check by its name, which starts with its kind; it fails by raising. `skip` says why it cannot be made here."""

    name: str
    run: Callable[[], None] = _nothing
    skip: str = ""
