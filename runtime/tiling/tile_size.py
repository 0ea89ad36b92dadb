"""Choose tile, overlap and batch for an image: the user's values, else the manifest's calibrated ones."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral

from ...errors import InputError, counted
from ...manifest import Manifest, Profile
from ..preprocess.padding import round_up
from .blend import Plan, cut

#: Images of up to this many pixels are restored whole. With the widest published models (180 channels, a feed-forward
#: ratio of 2 to 4) the activations of one layer then take about 1 GB.
WHOLE_PIXELS = 512 * 512

#: Tile and overlap where the manifest holds no calibration.
DEFAULT_TILE = 256
DEFAULT_OVERLAP = 32

#: Smallest side that is chosen where memory is scarce: in smaller tiles most of a tile is overlap.
LEAST_TILE = 64

#: Pixels of one batch of tiles, so that small tiles do not need a call each.
BATCH_PIXELS = 256 * 256

#: Advice in messages: how to build an engine for other sizes.
REBUILD = "build it again with: keygraph build MODEL.onnx"


@dataclass(frozen=True)
class TileChoice:
    """The tiles, overlap and batch for one image.

    Attributes
    ----------
    plan
        Where the tiles lie.
    tile
        (height, width) of a tile in pixels; for a whole image, its padded size.
    overlap
        Least overlap in pixels; unused for a whole image.
    batch
        Tiles that run together.
    max_batch
        Most images that one run of the model takes; None for any number.
    automatic
        True when the user did not give the tile, so that a smaller one may replace it.
    """

    plan: Plan
    tile: tuple[int, int]
    overlap: int
    batch: int
    max_batch: int | None
    automatic: bool


def choose(
    manifest: Manifest,
    height: int,
    width: int,
    *,
    tile: int | str = "auto",
    overlap: int | str = "auto",
    batch: int | None = None,
    whole_pixels: int = WHOLE_PIXELS,
    run_pixels: int | None = None,
    runs_at_a_time: int = 1,
) -> TileChoice:
    """Choose how to tile an image of `height` x `width` pixels.

    Parameters
    ----------
    manifest
        The model's manifest.
    height, width
        Size of the image in pixels, at least 1.
    tile
        A multiple of the model's `size_multiple`; ``"none"`` for the whole image at once; or ``"auto"``: the whole
        image up to `whole_pixels`, else the manifest's calibrated tile, else about `DEFAULT_TILE`. For a file with a
        fixed shape or profiles, ``"auto"`` is the calibrated tile if the file takes it, else the one that it was built
        for; where tiles would change the result (`global_statistics`), whole images as far as the file takes them.
    overlap
        A multiple of `size_multiple`, at most half a tile; or ``"auto"``: the calibrated overlap, else about
        `DEFAULT_OVERLAP`.
    batch
        Tiles that run together, at least 1; None chooses.
    whole_pixels
        Images of up to this many pixels are restored whole if `tile` is ``"auto"``.
    run_pixels
        Most pixels of one run that fit into memory; None for no limit. What is chosen automatically stays below it, but
        a tile is at least about `LEAST_TILE`.
    runs_at_a_time
        Batches of tiles that share this memory, at least 1.

    Returns
    -------
    TileChoice

    Raises
    ------
    InputError
        A value is not possible; the message names the nearest ones that are.
    """
    multiple = manifest.size_multiple
    automatic = tile == "auto"
    tile_pixels = run_pixels if run_pixels is None else run_pixels // runs_at_a_time
    least = round_up(manifest.least_side, multiple)
    whole = (max(round_up(height, multiple), least), max(round_up(width, multiple), least))
    profile = None
    if tile == "none":
        shape = whole
    elif not automatic:
        shape = (_multiple(tile, "tile", multiple, least, None),) * 2
    elif _profiles(manifest) and manifest.global_statistics:
        shape = whole
    elif _profiles(manifest):
        shape = (default_tile(manifest),) * 2
    elif height * width > max(whole_pixels, default_tile(manifest) ** 2) or not _fits(whole, run_pixels):
        shape = (_fitting_tile(manifest, tile_pixels),) * 2
    else:
        shape = whole
    if _profiles(manifest):
        shape, profile = _built_for(manifest, shape, tile)
    # A whole image has no overlap, but the given one is used if the image must be tiled after all.
    limit = None if shape == whole else _max_overlap(min(shape), multiple)
    if overlap == "auto":
        advised = manifest.tiling.overlap if manifest.tiling else round_up(DEFAULT_OVERLAP, multiple)
        pixels = advised if limit is None else min(advised, limit)
    else:
        pixels = _multiple(overlap, "overlap", multiple, 0, limit)
    if batch is not None:
        if isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1:
            raise InputError(f"batch is {batch!r}; it must be a whole number from 1")
        if manifest.shape is not None and batch != manifest.shape[0]:
            raise InputError(f"batch is {batch}, but this file takes {manifest.shape[0]} only; leave the batch out")
        if profile is not None and batch > profile.batch[2]:
            raise InputError(
                f"batch is {batch}, but this model takes at most {counted(profile.batch[2], 'tile')} of "
                f"{_pixels(shape)} together; leave the batch out, or {REBUILD} --batch 1:{batch}:{batch}"
            )
    return _choice(manifest, height, width, shape, pixels, batch, profile, automatic, tile_pixels)


def smaller(manifest: Manifest, height: int, width: int, choice: TileChoice) -> TileChoice | None:
    """Return the next choice that needs less memory, or None when there is none.

    The batch is halved first; then the tile, if it was chosen automatically.

    Parameters
    ----------
    manifest
        The model's manifest.
    height, width
        Size of the image in pixels.
    choice
        The choice that did not fit in memory.
    """
    if manifest.shape is not None:
        return None
    profile = _profile_for(manifest, choice.tile)
    if choice.batch > (profile.batch[0] if profile else 1):
        return dataclasses.replace(choice, batch=choice.batch // 2)
    multiple = manifest.size_multiple
    half = min(max(choice.tile) // 2 // multiple * multiple, default_tile(manifest))
    if not choice.automatic or half < manifest.least_side:
        return None
    profile = _profile_for(manifest, (half, half))
    if manifest.profiles and profile is None:
        return None
    overlap = min(choice.overlap, _max_overlap(half, multiple))
    return _choice(manifest, height, width, (half, half), overlap, 1, profile, True)


def _choice(
    manifest: Manifest,
    height: int,
    width: int,
    tile: tuple[int, int],
    overlap: int,
    batch: int | None,
    profile: Profile | None,
    automatic: bool,
    run_pixels: int | None = None,
) -> TileChoice:
    least = (profile.height[0], profile.width[0]) if profile else (manifest.least_side,) * 2
    rows = cut(height, tile[0], overlap, manifest.size_multiple, least[0])
    columns = cut(width, tile[1], overlap, manifest.size_multiple, least[1])
    if batch is None:
        together = BATCH_PIXELS if run_pixels is None else min(BATCH_PIXELS, run_pixels)
        batch = profile.batch[1] if profile else max(1, together // (rows.tile * columns.tile))
    max_batch = profile.batch[2] if profile else None
    return TileChoice(Plan(rows, columns), (rows.tile, columns.tile), overlap, batch, max_batch, automatic)


def _profiles(manifest: Manifest) -> tuple[Profile, ...]:
    """Return the sizes that a file takes; a fixed shape is one profile."""
    if manifest.shape is None:
        return manifest.profiles
    batch, height, width = ((size,) * 3 for size in manifest.shape)
    return (Profile(batch, height, width),)


def _profile_for(manifest: Manifest, tile: tuple[int, int]) -> Profile | None:
    """Return the first profile that takes a tile."""
    return next((profile for profile in _profiles(manifest) if profile.takes(profile.batch[1], *tile)), None)


def _built_for(manifest: Manifest, shape: tuple[int, int], tile: int | str) -> tuple[tuple[int, int], Profile]:
    """Return the tile, and its profile, for a file that takes certain sizes only.

    A whole image is padded to a larger profile; a tile given by the user is kept, or refused.
    """
    profiles = _profiles(manifest)
    profile = _profile_for(manifest, shape)
    if profile is not None:
        return shape, profile
    if tile == "none" or (tile == "auto" and manifest.global_statistics):
        for profile in profiles:
            padded = max(shape[0], profile.height[0]), max(shape[1], profile.width[0])
            if padded[0] <= profile.height[2] and padded[1] <= profile.width[2]:
                return padded, profile
    if tile == "auto":
        return (profiles[0].height[1], profiles[0].width[1]), profiles[0]
    if manifest.shape is not None:
        raise InputError(
            f"tile is {tile}, but this file takes {_pixels(manifest.shape[1:])} pixels only; leave the tile out, or "
            "export the checkpoint again with: export-model CHECKPOINT --shape dynamic"
        )
    ranges = " or ".join(
        f"{_pixels((profile.height[0], profile.width[0]))} to {_pixels((profile.height[2], profile.width[2]))}"
        for profile in profiles
    )
    wanted = max(shape)
    raise InputError(
        f"tile is {tile} ({_pixels(shape)} pixels), but this engine was built for {ranges}; leave the tile out, or "
        f"{REBUILD} --tile {wanted}"
    )


def _pixels(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _max_overlap(tile: int, multiple: int) -> int:
    """Return the largest overlap: beyond half a tile, three tiles in a row would share pixels."""
    return tile // 2 // multiple * multiple


def default_tile(manifest: Manifest) -> int:
    """Return the side of the tiles that a model takes by default: the calibrated one, else about `DEFAULT_TILE`."""
    multiple = manifest.size_multiple
    return manifest.tiling.tile if manifest.tiling else max(round_up(DEFAULT_TILE, multiple), _least_tile(manifest))


def _least_tile(manifest: Manifest) -> int:
    """Return the least side of a tile that is chosen: two windows, so that an overlap is possible."""
    return 2 * manifest.least_side


def _fitting_tile(manifest: Manifest, run_pixels: int | None) -> int:
    """Return the default tile, or a smaller one that fits into memory."""
    default, multiple = default_tile(manifest), manifest.size_multiple
    if run_pixels is None or _fits((default, default), run_pixels):
        return default
    return min(default, max(least_chosen(manifest), math.isqrt(run_pixels) // multiple * multiple))


def least_chosen(manifest: Manifest) -> int:
    """Return the side of the smallest tile that is chosen where memory is scarce."""
    return max(round_up(LEAST_TILE, manifest.size_multiple), _least_tile(manifest))


def _fits(shape: tuple[int, int], run_pixels: int | None) -> bool:
    return run_pixels is None or shape[0] * shape[1] <= run_pixels


def _multiple(value: int | str, name: str, multiple: int, least: int, most: int | None) -> int:
    """Check a size given by the user against `size_multiple` and its limits."""
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
