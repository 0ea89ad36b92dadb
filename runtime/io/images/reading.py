"""Read pictures: the header alone, or all of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyvips

from .... import forks
from ....errors import InputError
from ....files import is_folder, is_regular, status
from . import camera_raw, double_tiff
from .formats import LOADERS, SAMPLE_TYPES, check_read, missing_codec, reason_of
from .metadata import png
from .metadata.fields import Contents, Metadata
from .metadata.update import upright
from .opened import Opened, field_of, read_contents, with_fields, with_orientation
from .picture import Header, Picture

#: What files start with, and the loader that reads them. Left to itself, libvips takes others for some: `uhdrload` for
#: a JPEG with a gain map, which gives another picture than every other program, or a loader for camera raw.
_STARTS = {
    png.SIGNATURE: "pngload",
    b"\xff\xd8\xff": "jpegload",
    b"II*\0": "tiffload",
    b"MM\0*": "tiffload",
    b"II+\0": "tiffload",
    b"MM\0+": "tiffload",
}


def read_header(path: str | os.PathLike[str], channels: int | None = None, page: int = 1) -> Header:
    """Read the size, channels and type of a picture without decoding it.

    Parameters
    ----------
    path, channels, page
        As for `read`; errors are those of `read`, too.
    """
    with vips_errors(path):
        opened = open_file(Path(path), page)
        if codec := missing_codec(opened.image):
            raise InputError(
                f"{path} is compressed with {codec}, which this libvips cannot decode; convert it to PNG, JPEG or TIFF"
            )
        count, plane = opened.channels(channels)
        bits = 8 * np.dtype(SAMPLE_TYPES[opened.image.format]).itemsize
        return Header(*opened.upright_size, count, plane and not opened.contents.extra_band, bits)


def read(path: str | os.PathLike[str], channels: int | None = None, page: int = 1) -> Picture:
    """Read a picture.

    The EXIF orientation is applied, a palette is expanded, CMYK is converted to sRGB, and of several pages one is read.

    Parameters
    ----------
    path
        The file.
    channels
        Number of channels that the model takes. A TIFF may have a sample after the colours that is no alpha (its
        ExtraSamples is 0): it is a channel where the numbers then match, else it stays beside the picture.
    page
        Which of the pages of a TIFF, from 1.

    Raises
    ------
    InputError
        The file is missing, empty, damaged, cut off, of another format or camera raw; it has no such page; or its
        samples or colour space are not supported.
    """
    file = Path(path)
    with vips_errors(file):
        opened = open_file(file, page)
        image, notices = converted(opened)
        turned = Opened(file, image.copy_memory().autorot(), opened.contents)
        count, plane = turned.channels(channels)
        # libvips's array of a single gray pixel has no axes, and of a gray picture two.
        values = turned.image.numpy().reshape(turned.image.height, turned.image.width, -1)
        metadata, lost = kept_metadata(opened, image)
    pixels = values[:, :, :count]
    return Picture(
        pixels=pixels[:, :, 0] if count == 1 else pixels,
        alpha=values[:, :, count] if plane else None,
        metadata=metadata,
        notices=(*notices, *plane_notices(opened, count, plane), *lost),
        alpha_is_band=plane and opened.contents.extra_band,
    )


@contextlib.contextmanager
def vips_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise `InputError` in place of libvips's errors about a file."""
    try:
        yield
    except pyvips.Error as error:
        reason = reason_of(error) or "its samples decode with warnings"
        raise InputError(
            f"{path} is damaged, cut off, or no image ({reason}); give a whole PNG, JPEG, TIFF or WebP file"
        ) from error


def _loader_of(start: bytes) -> str:
    """Return libvips's loader for a file that starts with these 16 bytes; empty where libvips chooses it."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webpload"
    return next((name for mark, name in _STARTS.items() if start.startswith(mark)), "")


def starting_format(start: bytes) -> str:
    """Return the format of a file that starts with these 16 bytes, such as ``"png"``; empty if it is not read."""
    loader = _loader_of(start) or ("heifload" if start[4:8] == b"ftyp" else "")
    return LOADERS[loader].lower() if loader else ""


def open_file(path: Path, page: int = 1) -> Opened:
    """Open a picture without decoding it.

    Parameters
    ----------
    path
        The file.
    page
        Which of its pages, from 1.

    Raises
    ------
    InputError
        The file is missing, empty, unreadable, of another format or camera raw, or it has no such page.
    """
    if status(path) is None:
        raise InputError(f"{path} does not exist; give an image file or a folder of them")
    if is_folder(path):
        raise InputError(f"{path} is a folder; give an image file")
    if not is_regular(path):  # Opening a named pipe would wait for ever for somebody to write into it.
        raise InputError(f"{path} is a device or a pipe; write the image into a file first")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); give a whole image file")
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: no permission")
    with path.open("rb") as file:
        start = file.read(16)
        loader = _loader_of(start)
        sensor = camera_raw.sensor(file, path.suffix)
        contents = read_contents(file, loader, page)
    if sensor is not None:
        raise InputError(
            f"{path} is a camera raw file{sensor}, not a picture; develop it first, for instance to a 16-bit TIFF"
        )
    if contents.missing:
        raise InputError(f"{path} is damaged, cut off, or no image ({contents.missing}); give a whole file")
    if contents.refused:
        raise InputError(f"{path} {contents.refused}")
    if page > contents.pages:
        raise InputError(f"{path} has no page {page}; it has {contents.pages}")
    image, contents = _loaded(path, loader, contents, start)
    name = field_of(image, "vips-loader", "").removesuffix("_source")
    if name not in LOADERS:
        check_read(path, start)
        raise InputError(f"{path} is of another image format ({name}); convert it to PNG, JPEG, TIFF or WebP")
    return Opened(path, with_orientation(image, contents), with_fields(image, contents))


def _loaded(path: Path, loader: str, contents: Contents, start: bytes) -> tuple[pyvips.Image, Contents]:
    """Return the picture in libvips, by a loader, or by the one that it chooses where that is empty; and its contents.

    Damage that the decoder alone warns of becomes an error; in a TIFF it becomes a notice where it is at the start,
    because libtiff warns of odd tags in the same way.
    """
    forks.require_vips()
    options = {"access": "sequential", "fail_on": "error", **dict(contents.loader_options)}
    if loader == "jpegload":
        options["fail_on"] = "warning"  # libjpeg fills with gray what is damaged, and warns.

    def load(**strictness: str) -> pyvips.Image:
        # Through a source, because libvips parses options in file names, and "a[1].png" is a legal name.
        # By its bytes, because a name need not be UTF-8.
        source = pyvips.Source.new_from_file(os.fsencode(path))
        if loader:
            return getattr(pyvips.Image, f"{loader}_source")(source, **options | strictness)
        try:
            return pyvips.Image.new_from_source(source, "", **options)
        except pyvips.Error:
            check_read(path, start)
            raise

    if contents.strict:
        try:
            load(fail_on="warning").crop(0, 0, 1, 1).avg()
            return load(fail_on="warning"), contents
        except pyvips.Error:
            line = "decoded with warnings: its tags are odd, or its samples are damaged (look at the result)"
            contents = dataclasses.replace(contents, notices=(*contents.notices, line))
    if not contents.samples:
        return load(), contents
    try:
        load().crop(0, 0, 1, 1).avg()  # A codec is looked for when the first sample is decoded.
        return load(), contents
    except pyvips.Error as error:
        decoded = double_tiff.image(path, dict(contents.loader_options).get("page", 0))
        if decoded is None:
            raise InputError(f"{path} {contents.samples}") from error
        return decoded, contents


def converted(opened: Opened) -> tuple[pyvips.Image, list[str]]:
    """Return a picture's samples as gray, RGB or bands, still as they lie in the file, and a line for every change."""
    image, notices = opened.image, list(opened.contents.notices)
    bits = field_of(image, "bits-per-sample", 8)
    if image.get_typeof("palette"):
        notices.append("palette expanded")
    elif "palette expanded" not in notices and bits < 8:
        notices.append(f"{bits}-bit samples expanded to 8 bits")
    if image.interpretation == "cmyk":
        notices.append("CMYK converted to sRGB")
        image = image.icc_transform("srgb", embedded=True, depth=16 if image.format == "ushort" else 8)
    if opened.contents.inverted:
        notices.append("inverted: 0 was white")
        others = image.bands - 1
        negative = image.linear([-1.0] + [1.0] * others, [1.0] + [0.0] * others)
        image = negative.cast(image.format).copy(interpretation=image.interpretation)
    return image, notices


def plane_notices(opened: Opened, channels: int, plane: bool) -> list[str]:
    """Return a line about a sample after the colours that is no alpha.

    Parameters
    ----------
    opened
        The picture.
    channels, plane
        What `Opened.channels` returned.
    """
    if not opened.contents.extra_band:
        return []
    if plane:
        return [f"band {channels + 1} is not restored: its meaning is unspecified, so it is no alpha"]
    return [f"band {channels} is restored as a channel: its meaning is unspecified, so it is no alpha"]


def kept_metadata(opened: Opened, image: pyvips.Image) -> tuple[Metadata, list[str]]:
    """Return a picture's metadata as it is true for the upright picture, and a line for what is dropped.

    Parameters
    ----------
    opened
        The picture as it is in the file.
    image
        What `converted` returned.
    """
    metadata, dropped = opened.contents.metadata, list(opened.contents.dropped)
    if image.interpretation != opened.image.interpretation:
        profile = field_of(image, "icc-profile-data")
        colour = [block.title for block in metadata.blocks if block.title.startswith("colour space")]
        metadata = dataclasses.replace(metadata.without(*colour), icc=profile)
    if opened.orientation >= 5:
        metadata = metadata.turned()
    metadata, lost = upright(metadata, *opened.upright_size, opened.orientation != 1)
    dropped += [title for title in lost if not any(one.startswith(title) for one in dropped)]
    return metadata, [f"dropped: {', '.join(dropped)}"] if dropped else []
