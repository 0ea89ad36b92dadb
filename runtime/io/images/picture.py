"""Pictures in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from .metadata.fields import Metadata


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
    metadata
        The metadata that is kept.
    notices
        A line for everything that was lost or changed in reading.
    alpha_is_band
        True when `alpha` is no opacity but a band of unknown meaning, such as infrared (ExtraSamples 0 in TIFF).
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    metadata: Metadata = field(default_factory=Metadata)
    notices: tuple[str, ...] = ()
    alpha_is_band: bool = False

    @property
    def has_alpha(self) -> bool:
        """True when there is opacity."""
        return self.alpha is not None and not self.alpha_is_band
