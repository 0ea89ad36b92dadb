"""A small trained-like network and its exported file, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from keygraph.export import export
from keygraph.manifest import Manifest
from keygraph.models import LoadedModel, load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig

UNET = KGTConfig(
    body="unet", layers=(1, 1, 1, 1), channels=8, heads=2, window=8, k=20, k_trained=(10, 20), task="denoising"
)


def checkpoint(folder: Path, config: KGTConfig, name: str = "kgt") -> LoadedModel:
    torch.manual_seed(0)
    model = KGT(config)
    with torch.no_grad():  # as after training: no two parameters equal, not even the norms'
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    save_checkpoint(folder / f"{name}.ckpt", model)
    return load_checkpoint(folder / f"{name}.ckpt")


@pytest.fixture(scope="session")
def unet(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return checkpoint(tmp_path_factory.mktemp("unet"), UNET)


@pytest.fixture(scope="session")
def exported(unet: LoadedModel) -> tuple[Path, Manifest]:
    path = unet.source.with_suffix(".onnx")
    return path, export(unet, path)
