"""Read pictures: the header alone, or all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from ....errors import InputError
from .formats import LOADERS, SAMPLE_TYPES, check_read, missing_codec, reason_of
from .metadata import metadata_title
from .picture import Header, Picture


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the size, channels and type of a picture without decoding it; errors are those of `read`."""
    with vips_errors(path):
        image = open_file(Path(path))
        if codec := missing_codec(image):
            raise InputError(
                f"{path} is compressed with {codec}, which this libvips cannot decode; convert it to PNG, JPEG or TIFF"
            )
        channels, alpha = colour_channels(image, Path(path))
        turned = image.get_typeof("orientation") != 0 and image.get("orientation") >= 5
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        return Header(height, width, channels, alpha, 8 * np.dtype(SAMPLE_TYPES[image.format]).itemsize)


def read(path: str | os.PathLike[str]) -> Picture:
    """Read a picture.

    The EXIF orientation is applied, a palette is expanded, CMYK is converted to sRGB, and of several pages the first is
    read.

    Raises
    ------
    InputError
        The file is missing, empty, damaged, cut off, of another format, or its samples or colour space are not
        supported.
    """
    file = Path(path)
    with vips_errors(file):
        image = open_file(file)
        notices = reading_notices(image)
        if image.interpretation == "cmyk":
            image = image.icc_transform("srgb", embedded=True)
        image = image.copy_memory().autorot()
        channels, alpha = colour_channels(image, file)
        values = image.numpy()
        metadata = metadata_of(image)
    pixels = values if values.ndim == 2 else values[:, :, :channels]
    return Picture(
        pixels=pixels[:, :, 0] if pixels.ndim == 3 and channels == 1 else pixels,
        alpha=values[:, :, channels] if alpha else None,
        resolution=(image.xres, image.yres),
        metadata=metadata,
        notices=tuple(notices),
    )


@contextmanager
def vips_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise `InputError` in place of libvips's errors about a file."""
    try:
        yield
    except pyvips.Error as error:
        raise InputError(
            f"{path} is damaged, cut off, or no image ({reason_of(error)}); give a whole PNG, JPEG, TIFF or WebP file"
        ) from error


def open_file(path: Path) -> pyvips.Image:
    """Open a picture without decoding it.

    Raises
    ------
    InputError
        The file is missing, empty, unreadable or of another format.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image file or a folder of them")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give an image file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); give a whole image file")
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: no permission")
    # Through a source, because libvips parses options in file names, and "a[1].png" is a legal name. By its bytes,
    # because a name need not be UTF-8.
    source = pyvips.Source.new_from_file(os.fsencode(path))
    try:
        image = pyvips.Image.new_from_source(source, "", access="sequential", fail_on="error")
    except pyvips.Error:
        check_read(path)
        raise
    loader = image.get("vips-loader").removesuffix("_source")
    if loader not in LOADERS:
        raise InputError(f"{path} is of another image format ({loader}); convert it to PNG, JPEG, TIFF or WebP")
    return image


def colour_channels(image: pyvips.Image, path: Path) -> tuple[int, bool]:
    """Return the number of channels after `read`, without alpha, and whether there is an alpha plane.

    Raises
    ------
    InputError
        The sample type or the colour space is not supported.
    """
    if image.format not in SAMPLE_TYPES:
        raise InputError(
            f"{path} holds samples of type {image.format}; convert it to 8 or 16 bits without sign, or to floats "
            "from 0 to 1"
        )
    if image.interpretation not in ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "cmyk", "multiband"):
        raise InputError(f"{path} is in the colour space {image.interpretation}; convert it to RGB or gray")
    if image.interpretation == "cmyk":
        return 3, bool(image.bands > 4)
    colours = 1 if image.interpretation in ("b-w", "grey16") else 3
    alpha = image.interpretation != "multiband" and image.bands == colours + 1
    return image.bands - alpha, alpha


def reading_notices(image: pyvips.Image) -> list[str]:
    """Return a line for everything that `read` loses or changes."""
    notices = []
    fields = set(image.get_fields())
    if "n-pages" in fields and image.get("n-pages") > 1:
        notices.append(f"only the first of {image.get('n-pages')} pages")
    if "palette" in fields:
        notices.append("palette expanded")
    elif "bits-per-sample" in fields and image.get("bits-per-sample") < 8:
        notices.append(f"{image.get('bits-per-sample')}-bit samples expanded to 8 bits")
    if image.interpretation == "cmyk":
        notices.append("CMYK converted to sRGB")
    dropped = [
        name.removesuffix("-data") for name in sorted(fields) if name.endswith("-data") and metadata_title(name) is None
    ]
    if dropped:
        notices.append(f"dropped: {', '.join(dropped)}")
    return notices


def metadata_of(image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """Return the metadata that is kept: libvips's name -> (its type, value)."""
    return {
        name: (image.get_typeof(name), image.get(name))
        for name in image.get_fields()
        if metadata_title(name) is not None
    }
