"""What an uploaded file is, found in its first bytes and its header, before anything of it is decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyvips

from ..errors import InputError
from ..runtime.io.images import open_file
from ..runtime.io.images.formats import check_read
from ..runtime.io.images.reading import starting_format, vips_errors
from .errors import RequestError


@dataclass(frozen=True)
class Format:
    """A format of results.

    Attributes
    ----------
    suffix
        Suffix of its files.
    media
        Media type.
    """

    suffix: str
    media: str


#: Name in requests -> format.
FORMATS = {
    "png": Format(".png", "image/png"),
    "jpeg": Format(".jpg", "image/jpeg"),
    "tiff": Format(".tif", "image/tiff"),
    "webp": Format(".webp", "image/webp"),
}


def identify(file: Path) -> str:
    """Return the name of an uploaded file's format: one of `FORMATS`, or ``"heif"``. Its bytes decide, not its name.

    Raises
    ------
    RequestError
        It is of no format that is read.
    """
    with file.open("rb") as opened:
        start = opened.read(16)
    name = starting_format(start)
    if not name:
        try:
            check_read(Path("the image"), start)
        except InputError as error:
            raise RequestError(415, "unsupported_image", str(error)) from error
        raise RequestError(
            415,
            "unsupported_image",
            "this is no known image; send a PNG, JPEG, TIFF, WebP, AVIF or HEIC file",
        )
    return name


def check_size(file: Path, name: str, most: int) -> int:
    """Return the pixels of an uploaded file; check them, and that it is no animation, of which one frame is read.

    Parameters
    ----------
    file
        The file.
    name
        What `identify` returned.
    most
        Most pixels.

    Raises
    ------
    RequestError
        It is too large, or an animation.
    InputError
        It is damaged.
    """
    with vips_errors(file):
        # By its header: `open_file` decodes a little of some files.
        source = pyvips.Source.new_from_file(os.fsencode(file))
        try:
            image = getattr(pyvips.Image, f"{name}load_source")(source, access="sequential")
        except pyvips.Error:  # Damage, or samples that libvips does not know and `open_file` reads without it.
            image = open_file(file).image
        pixels = image.width * image.height
        if pixels > most:
            raise RequestError(
                413,
                "too_many_pixels",
                f"the image has {image.width} x {image.height} = {pixels:,} pixels, and {most:,} are accepted; send a "
                "smaller image, or a part of it",
            )
        frames = open_file(file).contents.frames
    if frames > 1:
        raise RequestError(
            422, "animation", f"the image is an animation of {frames} pictures; send one of them as an image of its own"
        )
    return int(pixels)
