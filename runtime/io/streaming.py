"""Photographs that need not fit in memory: decoded into files of plain samples, and encoded from them, by strips."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyvips
from numpy.typing import NDArray

from ...errors import InputError
from ...files import atomic_path
from . import images, raw_tiff
from .feature_file import FeatureFile
from .images import Picture

#: Rows of a strip.
_STRIP = 64

#: EXIF orientation -> a strip of rows of the file, upright. From 5 on, rows become columns.
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

#: Orientations whose first rows are the upright picture's last ones (or last columns).
_FROM_END = (3, 4, 6, 7)


def read(path: str | os.PathLike[str], folder: Path, files: contextlib.ExitStack) -> Picture:
    """Read an image as `images.read` does, into files.

    Parameters
    ----------
    path
        The image.
    folder
        Where the files lie.
    files
        Closes them.

    Returns
    -------
    Picture
        Its pixels and its alpha are `FeatureFile`, [H, W, C] and [H, W, 1].
    """
    file = Path(path)
    with images.reading(file):
        image = images.open_file(file)
        notices = images.reading_notices(image)
        if image.interpretation == "cmyk":
            image = image.icc_transform("srgb", embedded=True)
        channels, alpha = images.colour_channels(image, file)
        orientation = image.get("orientation") if image.get_typeof("orientation") != 0 else 1
        upright = _UPRIGHT.get(orientation, _UPRIGHT[1])
        turned = orientation in (5, 6, 7, 8)
        shape = (image.width, image.height) if turned else (image.height, image.width)
        dtype = np.dtype(images.TYPES[image.format])
        pixels = FeatureFile(folder, *shape, channels, dtype)
        files.callback(pixels.close)
        opacity = FeatureFile(folder, *shape, 1, dtype) if alpha else None
        if opacity is not None:
            files.callback(opacity.close)
        region = pyvips.Region.new(image)
        for top in range(0, image.height, _STRIP):
            rows = min(_STRIP, image.height - top)
            strip = np.frombuffer(region.fetch(0, top, image.width, rows), dtype).reshape(rows, image.width, -1)
            first = image.height - top - rows if orientation in _FROM_END else top
            down, across = (0, first) if turned else (first, 0)
            pixels.write(down, across, upright(strip[:, :, :channels]))
            if opacity is not None:
                opacity.write(down, across, upright(strip[:, :, channels : channels + 1]))
        metadata = images.metadata_of(image)
    resolution = (image.xres, image.yres)
    return Picture(cast(Any, pixels), cast(Any, opacity), resolution, metadata, tuple(notices))


def write(path: str | os.PathLike[str], picture: Picture, folder: Path) -> list[str]:
    """Write an image as `images.write` does, from files.

    Parameters
    ----------
    path
        The image.
    picture
        Its pixels and its alpha are `FeatureFile`, as `read` gives them.
    folder
        Where one more file lies.
    """
    file = Path(path)
    name = images.format_of(file)
    height, width, _ = picture.pixels.shape
    with contextlib.ExitStack() as files:
        raw: FeatureFile | None = None
        for top in range(0, height, _STRIP):
            strip, notices = images.fitted(_strip(picture, top, min(_STRIP, height - top)), name)
            samples = strip.pixels if strip.pixels.ndim == 3 else strip.pixels[:, :, None]
            channels = samples.shape[2]
            if strip.alpha is not None:
                samples = np.concatenate([samples, strip.alpha[:, :, None]], axis=2)
            if raw is None:
                raw = FeatureFile(folder, height, width, samples.shape[2], samples.dtype)
                files.callback(raw.close)
            raw.write(top, 0, samples)
        assert raw is not None
        try:
            final = dataclasses.replace(picture, metadata=strip.metadata)
            image = images.finished(raw_tiff.image(raw), final, raw.dtype, channels)
            with atomic_path(file) as temporary:
                size = height * width * raw.shape[2] * raw.dtype.itemsize
                target = pyvips.Target.new_to_file(str(temporary))
                image.write_to_target(target, file.suffix.lower(), **images.saving(name, raw.dtype, size))
                written = pyvips.Image.new_from_source(pyvips.Source.new_from_file(str(temporary)), "")
                return notices + images.missing(written, final, name)
        except pyvips.Error as error:
            raise InputError(f"{file}: the image cannot be written as {name} ({images.reason_of(error)})") from error


def _strip(picture: Picture, top: int, rows: int) -> Picture:
    """Some rows of a picture, in memory."""
    pixels, alpha = cast(FeatureFile, picture.pixels), cast("FeatureFile | None", picture.alpha)
    values = pixels.read(top, 0, rows, pixels.shape[1])
    return dataclasses.replace(
        picture,
        pixels=values[:, :, 0] if values.shape[2] == 1 else values,
        alpha=None if alpha is None else alpha.read(top, 0, rows, alpha.shape[1])[:, :, 0],
    )
