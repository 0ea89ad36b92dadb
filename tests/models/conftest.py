"""One thread for all tests of the networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_kgt import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield
