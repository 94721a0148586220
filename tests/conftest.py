"""Settings for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _plain_torch() -> Iterator[None]:
    """Every test starts from the same state; one thread, because the workers of pytest-xdist share the cores.

    Tests about threads set their number themselves.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    assert not torch.are_deterministic_algorithms_enabled()
