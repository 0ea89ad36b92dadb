"""Tiny Restormer and MST with random weights, both attentions in each, as checkpoints and as exported files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from keygraph.export import export
from keygraph.models import load_checkpoint, mst, restormer, save_checkpoint
from torch import nn

#: Both attentions in one network: levels with a reduction of 0 keep CSA.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "restormer": lambda: restormer.Restormer(
        restormer.RestormerConfig(
            in_channels=6,
            channels=8,
            blocks=(1,) * 4,
            refinement_blocks=1,
            heads=(1, 2, 2, 2),
            norm="BiasFree",
            dual_pixel=True,
            attention="glmha",
            reduction=(0.0, 0.5, 0.0, 0.25, 0.0),
        )
    ),
    "mst": lambda: mst.MST(mst.MSTConfig(bands=4, channels=4, blocks=(1, 1), attention="glmha", reduction=(0.5, 0.0))),
}


class Exported(NamedTuple):
    """The two files."""

    checkpoint: Path
    onnx: Path


def exported(name: str, folder: Path) -> Exported:
    """Save a network, and export it in fp16."""
    torch.manual_seed(0)
    files = Exported(folder / f"{name}.ckpt", folder / f"{name}.onnx")
    save_checkpoint(files.checkpoint, NETWORKS[name]())
    export(load_checkpoint(files.checkpoint), files.onnx, precision="fp16", verification=False)
    return files
