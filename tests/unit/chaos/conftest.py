"""What all tests of the harness share."""

from __future__ import annotations

import pytest
from trio.testing import MockClock


@pytest.fixture
def clock() -> MockClock:
    """Virtual time that leaves real sockets a moment to be ready."""
    return MockClock(autojump_threshold=0.02)
