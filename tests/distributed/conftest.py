"""One Ray at a time, on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

pytest.importorskip("ray", reason="Ray is installed with the extra ray")


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Hold the lock without which no test starts Ray, in any worker of pytest-xdist."""
    with FileLock(Path(tempfile.gettempdir()) / "keygraph-tests-ray.lock"):
        yield


@pytest.fixture(scope="module")
def cluster(one_ray: None) -> Iterator[None]:
    """Ray as the command starts it, for all commands of a module; shut down afterwards."""
    import ray
    from keygraph.distributed.cluster import LOCAL, connected

    with connected(LOCAL):
        yield
    assert not ray.is_initialized()
