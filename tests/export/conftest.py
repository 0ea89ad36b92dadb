"""A small network and its exported file, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from keygraph.export import export
from keygraph.manifest import Manifest
from keygraph.models import LoadedModel, load_checkpoint
from keygraph.models.kgt import KGTConfig
from tiny_kgt import save_network

UNET = KGTConfig(
    body="unet", layers=(1, 1, 1, 1), channels=8, heads=2, window=8, k=20, k_trained=(10, 20), task="denoising"
)


@pytest.fixture(scope="session")
def unet(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_checkpoint(save_network(tmp_path_factory.mktemp("unet") / "kgt.ckpt", UNET))


@pytest.fixture(scope="session")
def exported(unet: LoadedModel) -> tuple[Path, Manifest]:
    path = unet.source.with_suffix(".onnx")
    return path, export(unet, path)
