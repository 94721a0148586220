"""Loads the compiled parts once, and remembers why one of them is absent."""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import warnings
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from convbound.kernels import ops as triton_ops

PACKAGE = Path(__file__).resolve().parent
REBUILD = "rebuild with: make setup, or pip install --no-build-isolation ."
BUILD_EMULATOR = "build it with: make simt, or CONVBOUND_SIMT=1 pip install --no-build-isolation ."
ISA_VARIABLE = "CONVBOUND_CPU_ISA"
ISAS = ("generic", "avx2", "avx512")


@lru_cache(maxsize=1)
def build_info() -> dict[str, Any]:
    """What the build recorded: source hash, compiler, torch version, parts, why others are absent, CUDA's version.

    Empty when nothing was built.
    """
    path = PACKAGE / "build_info.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError):  # half of a file, of a build that was stopped
        return {}


def _load_ops(backend: str) -> str | None:
    """Load the library of a backend's ops; None on success, else the reason why it cannot be used."""
    file = build_info().get("parts", {}).get(f"libconvbound_{backend}")
    if file is None:
        why = build_info().get("absent", {}).get(backend, "this package was built without it")
        return f"{why}; {BUILD_EMULATOR if backend == 'simt' else REBUILD}"
    path = PACKAGE / file
    if not path.exists():
        return f"{file} is missing from {PACKAGE}; {REBUILD}"
    if backend == "cuda" and (why := _other_cuda()):
        return f"{why}; {REBUILD}"
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


def _other_cuda() -> str | None:
    """Whether the CUDA part was built by another CUDA than torch's."""
    built = str(build_info()["cuda"]["nvcc"])
    mine = torch.version.cuda
    if mine is None or mine.split(".")[0] == built.split(".")[0]:
        return None
    return f"the CUDA kernels were built by CUDA {built}, but torch is of CUDA {mine}"


def check_isa() -> None:
    """Raise a ValueError where the environment asks for an instruction set that does not exist."""
    value = os.environ.get(ISA_VARIABLE, "")
    if value.strip() not in ("", *ISAS):
        raise ValueError(f"{ISA_VARIABLE}={value!r} must be one of {', '.join(ISAS)}")
    if value != value.strip():
        os.environ[ISA_VARIABLE] = value.strip()  # it is the libraries that read it, and they know no blanks


def _load_introspection() -> ModuleType | str:
    try:
        from convbound import _introspect
    except ImportError as error:
        return f"the introspection module does not import ({error}); {REBUILD}"
    if _introspect.source_hash() != build_info().get("source_hash"):
        return f"the introspection module was built from other sources than this package; {REBUILD}"
    return _introspect


def _changed_sources() -> str | None:
    """In a checkout: whether csrc is no longer what was built. A package that was copied here has no csrc beside it."""
    file = PACKAGE.parent / "csrc" / "source_hash.py"
    built = build_info().get("source_hash")
    if built is None or not file.exists() or runpy.run_path(str(file))["source_hash"]() == built:
        return None
    return f"the files of {file.parent} have changed since the kernels in use were built; {REBUILD}"


check_isa()

# That the compiled parts are older than their sources, or None. Looked at once: what is loaded does not change either.
OUTDATED: str | None = _changed_sources()
if OUTDATED is not None:
    warnings.warn(f"convbound: {OUTDATED}", RuntimeWarning, stacklevel=2)

# Why the ops of a backend are not there, by backend; None where they are. Those of Triton were defined by the import.
LOADED: dict[str, str | None] = {**{backend: _load_ops(backend) for backend in ("cpu", "simt", "cuda")}, "triton": None}

# Why a backend cannot be used; None where it can. The CUDA kernels load into a CPU torch, too, which has no CUDA
# tensors.
ABSENT = LOADED | {"triton": triton_ops.absent()}
if LOADED["cuda"] is None and torch.version.cuda is None:
    ABSENT["cuda"] = f"the kernels are built, but this torch ({torch.__version__}) is a CPU build"

introspect: ModuleType | str = _load_introspection()
