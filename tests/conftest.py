"""Helpers for all tests. Models are real ONNX files, run by the real ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from keygraph.manifest import Manifest
from small_models import manifest_for, model_bytes

if TYPE_CHECKING:
    from exported import ExportStore
    from tiny_kgt import Tiny

ModelFile = Callable[..., Path]

# Each worker of pytest-xdist, and what it starts, computes with one thread: the workers use the cores already, and
# PyTorch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, Triton's kernels run in its interpreter: that is decided when a kernel's module is imported.
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No test asserts a time: machines are shared. In CI the same examples every time, so that a failure is of the change.
hypothesis.settings.register_profile(
    "keygraph",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("keygraph")


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    return manifest_for


@pytest.fixture
def make_model(tmp_path: Path) -> ModelFile:
    """Write a model made by hand: ``make_model("identity", size_multiple=16)``, more words changing its manifest.

    Kinds: identity; nearest (as large as the manifest's scale says); blur (5 x 5 mean, so it sees 2 pixels far, with
    zeros beyond the edge); add_k (adds k / 1000); bright_nan (NaN where a pixel is above 0.9); outer (needs memory for
    the square of the number of pixels); masked (times the extra input "mask"); bands (the mean of all channels, times
    1, 2, 3, ... for the first band, the second, ...).
    """

    def make(kind: str, path: Path | None = None, **changes: Any) -> Path:
        manifest = manifest_for(**changes)
        path = path or tmp_path / f"{kind}.onnx"
        path.write_bytes(model_bytes(kind, manifest))
        return path

    return make


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> ExportStore:
    """Networks exported once per session, for all workers."""
    from exported import ExportStore  # imports PyTorch

    return ExportStore(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny(exports: ExportStore) -> Tiny:
    """A small KGT, as a checkpoint and as a file."""
    import tiny_kgt

    files = exports.get(tiny_kgt.CONFIG, "tiny")
    return tiny_kgt.Tiny(files.checkpoint, files.onnx)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread, see `tiny_kgt.one_thread`: for a module's `pytestmark`."""
    import tiny_kgt

    with tiny_kgt.one_thread():
        yield
