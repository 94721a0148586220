"""Settings for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# `python -m pytest` puts the current folder on the path: there kernels/ would pass for Hugging Face's package of that
# name, which transformers looks for.
ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

# Triton reads it when a kernel is decorated, so it is set before any test imports convbound.
os.environ.setdefault("TRITON_INTERPRET", "1")

from convbound import choice  # noqa: E402
from convbound.choice import cache  # noqa: E402


@pytest.fixture(autouse=True)
def _plain_torch(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every test starts from the same state; one thread, because the workers of pytest-xdist share the cores.

    Tests about threads set their number themselves. Nothing is tuned unless a test asks, and the user's cache is not
    touched.
    """
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path_factory.getbasetemp() / "cache"))
    # `--model FILE.py:net` leaves the file's folder there, which may be the checkout.
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    assert not torch.are_deterministic_algorithms_enabled()
