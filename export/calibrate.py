"""What tiles do to a file's results: measured on the exported file, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..instrumentation.metrics import EQUAL_DB, TOLERANCES, psnr
from ..instrumentation.synthetic import test_image, test_inputs
from ..manifest import ExactTiling, GlobalStatistics, Manifest, Tiling
from ..runtime.backends.onnxruntime import OnnxRuntimeSession
from ..runtime.device.memory import growth
from ..runtime.io.regions import ArrayWriter
from ..runtime.preprocess.channels import straight
from ..runtime.preprocess.normalization import Normalisation, is_spectrum
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import Request
from ..runtime.restore_options import RestoreOptions
from ..runtime.restorer import Restorer
from .calibration_data import CalibrationPicture, calibration_pictures

#: Tiled against whole, dB, at which an overlap is large enough; 8-bit rounding alone is at 59.
ENOUGH_DB = 60.0

#: Tiles are at least this large: below, the overlap is most of a tile.
LEAST_TILE = 256

#: For models with global statistics: side and number of pictures, sides of plain tiles, and their overlap. No overlap
#: makes up for other statistics, so there is nothing to search.
STATISTICS_SIDE = 320
STATISTICS_PICTURES = 4
STATISTICS_TILES = (64, 128, 256)
STATISTICS_OVERLAP = 32

#: What exact tiles of an FP32 file must reach, dB against the whole image; half-precision files their own tolerance.
EXACT_DB = 80.0


def calibrate(
    path: Path,
    manifest: Manifest,
    pictures: Sequence[CalibrationPicture],
    progress: Callable[[str], None],
) -> Manifest:
    """Measure what tiles do, and enter it into the manifest.

    Parameters
    ----------
    path
        The exported file.
    manifest
        What it says of itself.
    pictures
        From `statistics_pictures`.
    progress
        Called with a line before each step.
    """
    if not manifest.global_statistics:
        progress("measuring how much tiles must overlap")
        return replace(manifest, tiling=calibrate_tiling(path, manifest))
    if manifest.shape is not None:
        return manifest  # The tile is not ours to choose.
    statistics = calibrate_statistics(path, manifest, pictures, progress)
    return replace(manifest, statistics=statistics, tiling=statistics.tilings[-1])


def statistics_pictures(
    manifest: Manifest, folder: Path | None, beside: Mapping[str, Path]
) -> list[CalibrationPicture]:
    """What statistics are measured on: see `calibration_pictures`; empty where there are none to measure."""
    if not manifest.global_statistics or manifest.shape is not None:
        return []
    return calibration_pictures(manifest, folder, beside, STATISTICS_SIDE, STATISTICS_PICTURES)


def calibrate_statistics(
    path: Path, manifest: Manifest, pictures: Sequence[CalibrationPicture], progress: Callable[[str], None]
) -> GlobalStatistics:
    """Measure what a model's statistics over the whole image cost: in memory whole, in fidelity with plain tiles.

    And prove, on the first picture, that exact tiles give what the whole image gives. Of several pictures, the one that
    a tile changes most counts.
    """
    m = manifest.size_multiple
    restorer = Restorer(OnnxRuntimeSession(path))
    progress("measuring what a whole image takes")
    _restored(restorer, CalibrationPicture("smallest", test_inputs(manifest, (1, m, m))), RestoreOptions(tile="none"))
    wholes: list[NDArray[np.float32]] = []
    grown = growth(lambda: wholes.append(_restored(restorer, pictures[0], RestoreOptions(tile="none"))))
    wholes += [_restored(restorer, picture, RestoreOptions(tile="none")) for picture in pictures[1:]]
    tilings = []
    for tile in sorted({round_up(tile, 2 * m) for tile in STATISTICS_TILES}):
        progress(f"measuring what tiles of {tile} change")
        overlap = min(round_up(STATISTICS_OVERLAP, m), tile // 2)
        options = RestoreOptions(tile=tile, overlap=overlap, global_statistics="tile")
        reached = [
            _decibels(_restored(restorer, picture, options), whole, _span(manifest, whole))
            for picture, whole in zip(pictures, wholes, strict=True)
        ]
        tilings.append(Tiling(tile, overlap, min(reached)))
    progress("proving that exact tiles are exact")
    pixels = wholes[0].shape[0] * wholes[0].shape[1] / manifest.scale**2
    return GlobalStatistics(
        memory=round(grown / pixels) if grown else None,
        tilings=tuple(tilings),
        exact=_exact(restorer, pictures[0], wholes[0], round_up(STATISTICS_TILES[1], 2 * m), progress),
    )


def _exact(
    restorer: Restorer,
    picture: CalibrationPicture,
    whole: NDArray[np.float32],
    tile: int,
    progress: Callable[[str], None],
) -> ExactTiling | None:
    session, manifest = restorer.session, restorer.manifest
    assert isinstance(session, OnnxRuntimeSession)
    try:
        plan = session.exact().plan
        restored = _restored(restorer, picture, RestoreOptions(tile=tile, global_statistics="exact"))
    except InputError as error:
        progress(f"no exact tiles: {error}")
        return None
    reached = _decibels(restored, whole, _span(manifest, whole))
    needed = EXACT_DB if manifest.precision == "fp32" else TOLERANCES[manifest.precision].psnr
    if reached < needed:
        progress(f"no exact tiles: they are {reached:.1f} dB from the whole image, and {needed:.0f} are needed")
        return None
    return ExactTiling(tile, reached, len(plan.sweeps), round(plan.bytes_per_pixel, 1))


def _restored(restorer: Restorer, picture: CalibrationPicture, options: RestoreOptions) -> NDArray[np.float32]:
    """Restore a picture that is normalised already: float32[H, W, C]."""
    manifest = restorer.manifest
    image, *extras = (np.ascontiguousarray(np.moveaxis(planes[0], 0, 2)) for planes in picture.inputs)
    given = Request(
        image=image,
        extras=tuple(extras),
        margins=(manifest.margin, *(extra.margin for extra in manifest.extra_inputs)),
        channels=straight(manifest),
        normalise=Normalisation(None, 0.0, 1.0, 1.0, (0.0, 1.0)),
        dtype=np.dtype(np.float32),
        notices=(),
    )
    result = np.empty((given.height * manifest.scale, given.width * manifest.scale, manifest.out_channels), np.float32)
    restorer.restore_request(given, ArrayWriter(result), options)
    return result


def _span(manifest: Manifest, whole: NDArray[np.float32]) -> tuple[float, float]:
    """What PSNR takes for black and white: spectra have their own."""
    return (float(whole.min()), float(whole.max())) if is_spectrum(manifest) else (0.0, 1.0)


def _decibels(image: NDArray[Any], reference: NDArray[Any], span: tuple[float, float]) -> float:
    return round(min(psnr(image, reference, span), EQUAL_DB), 1)


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
