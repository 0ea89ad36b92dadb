"""How much tiles must overlap: measured on the exported file, not guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..manifest import Manifest, Tiling
from ..runtime.metrics import psnr
from ..runtime.onnx_runtime import OnnxRuntimeSession
from ..runtime.restorer import Restorer
from ..runtime.sample import test_image

#: Tiled against whole, dB, at which an overlap is large enough; 8-bit rounding alone is at 59.
ENOUGH_DB = 60.0

#: Tiles are at least this large: below, the overlap is most of a tile.
LEAST_TILE = 256


def calibrate_tiling(path: Path, manifest: Manifest) -> Tiling | None:
    """Find the smallest overlap with which tiles give what the whole image gives.

    Measured across one border of two tiles, on the test picture. When no overlap up to half a tile reaches
    `ENOUGH_DB`, the best one is returned with what it reaches.

    Returns
    -------
    Tiling or None
        None for files of a fixed shape, where the tile is not ours to choose.
    """
    if manifest.shape is not None:
        return None
    m = manifest.size_multiple
    tile = -(-LEAST_TILE // (2 * m)) * 2 * m
    planes = test_image((1, manifest.in_channels, tile, 2 * tile), (0.0, 1.0))[0]
    picture = np.moveaxis(planes, 0, 2)
    restorer = Restorer(OnnxRuntimeSession(path))
    step = max(m, 32 // m * m)
    best: Tiling | None = None
    for overlap in range(step, tile // 2 + 1, step):
        # As wide as two tiles with this overlap: wider pictures are cut into more tiles, which overlap by more.
        image = picture[:, : 2 * tile - overlap]
        whole = restorer.restore(image, tile="none").image
        tiled = restorer.restore(image, tile=tile, overlap=overlap).image
        reached = round(min(psnr(tiled, whole, (0.0, 1.0)), 200.0), 1)
        if best is None or reached > best.psnr:
            best = Tiling(tile, overlap, reached)
        if reached >= ENOUGH_DB:
            break
    return best
