"""What tiles do to a file's results: measured on the exported file, not guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..manifest import ExactTiling, GlobalStatistics, Manifest, Tiling
from ..runtime.memory import growth
from ..runtime.metrics import TOLERANCES, psnr
from ..runtime.onnx_runtime import OnnxRuntimeSession
from ..runtime.padding import round_up
from ..runtime.restorer import Restorer
from ..runtime.sample import test_image, test_scene

#: Tiled against whole, dB, at which an overlap is large enough; 8-bit rounding alone is at 59.
ENOUGH_DB = 60.0

#: Tiles are at least this large: below, the overlap is most of a tile.
LEAST_TILE = 256

#: For models with global statistics: sides of the picture and of plain tiles, and their overlap. No overlap makes up
#: for other statistics, so there is nothing to search.
STATISTICS_SIDE = 320
STATISTICS_TILES = (64, 128, 256)
STATISTICS_OVERLAP = 32

#: What exact tiles of an FP32 file must reach, dB against the whole image; half-precision files their own tolerance.
EXACT_DB = 80.0


def calibrate(path: Path, manifest: Manifest, progress: Callable[[str], None]) -> Manifest:
    """Measure what tiles do, and enter it into the manifest.

    Parameters
    ----------
    path
        The exported file.
    manifest
        What it says of itself.
    progress
        Called with a line before each step.
    """
    if manifest.global_statistics:
        statistics = calibrate_statistics(path, manifest, progress)
        return replace(manifest, statistics=statistics, tiling=statistics.tilings[-1] if statistics else None)
    progress("measuring how much tiles must overlap")
    return replace(manifest, tiling=calibrate_tiling(path, manifest))


def calibrate_statistics(path: Path, manifest: Manifest, progress: Callable[[str], None]) -> GlobalStatistics | None:
    """Measure what a model's statistics over the whole image cost: in memory whole, in fidelity with plain tiles.

    And prove that exact tiles give what the whole image gives.

    Returns
    -------
    None for files of a fixed shape, where the tile is not ours to choose.
    """
    if manifest.shape is not None:
        return None
    m = manifest.size_multiple
    image, inputs = test_scene(manifest, STATISTICS_SIDE, STATISTICS_SIDE)
    restorer = Restorer(OnnxRuntimeSession(path))
    progress("measuring what a whole image takes")
    small, beside = test_scene(manifest, m, m)
    restorer.restore(small, inputs=beside, tile="none")
    results = []
    grown = growth(lambda: results.append(restorer.restore(image, inputs=inputs, tile="none").image))
    whole = results[0]
    span = (float(whole.min()), float(whole.max())) if manifest.wavelengths else (0.0, 1.0)
    tilings = []
    for tile in sorted({round_up(tile, 2 * m) for tile in STATISTICS_TILES}):
        progress(f"measuring what tiles of {tile} change")
        overlap = min(round_up(STATISTICS_OVERLAP, m), tile // 2)
        tiled = restorer.restore(image, inputs=inputs, tile=tile, overlap=overlap, global_statistics="tile")
        tilings.append(Tiling(tile, overlap, _decibels(tiled.image, whole, span)))
    progress("proving that exact tiles are exact")
    return GlobalStatistics(
        memory=round(grown / STATISTICS_SIDE**2) if grown else None,
        tilings=tuple(tilings),
        exact=_exact(restorer, image, whole, span, round_up(STATISTICS_TILES[1], 2 * m), progress),
    )


def _exact(
    restorer: Restorer,
    image: np.ndarray,
    whole: np.ndarray,
    span: tuple[float, float],
    tile: int,
    progress: Callable[[str], None],
) -> ExactTiling | None:
    session, manifest = restorer.session, restorer.manifest
    assert isinstance(session, OnnxRuntimeSession)
    try:
        plan = session.exact().plan
        restored = restorer.restore(image, tile=tile, global_statistics="exact")
    except InputError as error:
        progress(f"no exact tiles: {error}")
        return None
    reached = _decibels(restored.image, whole, span)
    needed = EXACT_DB if manifest.precision == "fp32" else TOLERANCES[manifest.precision].psnr
    if reached < needed:
        progress(f"no exact tiles: they are {reached:.1f} dB from the whole image, and {needed:.0f} are needed")
        return None
    return ExactTiling(tile, reached, len(plan.sweeps), round(plan.bytes_per_pixel, 1))


def _decibels(image: np.ndarray, reference: np.ndarray, span: tuple[float, float]) -> float:
    return round(min(psnr(image, reference, span), 200.0), 1)


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
        reached = _decibels(tiled, whole, (0.0, 1.0))
        if best is None or reached > best.psnr:
            best = Tiling(tile, overlap, reached)
        if reached >= ENOUGH_DB:
            break
    return best
