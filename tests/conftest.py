"""Settings for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from convbound import decisions, tuning


@pytest.fixture(autouse=True)
def _plain_torch(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every test starts from the same state; one thread, because the workers of pytest-xdist share the cores.

    Tests about threads set their number themselves. Nothing is tuned unless a test asks, and the user's cache is not
    touched.
    """
    monkeypatch.delenv(tuning.VARIABLE, raising=False)
    monkeypatch.setenv(decisions.DIRECTORY_VARIABLE, str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    assert not torch.are_deterministic_algorithms_enabled()
