"""Photographs in files: PNG, JPEG, TIFF and WebP, with their alpha, colour profile and metadata.

What a file cannot hold is never lost in silence: reading and writing return lines that say it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from ...errors import InputError
from ...files import atomic_path, check_place

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
}

#: Largest side in pixels, where a format has one that images reach.
LARGEST_SIDE = {"JPEG": 65500, "WebP": 16383}

_LOADERS = {"pngload": "PNG", "jpegload": "JPEG", "tiffload": "TIFF", "webpload": "WebP"}

TYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32, "double": np.float64}

#: The other way round.
FORMATS_OF_TYPES = {np.dtype(dtype): name for name, dtype in TYPES.items()}

#: Metadata that goes from the source to the result: the beginning of libvips's name -> what people call it.
_METADATA = {
    "icc-profile-data": "ICC profile",
    "exif-": "EXIF",
    "xmp-data": "XMP",
    "iptc-data": "IPTC",
    "png-comment-": "PNG comments",
    "resolution-unit": "resolution",
}


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded.

    Attributes
    ----------
    height, width
        Upright, that is, after the EXIF orientation.
    channels
        Without alpha.
    alpha
        True when there is one.
    bits
        Bits per sample.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    bits: int


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes
    ----------
    pixels
        [H, W] for gray, else [H, W, C]; uint8, uint16, float32 or float64 (0 to 1). Upright, without alpha.
    alpha
        [H, W] of the same type, or None.
    resolution
        Pixels per millimetre along x and y.
    metadata
        libvips's name -> (its type, value), as far as it can be kept.
    notices
        What was lost or changed in reading.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    resolution: tuple[float, float] = (1.0, 1.0)
    metadata: dict[str, tuple[int, Any]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def with_pixels(self, pixels: NDArray[Any]) -> Picture:
        """Return this picture with a restored image in place of its own.

        The alpha plane stays as it is, or is resampled (bicubic) when the restored image is larger. A colour profile
        stays only when the number of channels does.
        """
        alpha, metadata, notices = self.alpha, self.metadata, self.notices
        if alpha is not None and pixels.ndim == 3 and pixels.shape[2] != 3:
            alpha = None
            notices += (f"alpha dropped: an image of {pixels.shape[2]} channels has none",)
        if alpha is not None and alpha.shape != pixels.shape[:2]:
            alpha = _resampled(alpha, pixels.shape[0], pixels.shape[1])
            notices += ("alpha resampled (bicubic), not restored",)
        if pixels.shape[2:] != self.pixels.shape[2:] and "icc-profile-data" in metadata:
            metadata = {name: value for name, value in metadata.items() if name != "icc-profile-data"}
            notices += ("ICC profile dropped: it is for another number of channels",)
        return dataclasses.replace(self, pixels=pixels, alpha=alpha, metadata=metadata, notices=notices)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read what a file says of its image, without decoding it; raises `InputError` as `read` does."""
    with reading(path):
        image = open_file(Path(path))
        channels, alpha = colour_channels(image, Path(path))
        turned = image.get_typeof("orientation") != 0 and image.get("orientation") >= 5
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        return Header(height, width, channels, alpha, 8 * np.dtype(TYPES[image.format]).itemsize)


def read(path: str | os.PathLike[str]) -> Picture:
    """Read an image.

    The EXIF orientation is applied, a palette expanded, CMYK converted to sRGB, and the first page taken of many.

    Raises
    ------
    InputError
        The file is missing, empty, damaged, cut off, of another format, or of a kind that photographs do not have.
    """
    file = Path(path)
    with reading(file):
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


def metadata_of(image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """The metadata that is kept: libvips's name -> (its type, value)."""
    return {
        name: (image.get_typeof(name), image.get(name))
        for name in image.get_fields()
        if metadata_title(name) is not None
    }


def check_target(path: str | os.PathLike[str], height: int, width: int, channels: int) -> None:
    """Check that an image of this size can be written to `path`, before any work.

    Raises
    ------
    InputError
        The format is unknown or cannot hold it, or the place cannot be written.
    """
    file = Path(path)
    name = format_of(file)
    limit = LARGEST_SIDE.get(name)
    if limit is not None and max(height, width) > limit:
        raise InputError(
            f"{file}: {name} holds at most {limit} pixels a side, not {height} x {width}; write a .png or .tif"
        )
    if channels not in (1, 3) and name != "TIFF":
        raise InputError(f"{file}: {name} holds 1 or 3 channels, not {channels}; write a .tif")
    check_place(file)


def write(path: str | os.PathLike[str], picture: Picture) -> list[str]:
    """Write an image, whole or not at all.

    PNG, TIFF and WebP are lossless; JPEG has quality 95 and full chroma.

    Returns
    -------
    What the format could not hold, a line each.

    Raises
    ------
    InputError
        As `check_target`; or the disk is full.
    """
    file = Path(path)
    name = format_of(file)
    height, width, channels = picture.pixels.shape if picture.pixels.ndim == 3 else (*picture.pixels.shape, 1)
    check_target(file, height, width, channels)
    picture, notices = fitted(picture, name)
    image = _vips_image(picture)
    try:
        data = image.write_to_buffer(file.suffix.lower(), **saving(name, picture.pixels.dtype, picture.pixels.nbytes))
    except pyvips.Error as error:
        raise InputError(f"{file}: the image cannot be written as {name} ({reason_of(error)})") from error
    with atomic_path(file) as temporary:
        temporary.write_bytes(data)
    return notices + missing(pyvips.Image.new_from_buffer(data, "", access="sequential"), picture, name)


def saving(name: str, dtype: np.dtype[Any], size: int) -> dict[str, Any]:
    """libvips's options for a format, for an image of so many bytes."""
    formats: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"Q": 95, "subsample_mode": "off"},
        "WebP": {"lossless": True, "exact": True},
        "TIFF": {
            "compression": "deflate",
            "predictor": "float" if dtype.kind == "f" else "horizontal",
            "bigtiff": size > 2**31,
        },
    }
    return formats[name]


def metadata_titles(picture: Picture) -> list[str]:
    """What people call the metadata that a picture has."""
    return sorted({title for field in picture.metadata if (title := metadata_title(field)) is not None})


def format_of(path: Path) -> str:
    """Return the format that a file's name asks for; raises `InputError` for others than those in `FORMATS`."""
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise InputError(f"{path} names no image format that can be used; choose one of {', '.join(FORMATS)}")
    return name


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what libvips says of a bad file into an `InputError`."""
    try:
        yield
    except pyvips.Error as error:
        raise InputError(
            f"{path} is damaged, cut off, or no image ({reason_of(error)}); give a whole PNG, JPEG, TIFF or WebP file"
        ) from error


def open_file(path: Path) -> pyvips.Image:
    """Open a file of a known format; nothing is decoded yet."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image file or a folder of them")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give an image file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); give a whole image file")
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: no permission")
    # By way of a source, since libvips reads options out of file names: "a[1].png" is a legal name.
    source = pyvips.Source.new_from_file(str(path))
    image = pyvips.Image.new_from_source(source, "", access="sequential", fail_on="error")
    loader = image.get("vips-loader").removesuffix("_source")
    if loader not in _LOADERS:
        raise InputError(f"{path} is of another image format ({loader}); convert it to PNG, JPEG, TIFF or WebP")
    return image


def colour_channels(image: pyvips.Image, path: Path) -> tuple[int, bool]:
    """Return the channels of an image after `read`, without alpha, and whether it has alpha; refuse exotic ones."""
    if image.format not in TYPES:
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


def metadata_title(name: str) -> str | None:
    """What people call a metadata field that is kept, or None. The orientation is applied, so it is not kept."""
    if name.endswith("Orientation"):
        return None
    return next((title for start, title in _METADATA.items() if name.startswith(start)), None)


def fitted(picture: Picture, name: str) -> tuple[Picture, list[str]]:
    """Make a picture that a format can hold, and say what was lost."""
    pixels, alpha, metadata = picture.pixels, picture.alpha, picture.metadata
    notices = []
    bits = {"PNG": 16, "JPEG": 8, "WebP": 8, "TIFF": 32}[name]
    floating = pixels.dtype.kind == "f"
    if 8 * pixels.dtype.itemsize > bits or (floating and name != "TIFF"):
        kind = "floating point" if floating else f"{8 * pixels.dtype.itemsize}-bit"
        notices.append(f"{kind} reduced to {bits} bits: {name} has no more here")
        pixels = _reduced(pixels, bits)
        alpha = None if alpha is None else _reduced(alpha, bits)
    if name == "JPEG" and alpha is not None:
        notices.append("alpha flattened onto white: JPEG has none")
        share = alpha.astype(np.float32) / 255
        share = share if pixels.ndim == 2 else share[:, :, None]
        pixels = np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)
        alpha = None
    if name == "WebP" and pixels.ndim == 2:
        notices.append("gray stored as colour: WebP has no gray")
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if "icc-profile-data" in metadata:
            notices.append("ICC profile dropped: it is for gray")
            metadata = {key: value for key, value in metadata.items() if key != "icc-profile-data"}
    return dataclasses.replace(picture, pixels=pixels, alpha=alpha, metadata=metadata), notices


def _reduced(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Round to fewer bits; white stays white. 32 bits are floats."""
    if bits == 32:
        return values.astype(np.float32)
    white = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    scaled = np.clip(values.astype(np.float64) * ((2**bits - 1) / white), 0, 2**bits - 1)
    return np.rint(scaled).astype(np.uint8 if bits == 8 else np.uint16)


def _vips_image(picture: Picture) -> pyvips.Image:
    """Hand the pixels and their metadata to libvips."""
    pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[:, :, None]
    channels = pixels.shape[2]
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[:, :, None]], axis=2)
    dtype = pixels.dtype.newbyteorder("=")
    native = np.ascontiguousarray(pixels, dtype=np.float32 if dtype == np.float16 else dtype)
    image = pyvips.Image.new_from_memory(
        native.data, native.shape[1], native.shape[0], native.shape[2], FORMATS_OF_TYPES[native.dtype]
    )
    return finished(image, picture, native.dtype, channels)


def finished(image: pyvips.Image, picture: Picture, dtype: np.dtype[Any], channels: int) -> pyvips.Image:
    """Give bare samples of a type their colour space, resolution and metadata; `channels` is without alpha."""
    deep = dtype == np.uint16
    colours = {1: "grey16" if deep else "b-w", 3: "rgb16" if deep else "srgb"}.get(channels, "multiband")
    image = image.copy(interpretation=colours, xres=picture.resolution[0], yres=picture.resolution[1])
    for name, (kind, value) in picture.metadata.items():
        image.set_type(kind, name, value)
    # The EXIF block still holds the orientation and the thumbnail of the source; without a word libvips writes those.
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    if "exif-data" in picture.metadata:
        image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", b"")
    return image


def missing(written: pyvips.Image, picture: Picture, name: str) -> list[str]:
    """Look at what was written, and say which metadata is not in it."""
    there = {metadata_title(field) for field in written.get_fields()}
    titles = [title for title in metadata_titles(picture) if title not in there]
    return [f"{', '.join(titles)} dropped: not kept in {name}"] if titles else []


def _resampled(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    image = _vips_image(Picture(plane))
    larger = image.resize(width / plane.shape[1], vscale=height / plane.shape[0], kernel="cubic")
    values: NDArray[Any] = larger.cast(image.format).numpy()
    return values.reshape(height, width)


def reason_of(error: pyvips.Error) -> str:
    """Put what libvips says in one line."""
    lines = [line.strip() for line in str(error.detail or error.message).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))
