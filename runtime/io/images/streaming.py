"""Read and write pictures that need not fit in memory, in strips of rows, through scratch files."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyvips
from numpy.typing import NDArray

from ....errors import InputError
from ....files import atomic_path, unwritable
from ..encoding import DEFAULT, Encoding
from ..scratch_file import ScratchFile
from . import raw_tiff, tiff_layout
from .formats import SAMPLE_TYPES, format_of, reason_of
from .opened import Opened
from .picture import Picture
from .reading import converted, kept_metadata, open_file, plane_notices, vips_errors
from .writing import carried_over, fitted, save_options, with_colour_space, with_metadata

#: Rows of one strip.
_STRIP_ROWS = 64

#: EXIF orientation -> how a strip of rows of the file is turned upright. From 5 on, rows become columns.
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda strip: strip,
    2: lambda strip: strip[:, ::-1],
    3: lambda strip: strip[::-1, ::-1],
    4: lambda strip: strip[::-1],
    5: lambda strip: strip.swapaxes(0, 1),
    6: lambda strip: strip.swapaxes(0, 1)[:, ::-1],
    7: lambda strip: strip.swapaxes(0, 1)[::-1, ::-1],
    8: lambda strip: strip.swapaxes(0, 1)[::-1],
}

#: Orientations where the first rows of the file are the last rows (or columns) of the upright picture.
_FROM_END = (3, 4, 6, 7)


def read(
    path: str | os.PathLike[str],
    folder: Path,
    files: contextlib.ExitStack,
    channels: int | None = None,
    page: int = 1,
    name: str | None = None,
) -> Picture:
    """Read a picture as `images.read` does, into scratch files.

    Parameters
    ----------
    path
        The picture.
    folder
        Folder for the scratch files.
    files
        Closes the scratch files.
    channels, page
        As for `images.read`.
    name
        As for `ScratchFile`, of the pixels.

    Returns
    -------
    Picture
        Its pixels and its alpha are `ScratchFile`, [H, W, C] and [H, W, 1].

    Raises
    ------
    InputError
        As `images.read`, or the disk is full.
    """
    file = Path(path)
    with vips_errors(file):
        opened = open_file(file, page)
        image, notices = converted(opened)
        count, plane = Opened(file, image, opened.contents).channels(channels)
        orientation = opened.orientation
        upright = _UPRIGHT.get(orientation, _UPRIGHT[1])
        turned = orientation in (5, 6, 7, 8)
        shape = opened.upright_size
        dtype = np.dtype(SAMPLE_TYPES[image.format])
        pixels = ScratchFile(folder, *shape, count, dtype, name)
        files.callback(pixels.close)
        opacity = ScratchFile(folder, *shape, 1, dtype) if plane else None
        if opacity is not None:
            files.callback(opacity.close)
        region = pyvips.Region.new(image)
        for top in range(0, image.height, _STRIP_ROWS):
            rows = min(_STRIP_ROWS, image.height - top)
            strip = np.frombuffer(region.fetch(0, top, image.width, rows), dtype).reshape(rows, image.width, -1)
            first = image.height - top - rows if orientation in _FROM_END else top
            down, across = (0, first) if turned else (first, 0)
            pixels.write(down, across, upright(strip[:, :, :count]))
            if opacity is not None:
                opacity.write(down, across, upright(strip[:, :, count : count + 1]))
        metadata, lost = kept_metadata(opened, image)
    notices += [*plane_notices(opened, count, plane), *lost]
    return Picture(
        cast(Any, pixels), cast(Any, opacity), metadata, tuple(notices), plane and opened.contents.extra_band
    )


def with_pixels(picture: Picture, pixels: ScratchFile, folder: Path, files: contextlib.ExitStack) -> Picture:
    """Return a copy of a picture with the pixels of its restored image, as `images.with_pixels` does.

    Parameters
    ----------
    picture
        What `read` returned.
    pixels
        The restored image.
    folder
        Folder for a scratch file: the alpha of a larger restored image.
    files
        Closes the scratch file.
    """
    source, alpha = cast(ScratchFile, picture.pixels), cast("ScratchFile | None", picture.alpha)
    carried = carried_over(picture, source.shape, pixels.shape)
    if carried.alpha is None:
        alpha = None
    elif alpha is not None and alpha.shape[:2] != pixels.shape[:2]:
        alpha = _resampled(alpha, pixels.shape[0], pixels.shape[1], folder, files)
    return dataclasses.replace(carried, pixels=cast(Any, pixels), alpha=cast(Any, alpha))


def _resampled(plane: ScratchFile, height: int, width: int, folder: Path, files: contextlib.ExitStack) -> ScratchFile:
    """Resample a plane (bicubic), strip by strip."""
    image = with_colour_space(raw_tiff.image(plane), None, plane.dtype, 1)
    larger = image.resize(width / plane.shape[1], vscale=height / plane.shape[0], kernel="cubic").cast(image.format)
    resampled = ScratchFile(folder, height, width, 1, plane.dtype)
    files.callback(resampled.close)
    region = pyvips.Region.new(larger)
    for top in range(0, height, _STRIP_ROWS):
        rows = min(_STRIP_ROWS, height - top)
        strip = np.frombuffer(region.fetch(0, top, width, rows), plane.dtype)
        resampled.write(top, 0, strip.reshape(rows, width, 1))
    return resampled


def write(path: str | os.PathLike[str], picture: Picture, folder: Path, encoding: Encoding = DEFAULT) -> list[str]:
    """Write a picture as `images.write` does, from scratch files.

    Parameters
    ----------
    path
        The file to write.
    picture
        Its pixels and its alpha are `ScratchFile`, as `read` returns them.
    folder
        Folder for one more scratch file.
    encoding
        What was asked for beside the format.

    Raises
    ------
    InputError
        The picture cannot be written, or the disk is full.
    """
    file = Path(path)
    name = format_of(file)
    height, width, _ = picture.pixels.shape
    with contextlib.ExitStack() as files:
        raw: ScratchFile | None = None
        notices: list[str] = []
        for top in range(0, height, _STRIP_ROWS):
            strip, lines = fitted(_strip(picture, top, min(_STRIP_ROWS, height - top)), name, encoding)
            notices += [line for line in lines if line not in notices]
            samples = strip.pixels if strip.pixels.ndim == 3 else strip.pixels[:, :, None]
            channels = samples.shape[2]
            if strip.alpha is not None:
                samples = np.concatenate([samples, strip.alpha[:, :, None]], axis=2)
            if raw is None:
                raw = ScratchFile(folder, height, width, samples.shape[2], samples.dtype)
                files.callback(raw.close)
            raw.write(top, 0, samples)
        assert raw is not None
        encoded = files.enter_context(_unnamed_file(file))
        try:
            image = with_colour_space(raw_tiff.image(raw), strip.metadata.icc, raw.dtype, channels)
            options = save_options(name, raw.shape, raw.dtype, strip.metadata, encoding)
            target = pyvips.Target.new_to_descriptor(encoded.fileno())
            image.write_to_target(target, file.suffix.lower(), **options)
        except pyvips.Error as error:
            if os.strerror(errno.ENOSPC) in reason_of(error):
                raise unwritable(file, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
            raise InputError(f"{file}: the image cannot be written as {name} ({reason_of(error)})") from error
        notices += tiff_layout.notices(encoding)
        with atomic_path(file) as temporary, temporary.open("wb") as result:
            return notices + with_metadata(encoded, result, strip.metadata, name, picture.has_alpha)


def _unnamed_file(file: Path) -> BinaryIO:
    """Return a temporary file on the disk of `file`, for what libvips writes."""
    try:
        return cast(BinaryIO, tempfile.TemporaryFile(dir=file.parent))
    except OSError as error:
        raise unwritable(file, error) from error


def _strip(picture: Picture, top: int, rows: int) -> Picture:
    """Return some rows of a picture, in memory."""
    pixels, alpha = cast(ScratchFile, picture.pixels), cast("ScratchFile | None", picture.alpha)
    values = pixels.read(top, 0, rows, pixels.shape[1])
    return dataclasses.replace(
        picture,
        pixels=values[:, :, 0] if values.shape[2] == 1 else values,
        alpha=None if alpha is None else alpha.read(top, 0, rows, alpha.shape[1])[:, :, 0],
    )
