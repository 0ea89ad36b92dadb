"""Metadata that a restored picture keeps from its source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

#: What users call the copies of a picture in smaller sizes.
LEVELS = "levels of the pyramid"


@dataclass(frozen=True)
class Block:
    """Metadata that one container has and others have no place for.

    Attributes
    ----------
    title
        What users call it: "GeoTIFF tags".
    container
        Name of the format: "TIFF".
    kind
        Type of the chunk, marker of the segment, or type of the tag's values.
    data
        Its content, as stored.
    tag
        Number of the tag, in TIFF.
    """

    title: str
    container: str
    kind: bytes | int
    data: bytes
    tag: int = 0


def aspect_of(x: float, y: float) -> Fraction | None:
    """Return pixels along x to pixels along y of densities without a unit; None where they are equal or one is 0."""
    return Fraction(x / y).limit_denominator(1000) if x and y and x != y else None


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture, in no container's form.

    Attributes
    ----------
    icc
        ICC profile.
    exif
        EXIF: a TIFF structure, without the ``Exif`` mark in front of it.
    xmp
        XMP packet.
    iptc
        IPTC-IIM records.
    resolution
        Pixels per millimetre along x and y; None where the file does not say.
    aspect
        Pixels along x to pixels along y in a length that the file does not say; None where they are equal.
    blocks
        What only one container can hold.
    layout
        How the samples lie in the file: in rows, in tiles, or as a pyramid of smaller and smaller copies.
    measured
        True when the resolution is a measured size of what the picture shows, as of microscopes. It then changes with
        the number of pixels; the resolution for printing, of photographs, does not.
    axes
        Names of the axes of the source's array in their order, such as ``("c", "y", "x")``; empty for pictures.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] | None = None
    aspect: Fraction | None = None
    blocks: tuple[Block, ...] = ()
    layout: Literal["rows", "tiles", "pyramid"] = "rows"
    measured: bool = False
    axes: tuple[str, ...] = ()

    def titles(self) -> list[str]:
        """Return the users' names of what there is."""
        present = {
            "ICC profile": self.icc,
            "EXIF": self.exif,
            "XMP": self.xmp,
            "IPTC": self.iptc,
            "resolution": self.resolution,
            "pixel aspect ratio": self.aspect,
            LEVELS: True if self.layout == "pyramid" else None,
        }
        return [title for title, value in present.items() if value is not None] + list(
            dict.fromkeys(block.title for block in self.blocks)
        )

    def blocks_of(self, container: str) -> list[Block]:
        """Return the blocks that a container of this format can hold."""
        return [block for block in self.blocks if block.container == container]

    def without(self, *titles: str) -> Metadata:
        """Return a copy without the fields and blocks of these names."""
        names = {"ICC profile": "icc", "EXIF": "exif", "XMP": "xmp", "IPTC": "iptc", "resolution": "resolution"}
        names["pixel aspect ratio"] = "aspect"
        removed: dict[str, Any] = {names[title]: None for title in titles if title in names}
        kept = tuple(block for block in self.blocks if block.title not in titles)
        return dataclasses.replace(self, blocks=kept, **removed)

    def turned(self) -> Metadata:
        """Return a copy for rows that became columns."""
        return dataclasses.replace(
            self,
            resolution=None if self.resolution is None else self.resolution[::-1],
            aspect=None if self.aspect is None else 1 / self.aspect,
        )

    def enlarged(self, factor: int) -> Metadata:
        """Return a copy for a picture with `factor` times the pixels along each side."""
        if self.resolution is None or not self.measured:
            return self
        x, y = self.resolution
        return dataclasses.replace(self, resolution=(x * factor, y * factor))

    def for_other_channels(self) -> tuple[Metadata, tuple[str, ...]]:
        """Return what holds for a picture with another number of channels, and a line for what is dropped."""
        colour = [title for title in self.titles() if title == "ICC profile" or title.startswith("colour space")]
        if not colour:
            return self, ()
        verb = "it is" if len(colour) == 1 else "they are"
        return self.without(*colour), (f"{', '.join(colour)} dropped: {verb} for another number of channels",)


@dataclass(frozen=True)
class Contents:
    """What a container holds beside the samples, found without decoding them.

    Attributes
    ----------
    metadata
        What can be kept; fields that libvips reads are filled in later.
    dropped
        Names of parts that belong to the picture as it was, or that no result can hold: thumbnails, gain maps.
    notices
        Lines about what is read and what is not.
    loader_options
        Options for libvips's loader: which page.
    extra_band
        True when the sample after the colours is no alpha: its meaning is unknown.
    inverted
        True when libvips leaves samples as they are though 0 is white.
    samples
        What the samples are, where libvips cannot read them; empty where it can.
    missing
        Why the samples cannot all be there, without a try to decode them; empty where they may be.
    pages
        Number of pictures of full size in the file.
    expected
        Names of metadata that libvips should return.
    refused
        What the samples are, and what to do, where libvips would take them for others; empty for the rest.
    strict
        True when what the decoder only warns of is damage.
    frames
        Number of pictures of an animation; 1 where there is none.
    """

    metadata: Metadata = Metadata()
    dropped: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    loader_options: tuple[tuple[str, int], ...] = ()
    extra_band: bool = False
    inverted: bool = False
    samples: str = ""
    missing: str = ""
    pages: int = 1
    expected: tuple[str, ...] = ()
    refused: str = ""
    strict: bool = False
    frames: int = 1
