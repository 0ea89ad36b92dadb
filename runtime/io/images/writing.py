"""Write pictures, converted to what the format can hold."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyvips
from numpy.typing import NDArray

from .... import forks
from ....errors import InputError
from ....files import atomic_path, check_place
from ..encoding import DEFAULT, Encoding
from . import tiff_layout
from .formats import LARGEST_SIDE, VIPS_TYPES, format_of, reason_of
from .metadata import jpeg, png, tiff, webp
from .metadata.fields import Metadata
from .metadata.update import for_container, resized
from .picture import Picture


def check_target(path: str | os.PathLike[str], height: int, width: int, channels: int) -> None:
    """Check that a picture can be written, before any work.

    Parameters
    ----------
    path
        The file.
    height, width, channels
        Size of the picture, without alpha.

    Raises
    ------
    InputError
        The format is unknown or cannot hold the picture, or the file cannot be written there.
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


def check_encoding(path: Path, channels: int, dtype: np.dtype[Any], encoding: Encoding) -> None:
    """Check that a picture can be encoded as was asked for.

    Parameters
    ----------
    path
        The file.
    channels
        Number of channels, without alpha.
    dtype
        Type of the samples.
    encoding
        What was asked for.

    Raises
    ------
    InputError
        The format has no such option, or cannot hold the samples with it.
    """
    name = format_of(path)
    if name == "TIFF":
        tiff_layout.check(path, channels, dtype, encoding)
    elif encoding != DEFAULT:
        raise InputError(f"{path}: {name} has no {encoding.asked} here; write a .tif or an .ome.zarr")


def write(path: str | os.PathLike[str], picture: Picture, encoding: Encoding = DEFAULT) -> list[str]:
    """Write a picture, whole or not at all.

    PNG, TIFF and WebP are lossless; JPEG has quality 95 and full chroma.

    Parameters
    ----------
    path
        The file.
    picture
        The picture.
    encoding
        What was asked for beside the format.

    Returns
    -------
    list[str]
        A line for everything that the format cannot hold.

    Raises
    ------
    InputError
        As `check_target`; or the disk is full.
    """
    file = Path(path)
    name = format_of(file)
    height, width, channels = picture.pixels.shape if picture.pixels.ndim == 3 else (*picture.pixels.shape, 1)
    check_target(file, height, width, channels)
    check_encoding(file, channels, picture.pixels.dtype, encoding)
    picture, notices = fitted(picture, name, encoding)
    result = io.BytesIO()
    shape = height, width, channels + (picture.alpha is not None)
    options = save_options(name, shape, picture.pixels.dtype, picture.metadata, encoding)
    try:
        encoded = io.BytesIO(vips_image(picture).write_to_buffer(file.suffix.lower(), **options))
    except pyvips.Error as error:
        raise InputError(f"{file}: the image cannot be written as {name} ({reason_of(error)})") from error
    notices += tiff_layout.notices(encoding)
    notices += with_metadata(encoded, result, picture.metadata, name, picture.has_alpha)
    with atomic_path(file) as temporary:
        temporary.write_bytes(result.getbuffer())
    return notices


def with_metadata(encoded: BinaryIO, target: BinaryIO, metadata: Metadata, name: str, alpha: bool) -> list[str]:
    """Copy a file that libvips wrote, with metadata.

    Parameters
    ----------
    encoded
        The file: samples and ICC profile.
    target
        The copy.
    metadata
        What is added.
    name
        Name of the format.
    alpha
        True when the last plane is alpha.

    Returns
    -------
    list[str]
        A line for what the format cannot hold.
    """
    metadata, lost = for_container(metadata, name)
    if name == "TIFF":
        lost += tiff.embed(encoded, target, metadata, alpha)
    else:
        lost += {"PNG": png.embed, "JPEG": jpeg.embed, "WebP": webp.embed}[name](encoded, target, metadata)
    lost += [block.title for block in metadata.blocks if block.container != name]
    return [f"{', '.join(dict.fromkeys(lost))} dropped: not kept in {name}"] if lost else []


def save_options(
    name: str, shape: tuple[int, int, int], dtype: np.dtype[Any], metadata: Metadata, encoding: Encoding
) -> dict[str, Any]:
    """Return libvips's options for writing a format.

    Parameters
    ----------
    name
        Name of the format.
    shape
        Height, width and samples of a pixel, alpha included.
    dtype
        Type of the samples.
    metadata
        That of the picture.
    encoding
        What was asked for.
    """
    formats: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"Q": 95, "subsample_mode": "off"},
        "WebP": {"lossless": True, "exact": True},
        "TIFF": tiff_layout.save_options(shape, dtype, metadata, encoding),
    }
    # Of the metadata libvips writes the profile alone, see `metadata`.
    return {"keep": "icc", **formats[name]}


def fitted(picture: Picture, name: str, encoding: Encoding = DEFAULT) -> tuple[Picture, list[str]]:
    """Return the picture converted to what a format can hold, and a line for everything that was lost.

    Parameters
    ----------
    picture
        The picture, or some rows of it.
    name
        Name of the format.
    encoding
        What was asked for beside the format.
    """
    in_jpeg = name == "JPEG" or encoding.compression == "jpeg"
    pixels, alpha, metadata = picture.pixels, picture.alpha, picture.metadata
    notices = []
    bits = {"PNG": 16, "JPEG": 8, "WebP": 8, "TIFF": 32}[name]
    floating = pixels.dtype.kind == "f"
    if 8 * pixels.dtype.itemsize > bits or (floating and name != "TIFF"):
        kind = "floating point" if floating else f"{8 * pixels.dtype.itemsize}-bit"
        notices.append(f"{kind} reduced to {bits} bits: {name} has no more here")
        notices += _out_of_range((pixels, alpha), bits) if floating and bits < 32 else []
        pixels = _reduced(pixels, bits)
        alpha = None if alpha is None else _reduced(alpha, bits)
    if picture.alpha_is_band and alpha is not None and (name != "TIFF" or in_jpeg):
        notices.append(f"band beside the colours dropped: not kept in {'JPEG' if in_jpeg else name}")
        alpha = None
    if in_jpeg and alpha is not None:
        notices.append("alpha flattened onto white: JPEG has none")
        share = alpha.astype(np.float32) / 255
        share = share if pixels.ndim == 2 else share[:, :, None]
        pixels = np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)
        alpha = None
    if name == "WebP" and pixels.ndim == 2:
        notices.append("gray stored as colour: WebP has no gray")
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if metadata.icc is not None:
            notices.append("ICC profile dropped: it is for gray")
            metadata = metadata.without("ICC profile")
    return dataclasses.replace(picture, pixels=pixels, alpha=alpha, metadata=metadata), notices


def _out_of_range(planes: Iterable[NDArray[Any] | None], bits: int) -> list[str]:
    """Return a line for each kind of float that whole numbers cannot hold."""
    values = [plane for plane in planes if plane is not None]
    half = 0.5 / (2**bits - 1)
    clipped = any((plane < -half).any() or (plane > 1 + half).any() for plane in values)
    lines = ["values outside 0 to 1 clipped"] if clipped else []
    return lines + (["NaN stored as 0"] if any(np.isnan(plane).any() for plane in values) else [])


def _reduced(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Round to fewer bits, mapping white to white; 32 bits are floats."""
    if bits == 32:
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    white = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    with np.errstate(over="ignore"):
        scaled = np.clip(values.astype(np.float64) * ((2**bits - 1) / white), 0, 2**bits - 1)
        scaled = np.nan_to_num(scaled, copy=False)
    rounded: NDArray[Any] = np.rint(scaled).astype(np.uint8 if bits == 8 else np.uint16)
    return rounded


def vips_image(picture: Picture) -> pyvips.Image:
    """Return a picture as a libvips image, with its metadata."""
    pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[:, :, None]
    channels = pixels.shape[2]
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[:, :, None]], axis=2)
    dtype = pixels.dtype.newbyteorder("=")
    native = np.ascontiguousarray(pixels, dtype=np.float32 if dtype == np.float16 else dtype)
    forks.require_vips()
    image = pyvips.Image.new_from_memory(
        native.data, native.shape[1], native.shape[0], native.shape[2], VIPS_TYPES[native.dtype]
    )
    return with_colour_space(image, picture.metadata.icc, native.dtype, channels)


def with_colour_space(image: pyvips.Image, icc: bytes | None, dtype: np.dtype[Any], channels: int) -> pyvips.Image:
    """Set the colour space of a libvips image.

    Parameters
    ----------
    image
        Samples alone.
    icc
        ICC profile.
    dtype
        Type of the samples.
    channels
        Number of channels, without alpha.
    """
    deep = dtype == np.uint16
    colours = {1: "grey16" if deep else "b-w", 3: "rgb16" if deep else "srgb"}.get(channels, "multiband")
    image = image.copy(interpretation=colours)
    if icc is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    return image


def with_pixels(picture: Picture, pixels: NDArray[Any]) -> Picture:
    """Return a copy of a picture with the pixels of its restored image.

    The alpha plane is kept, or resampled (bicubic) when the restored image has another size. The ICC profile is
    kept only when the number of channels stays the same.
    """
    carried = carried_over(picture, _shape(picture.pixels), _shape(pixels))
    alpha = carried.alpha
    if alpha is not None and alpha.shape != pixels.shape[:2]:
        alpha = _resampled(alpha, pixels.shape[0], pixels.shape[1])
    return dataclasses.replace(carried, pixels=pixels, alpha=alpha)


def carried_over(picture: Picture, before: tuple[int, int, int], after: tuple[int, int, int]) -> Picture:
    """Return a picture with the metadata, the alpha and the notices that its restored image has.

    Pixels are those of the picture, and an alpha plane has its size, also where the restored image has another one.

    Parameters
    ----------
    picture
        What was restored.
    before, after
        Height, width and channels of the picture and of the restored image.
    """
    alpha, metadata, notices = picture.alpha, picture.metadata, picture.notices
    plane = "band beside the colours" if picture.alpha_is_band else "alpha"
    if alpha is not None and after[2] != 3 and before[2] != after[2]:
        alpha = None
        notices += (f"{plane} dropped: an image of {after[2]} channels has none",)
    if alpha is not None and before[:2] != after[:2]:
        notices += (f"{plane} resampled (bicubic), not restored",)
    if before[2] != after[2]:
        metadata, lost = metadata.for_other_channels()
        notices += lost
    if before[:2] != after[:2]:
        # A result may also lack a margin of the model's, which its resolution does not tell.
        metadata = metadata.enlarged(max(1, round(after[1] / before[1])))
        metadata, lost = resized(metadata, after[0], after[1])
        notices += lost
    return dataclasses.replace(picture, alpha=alpha, metadata=metadata, notices=notices)


def _shape(pixels: NDArray[Any]) -> tuple[int, int, int]:
    return pixels.shape[0], pixels.shape[1], pixels.shape[2] if pixels.ndim == 3 else 1


def _resampled(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    image = vips_image(Picture(plane))
    larger = image.resize(width / plane.shape[1], vscale=height / plane.shape[0], kernel="cubic")
    values: NDArray[Any] = larger.cast(image.format).numpy()
    return values.reshape(height, width)
