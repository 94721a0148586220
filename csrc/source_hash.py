"""The hash by which a compiled part is known to belong to its sources. The package runs this file from a checkout."""

from __future__ import annotations

import hashlib
from pathlib import Path

CSRC = Path(__file__).resolve().parent


def source_hash() -> str:
    """One hash over everything that is compiled."""
    digest = hashlib.sha256()
    for path in sorted(path for path in CSRC.rglob("*") if path.is_file()):
        if "__pycache__" not in path.parts:
            digest.update(path.relative_to(CSRC.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
