"""Read images of Zarr stores: the header alone, all of it, or chunk by chunk into a scratch file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..images import Picture
from ..images.metadata.fields import Block, Metadata
from ..scratch_file import ScratchFile
from .opening import Stored, open_image, reading

#: Format and name of the block that holds a `Multiscale`.
CONTAINER, TITLE = "OME-Zarr", "OME-Zarr metadata (axes, channels)"


def read_header(path: Path, channels: int | None = None) -> tuple[int, int, int, np.dtype[Any]]:
    """Return height, width, channels and type of an image; parameters and errors are those of `read`.

    Parameters
    ----------
    path, channels
        As for `read`.
    """
    stored = open_image(path, channels)
    return *stored.shape, stored.dtype


def read(path: Path, channels: int | None = None) -> Picture:
    """Read an image into memory.

    Parameters
    ----------
    path
        The store, or a group or an array in it.
    channels
        Number of channels that the model takes, which tells the axes of a plain array.

    Raises
    ------
    InputError
        As `opening.open_image`, or a chunk is damaged.
    """
    stored = open_image(path, channels)
    with reading(path):
        pixels = stored.read(0, 0, *stored.shape[:2])
    return _picture(stored, pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))


def read_streaming(
    path: Path, folder: Path, files: contextlib.ExitStack, channels: int | None = None, name: str | None = None
) -> Picture:
    """Read an image into a scratch file. Tiles overlap, and so every chunk is decoded once only.

    Parameters
    ----------
    path, channels
        As for `read`.
    folder
        Folder for the scratch file.
    files
        Closes the scratch file.
    name
        As for `ScratchFile`.

    Returns
    -------
    Picture
        Its pixels are a `ScratchFile`, [H, W, C].

    Raises
    ------
    InputError
        As `read`, or the disk is full.
    """
    stored = open_image(path, channels)
    height, width, _ = stored.shape
    pixels = ScratchFile(folder, *stored.shape, stored.dtype, name)
    files.callback(pixels.close)
    rows, columns = stored.step
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            with reading(path):
                values = stored.read(top, left, min(rows, height - top), min(columns, width - left))
            pixels.write(top, left, values)
    return _picture(stored, cast(Any, pixels))


def _picture(stored: Stored, pixels: Any) -> Picture:
    image = stored.image
    layout = "pyramid" if len(stored.levels) > 1 else "tiles"
    metadata = Metadata(layout=cast(Any, layout), axes=stored.axes)
    if image is not None:
        block = Block(TITLE, CONTAINER, 0, image.pack(*stored.shape[:2]))
        metadata = Metadata(
            resolution=image.resolution, layout=metadata.layout, measured=True, axes=stored.axes, blocks=(block,)
        )
    return Picture(pixels, metadata=metadata, notices=stored.notices)
