"""Loads the compiled parts once, and remembers why one of them is absent."""

from __future__ import annotations

import ctypes
import json
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parent
REBUILD = "rebuild with: pip install --no-build-isolation ."


@lru_cache(maxsize=1)
def build_info() -> dict[str, Any]:
    """What the build recorded: source hash, compiler, torch version, parts. Empty when nothing was built."""
    path = PACKAGE / "build_info.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _load_ops(name: str) -> str | None:
    """Load one library of ops; None on success, else the reason why it cannot be used."""
    file = build_info().get("parts", {}).get(name)
    if file is None:
        return f"this package was built without it; {REBUILD}"
    path = PACKAGE / file
    if not path.exists():
        return f"{file} is missing from {PACKAGE}; {REBUILD}"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{file} does not load: {error}"
    library = ctypes.CDLL(str(path))
    library.convbound_source_hash.restype = ctypes.c_char_p
    found = library.convbound_source_hash().decode()
    if found != build_info()["source_hash"]:
        return f"{file} was built from other sources ({found}) than this package; {REBUILD}"
    return None


def _load_introspection() -> ModuleType | str:
    try:
        from convbound import _introspect
    except ImportError as error:
        return f"the introspection module does not import ({error}); {REBUILD}"
    if _introspect.source_hash() != build_info().get("source_hash"):
        return f"the introspection module was built from other sources than this package; {REBUILD}"
    return _introspect


# Why a part cannot be used, by backend; None where it can.
ABSENT: dict[str, str | None] = {"cpu": _load_ops("libconvbound_cpu")}

introspect: ModuleType | str = _load_introspection()
