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
        if side is not None and (side < multiple or side % multiple):
            beside = f" plus {more}" if more else ""
            raise InputError(
                f"{path}: a tool has fixed the {name} of the image at {side + more}, but this model needs a multiple "
                f"of {multiple}{beside}; fix it at one, or use the file as exported"
            )
    free = default_tile(manifest)
    if sides == (None, None) and batch == 1:
        any_side = (multiple, free, _ANY // multiple * multiple)
        return replace(manifest, profiles=(Profile((1, 1, 1), any_side, any_side),))
    tall, wide = (free if side is None else side for side in sides)
    return replace(manifest, shape=(batch or 1, tall, wide))


def _words(sizes: Sequence[int | None]) -> str:
    names = ("batch", "height", "width")
    return ", ".join(f"{name} is {size}" for name, size in zip(names, sizes, strict=True) if size is not None)
