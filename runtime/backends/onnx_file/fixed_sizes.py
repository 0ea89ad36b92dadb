"""Sizes of the image that a tool fixed in an ONNX file after its export: a batch, a height or a width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ....errors import InputError
from ....manifest import Manifest, Profile
from ...tiling.tile_size import default_tile

#: Larger than any side of an image.
_ANY = 1 << 30

#: Axes of the image whose size a tool may fix.
_AXES = ("batch", "height", "width")


def with_fixed_sizes(manifest: Manifest, sizes: Sequence[int | str | None], path: Path) -> Manifest:
    """Return the manifest with the sizes that the file itself takes.

    A batch fixed at 1 leaves the other sizes free. Any other fixed size makes the file one for a single shape, to which
    images are cut in tiles; sizes that are still free are then chosen, as they are for tiles.

    Parameters
    ----------
    manifest
        As exported.
    sizes
        [B, C, H, W] of the image input, each a number or dynamic; empty if the file does not say.
    path
        The file, for messages.

    Raises
    ------
    InputError
        The model cannot run with a size that was fixed.
    """
    fixed = [size if isinstance(size, int) and size > 0 else None for size in sizes]
    if len(fixed) != 4:
        return manifest
    for name, size in zip(_AXES, (sizes[0], *sizes[2:]), strict=True):
        if size == 0:
            raise InputError(
                f"{path}: a tool has fixed the {name} of the image at 0, so that no image fits; "
                "use the file as exported"
            )
    batch, channels, height, width = fixed
    if channels is not None and channels != manifest.in_channels:
        raise InputError(
            f"{path}: its image has {channels} channels, and its manifest says {manifest.in_channels}; export it again"
        )
    sides = tuple(
        None if side is None else side - more for side, more in zip((height, width), manifest.margin, strict=True)
    )
    given = (batch, *sides)
    if manifest.shape is not None:
        if any(size not in (None, known) for size, known in zip(given, manifest.shape, strict=True)):
            raise InputError(f"{path}: {_words(given)}, and its manifest says {manifest.shape}; export it again")
        return manifest
    if given == (None, None, None):
        return manifest
    multiple = manifest.size_multiple
    for name, side, more in zip(("height", "width"), sides, manifest.margin, strict=True):
        if side is not None and (side < manifest.least_side or side % multiple):
            beside = f" plus {more}" if more else ""
            raise InputError(
                f"{path}: a tool has fixed the {name} of the image at {side + more}, but this model needs a multiple "
                f"of {multiple}{beside}; fix it at one, or use the file as exported"
            )
    free = default_tile(manifest)
    if sides == (None, None) and batch == 1:
        any_side = (manifest.least_side, free, _ANY // multiple * multiple)
        return replace(manifest, profiles=(Profile((1, 1, 1), any_side, any_side),))
    tall, wide = (free if side is None else side for side in sides)
    return replace(manifest, shape=(batch or 1, tall, wide))


def partly_fixed(manifest: Manifest, sizes: Sequence[int | str | None]) -> str:
    """Return which sizes a tool fixed, and with which the file is run, in words; empty unless some are still free.

    Parameters
    ----------
    manifest
        As exported.
    sizes
        As for `with_fixed_sizes`, which has accepted them.
    """
    if manifest.shape is not None or len(sizes) != 4:
        return ""
    shape = with_fixed_sizes(manifest, sizes, Path()).shape
    free = [not isinstance(size, int) or size < 0 for size in (sizes[0], *sizes[2:])]
    if shape is None or not any(free):
        return ""
    only = ", ".join(f"{name} {size}" for name, size, any_ in zip(_AXES, shape, free, strict=True) if not any_)
    return f"only {only}; run with batch {shape[0]}, {shape[1]} x {shape[2]} (height x width)"


def _words(sizes: Sequence[int | None]) -> str:
    return ", ".join(f"{name} is {size}" for name, size in zip(_AXES, sizes, strict=True) if size is not None)
