"""Pictures in memory, and their conversion to libvips."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from .formats import VIPS_TYPES


@dataclass(frozen=True)
class Header:
    """What a file says about its picture before it is decoded.

    Attributes
    ----------
    height, width
        Size in pixels, after the EXIF orientation is applied.
    channels
        Number of channels, without alpha.
    alpha
        True when there is an alpha plane.
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
    """A decoded picture.

    Attributes
    ----------
    pixels
        [H, W] for gray, else [H, W, C]; uint8, uint16, float32 or float64 (0 to 1). Without alpha, and with the EXIF
        orientation applied.
    alpha
        [H, W] of the same type, or None.
    resolution
        Pixels per millimetre along x and y.
    metadata
        The metadata that is kept: libvips's name -> (its type, value).
    notices
        A line for everything that was lost or changed in reading.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    resolution: tuple[float, float] = (1.0, 1.0)
    metadata: dict[str, tuple[int, Any]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def with_pixels(self, pixels: NDArray[Any]) -> Picture:
        """Return a copy with the pixels of the restored image.

        The alpha plane is kept, or resampled (bicubic) when the restored image has another size. The ICC profile is
        kept only when the number of channels stays the same.
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


def vips_image(picture: Picture) -> pyvips.Image:
    """Return a picture as a libvips image, with its metadata."""
    pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[:, :, None]
    channels = pixels.shape[2]
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, picture.alpha[:, :, None]], axis=2)
    dtype = pixels.dtype.newbyteorder("=")
    native = np.ascontiguousarray(pixels, dtype=np.float32 if dtype == np.float16 else dtype)
    image = pyvips.Image.new_from_memory(
        native.data, native.shape[1], native.shape[0], native.shape[2], VIPS_TYPES[native.dtype]
    )
    return with_metadata(image, picture, native.dtype, channels)


def with_metadata(image: pyvips.Image, picture: Picture, dtype: np.dtype[Any], channels: int) -> pyvips.Image:
    """Set the colour space, resolution and metadata of a libvips image.

    Parameters
    ----------
    image
        Samples alone.
    picture
        Gives resolution and metadata.
    dtype
        Type of the samples.
    channels
        Number of channels, without alpha.
    """
    deep = dtype == np.uint16
    colours = {1: "grey16" if deep else "b-w", 3: "rgb16" if deep else "srgb"}.get(channels, "multiband")
    image = image.copy(interpretation=colours, xres=picture.resolution[0], yres=picture.resolution[1])
    for name, (kind, value) in picture.metadata.items():
        image.set_type(kind, name, value)
    # Else libvips writes the orientation and the thumbnail of the source, which are still in the EXIF block.
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    if "exif-data" in picture.metadata:
        image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", b"")
    return image


def _resampled(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    image = vips_image(Picture(plane))
    larger = image.resize(width / plane.shape[1], vscale=height / plane.shape[0], kernel="cubic")
    values: NDArray[Any] = larger.cast(image.format).numpy()
    return values.reshape(height, width)
