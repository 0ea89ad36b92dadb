"""Small exported FP16 files, made once per session, and jobs for TensorRT-RTX, which builds without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exported import ExportStore
from half_precision import make_half
from keygraph.engines import cache
from keygraph.engines.backend import find_software
from keygraph.engines.job import Job
from keygraph.engines.model import load_model
from keygraph.engines.options import Options, read_k, read_profiles
from keygraph.models.kgt import KGTConfig
from tiny_kgt import Tiny

UNET = KGTConfig(body="unet", layers=(1, 1, 1, 1), channels=8, heads=2, window=8, k=20, k_trained=(10, 20))


@pytest.fixture(scope="session")
def single(tiny: Tiny) -> Path:
    """Return a columnar network in FP32."""
    return tiny.onnx


@pytest.fixture(scope="session")
def half(single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_half(single, tmp_path_factory.mktemp("half") / "kgt.onnx")


@pytest.fixture(scope="session")
def half_unet(exports: ExportStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_half(exports.get(UNET).onnx, tmp_path_factory.mktemp("unet") / "unet.onnx")


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Return ``make_job(model, target="sm_89", tile="64", batch="1", ...)``, whose engines are in `tmp_path`."""

    def make(model: Path, target: str = "sm_89", **changes: Any) -> Job:
        manifest = load_model(model).manifest
        sizes = read_profiles(manifest, [changes.pop("tile", "64")], [changes.pop("batch", "1")])
        options = Options(sizes, read_k(manifest, changes.pop("k", None)), **changes.pop("options", {}))
        engine = cache.engine_path(model, target, tmp_path)
        software = changes.pop("software", None) or find_software("tensorrt-rtx")
        return Job(model=model, engine=engine, target=target, software=software, options=options, **changes)

    return make
