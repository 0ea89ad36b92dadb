"""Which tile, overlap and batch an image is restored with: what the user asked for, else what the manifest advises."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from numbers import Integral

from ..errors import InputError
from ..manifest import Manifest
from .padding import round_up
from .tiling import Plan, cut

#: Images up to this many pixels are restored whole: no tile can change them, and with the widest published models
#: (180 channels, a feed-forward ratio of 2 to 4) one layer's activations stay near 1 GB.
WHOLE_PIXELS = 512 * 512

#: Tile and overlap where the manifest holds no calibration.
DEFAULT_TILE = 256
DEFAULT_OVERLAP = 32

#: As many tiles run together as make up this many pixels, so that small tiles do not cost a call each.
BATCH_PIXELS = 256 * 256


@dataclass(frozen=True)
class Sizing:
    """How an image is cut.

    Attributes
    ----------
    plan
        The tiles.
    tile, overlap
        Pixels; `tile` is (height, width), for a whole image its padded size. Without cuts the overlap plays no part.
    batch
        Tiles that run together.
    automatic
        True when nobody asked for this tile, so that a smaller one may take its place.
    """

    plan: Plan
    tile: tuple[int, int]
    overlap: int
    batch: int
    automatic: bool


def choose(
    manifest: Manifest,
    height: int,
    width: int,
    *,
    tile: int | str = "auto",
    overlap: int | str = "auto",
    batch: int | None = None,
) -> Sizing:
    """Decide how to cut an image of `height` x `width` pixels.

    Parameters
    ----------
    manifest
        The model's.
    height, width
        At least 1.
    tile
        A multiple of the model's size rule; ``"none"`` for the whole image at once; or ``"auto"``: whole up to
        `WHOLE_PIXELS`, else the manifest's calibrated tile, else about `DEFAULT_TILE`.
    overlap
        A multiple of the size rule, at most half a tile; or ``"auto"``: the calibrated overlap, else about
        `DEFAULT_OVERLAP`.
    batch
        Tiles that run together, at least 1; None chooses.

    Raises
    ------
    InputError
        A value that cannot be; the message names the nearest that can.
    """
    multiple = manifest.size_multiple
    automatic = tile == "auto"
    whole = (round_up(height, multiple), round_up(width, multiple))
    if manifest.shape is not None:
        shape = _fixed_tile(manifest.shape, height, width, tile)
    elif tile == "none" or (automatic and height * width <= max(WHOLE_PIXELS, _default_tile(manifest) ** 2)):
        shape = whole
    elif automatic:
        shape = (_default_tile(manifest),) * 2
    else:
        shape = (_multiple(tile, "tile", multiple, multiple, None),) * 2
    # A whole image has no overlap, but the one that was asked for counts if the image must be cut after all.
    room = None if shape == whole else _room(min(shape), multiple)
    if overlap == "auto":
        advised = manifest.tiling.overlap if manifest.tiling else round_up(DEFAULT_OVERLAP, multiple)
        pixels = advised if room is None else min(advised, room)
    else:
        pixels = _multiple(overlap, "overlap", multiple, 0, room)
    if batch is not None:
        if isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1:
            raise InputError(f"batch is {batch!r}; it must be a whole number from 1")
        if manifest.shape is not None and batch != manifest.shape[0]:
            raise InputError(f"batch is {batch}, but this file takes {manifest.shape[0]} only; leave the batch out")
    return _sizing(manifest, height, width, shape, pixels, batch, automatic)


def smaller(manifest: Manifest, height: int, width: int, sizing: Sizing) -> Sizing | None:
    """Return the next smaller way to cut an image that an engine had no memory for, or None when there is none.

    The batch is halved first; then the tile, if it was chosen automatically.
    """
    if manifest.shape is not None:
        return None
    if sizing.batch > 1:
        return dataclasses.replace(sizing, batch=sizing.batch // 2)
    multiple = manifest.size_multiple
    half = min(max(sizing.tile) // 2 // multiple * multiple, _default_tile(manifest))
    if not sizing.automatic or half == 0:
        return None
    return _sizing(manifest, height, width, (half, half), min(sizing.overlap, _room(half, multiple)), 1, True)


def _sizing(
    manifest: Manifest,
    height: int,
    width: int,
    tile: tuple[int, int],
    overlap: int,
    batch: int | None,
    automatic: bool,
) -> Sizing:
    fixed = manifest.shape is not None
    rows = cut(height, tile[0], overlap, manifest.size_multiple, fixed=fixed)
    columns = cut(width, tile[1], overlap, manifest.size_multiple, fixed=fixed)
    if manifest.shape is not None:
        batch = manifest.shape[0]
    elif batch is None:
        batch = max(1, BATCH_PIXELS // (rows.tile * columns.tile))
    return Sizing(Plan(rows, columns), (rows.tile, columns.tile), overlap, batch, automatic)


def _room(tile: int, multiple: int) -> int:
    """The largest overlap of a tile. Beyond half a tile, three tiles in a row would share pixels."""
    return tile // 2 // multiple * multiple


def _default_tile(manifest: Manifest) -> int:
    multiple = manifest.size_multiple
    # Two windows at the least, so that there is room for an overlap.
    return manifest.tiling.tile if manifest.tiling else max(round_up(DEFAULT_TILE, multiple), 2 * multiple)


def _fixed_tile(shape: tuple[int, int, int], height: int, width: int, tile: int | str) -> tuple[int, int]:
    """The tile of a file that takes one shape only."""
    _, rows, columns = shape
    fits = height <= rows and width <= columns
    if tile == "auto" or (tile == "none" and fits) or tile == rows == columns:
        return rows, columns
    raise InputError(
        f"tile is {tile}, but this file takes {rows} x {columns} pixels only; leave the tile out, or export the "
        "checkpoint again with: export-model CHECKPOINT --shape dynamic"
    )


def _multiple(value: int | str, name: str, multiple: int, least: int, most: int | None) -> int:
    """Check a size that the user named against the size rule."""
    words = {"tile": "'auto' or 'none'", "overlap": "'auto'"}[name]
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}; it must be a multiple of {multiple}, or {words}")
    if most is not None and value > most:
        raise InputError(
            f"{name} is {value}; with this tile it can be at most {most} (half a tile, in steps of {multiple})"
        )
    if value < least or value % multiple:
        below, above = value // multiple * multiple, round_up(value, multiple)
        valid = [str(size) for size in sorted({below, above}) if size >= least and (most is None or size <= most)]
        raise InputError(f"{name} is {value}; it must be a multiple of {multiple}: use {' or '.join(valid) or least}")
    return int(value)
