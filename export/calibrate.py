"""Measure on the exported file how tiles change its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..instrumentation.metrics import EQUAL_DB, TOLERANCES, psnr
from ..instrumentation.synthetic import synthetic_image, synthetic_inputs
from ..manifest import ExactTiling, GlobalStatistics, Manifest, Tiling
from ..runtime.backends.onnxruntime import OnnxRuntimeSession
from ..runtime.device import memory
from ..runtime.io.regions import ArrayWriter
from ..runtime.preprocess.channels import straight
from ..runtime.preprocess.normalization import Normalisation, is_spectrum
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import Request
from ..runtime.restore_options import RestoreOptions
from ..runtime.restorer import Restorer
from ..runtime.tiling.blend import Plan, blend, cut
from .calibration_data import CalibrationImage, calibration_images

#: PSNR of tiled against whole-image results, dB, at which an overlap is sufficient; 8-bit rounding alone gives 59.
ENOUGH_DB = 60.0

#: Smallest tile side in pixels; in smaller tiles most of a tile is overlap.
LEAST_TILE = 256

#: Least rows that an overlap is measured on: of 14 networks, these find the same overlap as 256, but for one that is a
#: step smaller, in less than half the time, with a PSNR within 4 dB of theirs.
OVERLAP_ROWS = 96

#: For models with global statistics: side and number of images, sides of plain tiles, and their overlap. The overlap
#: is not searched: a tile's statistics differ from the image's whatever the overlap.
STATISTICS_SIDE = 320
STATISTICS_IMAGES = 4
STATISTICS_TILES = (64, 128, 256)
STATISTICS_OVERLAP = 32

#: Side of the exact tiles that are verified, on three times as many rows and columns.
EXACT_TILE = 32

#: Lowest PSNR of exact tiles of an FP32 file against the whole image, dB; half-precision files have their tolerance.
EXACT_DB = 80.0


def calibrate(
    path: Path,
    manifest: Manifest,
    images: Sequence[CalibrationImage],
    progress: Callable[[str], None],
) -> Manifest:
    """Measure how tiles change a file's results, and record it in the manifest.

    Parameters
    ----------
    path
        The exported file.
    manifest
        Its manifest.
    images
        From `statistics_images`.
    progress
        Called with a line before each step.

    Returns
    -------
    Manifest
        With `tiling` and, for models with global statistics, `statistics`.
    """
    if not manifest.global_statistics:
        progress("calibrating the overlap of tiles")
        return replace(manifest, tiling=calibrate_tiling(path, manifest))
    if manifest.shape is not None:
        return manifest  # The file's shape is the only tile.
    statistics = calibrate_statistics(path, manifest, images, progress)
    return replace(manifest, statistics=statistics, tiling=statistics.tilings[-1])


def statistics_images(manifest: Manifest, folder: Path | None, beside: Mapping[str, Path]) -> list[CalibrationImage]:
    """Return the images on which the effect of tiles on global statistics is measured.

    Parameters
    ----------
    manifest
        Manifest of the file to be measured.
    folder, beside
        As for `calibration_images`.

    Returns
    -------
    list of CalibrationImage
        Empty when nothing is measured: models without global statistics, and files of a fixed shape.
    """
    if not manifest.global_statistics or manifest.shape is not None:
        return []
    return calibration_images(manifest, folder, beside, STATISTICS_SIDE, STATISTICS_IMAGES)


def calibrate_statistics(
    path: Path, manifest: Manifest, images: Sequence[CalibrationImage], progress: Callable[[str], None]
) -> GlobalStatistics:
    """Measure the cost of global statistics: the memory of whole-image runs, and the accuracy of plain tiles.

    Also verify, on the first image, that exact tiles give the whole-image result.

    Parameters
    ----------
    path
        The exported file, with dynamic shape.
    manifest
        Its manifest.
    images
        Images to measure on; for each tile size the lowest PSNR over them counts.
    progress
        Called with a line before each step.

    Returns
    -------
    GlobalStatistics
    """
    m, least = manifest.size_multiple, manifest.least_side
    restorer = Restorer(OnnxRuntimeSession(path))
    progress("measuring the memory of a whole-image run")
    _restored(
        restorer,
        CalibrationImage("smallest", synthetic_inputs(manifest, (1, least, least))),
        RestoreOptions(tile="none"),
    )
    _, _, height, width = images[0].inputs[0].shape
    _check_memory(restorer, height * width)
    wholes: list[NDArray[np.float32]] = []
    grown = memory.growth(lambda: wholes.append(_restored(restorer, images[0], RestoreOptions(tile="none"))))
    wholes += [_restored(restorer, image, RestoreOptions(tile="none")) for image in images[1:]]
    tilings = []
    for tile in sorted({round_up(tile, 2 * m) for tile in STATISTICS_TILES}):
        progress(f"measuring the effect of tiles of {tile}")
        overlap = min(round_up(STATISTICS_OVERLAP, m), tile // 2)
        reached = [
            _effect_of_tiles(restorer, image, whole, tile, overlap) for image, whole in zip(images, wholes, strict=True)
        ]
        tilings.append(Tiling(tile, overlap, min(reached)))
    progress("verifying exact tiles")
    pixels = wholes[0].shape[0] * wholes[0].shape[1] / manifest.scale**2
    return GlobalStatistics(
        memory=round(grown / pixels) if grown else None,
        tilings=tuple(tilings),
        exact=_verify_exact(restorer, images[0], progress),
    )


@dataclass(frozen=True)
class _TileExtent:
    """A tile along one axis, and the part of it in which it outweighs its neighbours, in pixels of the image."""

    first: int
    last: int
    start: int
    stop: int

    def inner(self, scale: int, origin: int) -> slice:
        """Return the part in a result of `scale` times the size that begins at the pixel `origin`."""
        return slice(scale * (self.start - origin), scale * (self.stop - origin))


def _tile_extents(size: int, tile: int, overlap: int, multiple: int) -> list[_TileExtent]:
    axis = cut(round_up(size, multiple), tile, overlap, multiple)
    extents = []
    for first in axis.origins:
        last = min(first + axis.tile, size)
        start, stop = first + overlap // 2 if first else 0, last - overlap // 2 if last < size else size
        extents.append(_TileExtent(first, last, start, stop))
    return extents


def _effect_of_tiles(
    restorer: Restorer, image: CalibrationImage, whole: NDArray[np.float32], tile: int, overlap: int
) -> float:
    """Compare tiles along both diagonals of an image with the whole image's result, where a tile outweighs others.

    All tiles would take most of an export's time, and those of one diagonal are not enough: where a picture gets
    darker along one, the tiles of the other all have its mean. Blending, which is left out, makes the error smaller.

    Returns
    -------
    float
        PSNR in dB.
    """
    manifest = restorer.manifest
    scale = manifest.scale
    rows, columns = (_tile_extents(size // scale, tile, overlap, manifest.size_multiple) for size in whole.shape[:2])
    count = max(len(rows), len(columns))
    places = {(index, across) for index in range(count) for across in (index, count - 1 - index)}
    parts = []
    for down, across in sorted(places):
        row, column = rows[down * len(rows) // count], columns[across * len(columns) // count]
        part = _crop(manifest, image, slice(row.first, row.last), slice(column.first, column.last))
        result = _restored(restorer, part, RestoreOptions(tile="none"))
        alone = result[row.inner(scale, row.first), column.inner(scale, column.first)]
        parts.append((alone.ravel(), whole[row.inner(scale, 0), column.inner(scale, 0)].ravel()))
    tiled, expected = (np.concatenate(side) for side in zip(*parts, strict=True))
    return _decibels(tiled, expected, _span(manifest, whole))


def _crop(manifest: Manifest, image: CalibrationImage, rows: slice, columns: slice) -> CalibrationImage:
    """Return a part of an image and of its extra inputs, each with its margin."""
    margins = (manifest.margin, *(extra.margin for extra in manifest.extra_inputs))
    inputs = tuple(
        planes[:, :, rows.start : rows.stop + down, columns.start : columns.stop + across]
        for planes, (down, across) in zip(image.inputs, margins, strict=True)
    )
    return CalibrationImage(image.name, inputs)


def _check_memory(restorer: Restorer, pixels: int) -> None:
    """Check that a whole image of so many pixels can be restored."""
    manifest = restorer.manifest

    def run(side: int) -> None:
        image = CalibrationImage("small", synthetic_inputs(manifest, (1, side, side)))
        _restored(restorer, image, RestoreOptions(tile="none"))

    memory.require_run(
        run,
        manifest.least_side,
        pixels,
        f"measuring the effect of tiles on {pixels:,} pixels",
        "end other programs, export on a larger machine, or skip this with --no-verify",
    )


def _verify_exact(restorer: Restorer, image: CalibrationImage, progress: Callable[[str], None]) -> ExactTiling | None:
    """Compare exact tiles of a part of an image with that part at once; None where the network has none, or not close.

    The tiles are small, so that some have neighbours on all sides.
    """
    session, manifest = restorer.session, restorer.manifest
    assert isinstance(session, OnnxRuntimeSession)
    tile = round_up(max(EXACT_TILE, manifest.least_side), 2 * manifest.size_multiple)
    part = _crop(manifest, image, slice(0, 3 * tile), slice(0, 3 * tile))
    try:
        plan = session.exact().plan
        restored = _restored(restorer, part, RestoreOptions(tile=tile, global_statistics="exact"))
    except InputError as error:
        progress(f"no exact tiles: {error}")
        return None
    whole = _restored(restorer, part, RestoreOptions(tile="none"))
    reached = _decibels(restored, whole, _span(manifest, whole))
    needed = EXACT_DB if manifest.precision == "fp32" else TOLERANCES[manifest.precision].psnr
    if reached < needed:
        progress(f"no exact tiles: they reach {reached:.1f} dB against the whole image, and {needed:.0f} are needed")
        return None
    return ExactTiling(tile, reached, len(plan.sweeps), round(plan.bytes_per_pixel, 1))


def _restored(restorer: Restorer, image: CalibrationImage, options: RestoreOptions) -> NDArray[np.float32]:
    """Restore an image that is normalised already; return float32[H, W, C]."""
    manifest = restorer.manifest
    pixels, *extras = (np.ascontiguousarray(np.moveaxis(planes[0], 0, 2)) for planes in image.inputs)
    given = Request(
        image=pixels,
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
    """Return the range that PSNR refers to: [0, 1], or for spectra the reference's own."""
    return (float(whole.min()), float(whole.max())) if is_spectrum(manifest) else (0.0, 1.0)


def _decibels(image: NDArray[Any], reference: NDArray[Any], span: tuple[float, float]) -> float:
    return round(min(psnr(image, reference, span), EQUAL_DB), 1)


def calibrate_tiling(path: Path, manifest: Manifest) -> Tiling | None:
    """Find the smallest overlap with which tiles give the whole-image result to `ENOUGH_DB`.

    Measured on the last rows of the generated test image, from the left edge of the first of two tiles to the middle of
    the second. The whole image and the first tile are the same for every overlap, so that only the overlap changes the
    result.

    Returns
    -------
    Tiling or None
        Where none of up to half a tile reaches `ENOUGH_DB`, the last that improved the result: what is wrong then is
        not near the border. None for files of a fixed shape.
    """
    if manifest.shape is not None:
        return None
    m, scale = manifest.size_multiple, manifest.scale
    tile = -(-LEAST_TILE // (2 * m)) * 2 * m
    step = max(m, 32 // m * m)
    width = 2 * tile - step
    height = min(tile, round_up(max(OVERLAP_ROWS, manifest.least_side), m))
    planes = synthetic_image((1, manifest.in_channels, tile, width), (0.0, 1.0))[0][:, tile - height :]
    restorer = Restorer(OnnxRuntimeSession(path))
    _check_memory(restorer, height * width)

    def restored(left: int, right: int) -> NDArray[np.float32]:
        pixels = np.moveaxis(planes[:, :, left:right], 0, 2)
        return np.moveaxis(restorer.restore(pixels, tile="none").image, 2, 0)

    whole, first = restored(0, width), restored(0, tile)
    rows = cut(height, height, 0, m)
    best: Tiling | None = None
    for overlap in range(step, tile // 2 + 1, step):
        second = restored(tile - overlap, 2 * tile - overlap)
        plan = Plan(rows, cut(2 * tile - overlap, tile, overlap, m))
        tiled = np.concatenate([band.copy() for _, band in blend(plan, [first, second], scale)], axis=1)
        measured = (tile - overlap + tile // 2) * scale
        reached = _decibels(tiled[..., :measured], whole[..., :measured], (0.0, 1.0))
        if best is not None and reached <= best.psnr:
            break
        best = Tiling(tile, overlap, reached)
        if reached >= ENOUGH_DB:
            break
    return best
