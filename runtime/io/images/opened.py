"""A picture that is opened and not decoded yet: which page it is, and what the file holds beside the samples."""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyvips

from ....errors import InputError
from .formats import SAMPLE_TYPES
from .metadata import exif, iptc, jpeg, png, tiff, webp
from .metadata.fields import Contents
from .metadata.ifd import StructureError

#: Fields of libvips with metadata that is kept.
_KEPT = ("icc-profile-data", "exif-data", "xmp-data", "iptc-data")

#: What an ICC profile calls the colours that it is for -> what they are called here.
_PROFILES = {b"GRAY": "gray", b"RGB ": "RGB", b"CMYK": "CMYK", b"Lab ": "L*a*b*"}

#: Errors that reading a damaged container raises.
DAMAGE = (StructureError, struct.error, IndexError, OverflowError)


@dataclass(frozen=True)
class Opened:
    """A picture that is not decoded yet.

    Attributes
    ----------
    path
        The file.
    image
        Its samples.
    contents
        What the file holds beside them.
    """

    path: Path
    image: pyvips.Image
    contents: Contents

    @property
    def orientation(self) -> int:
        """EXIF orientation: 1 upright, 3 upside down; from 5 on, rows become columns."""
        return int(field_of(self.image, "orientation", 1))

    @property
    def pages(self) -> int:
        """Number of pages or frames."""
        of_libvips = int(field_of(self.image, "n-pages", 1))
        return self.contents.pages if "tiff" in self.image.get("vips-loader") else of_libvips

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width after the orientation is applied."""
        height, width = self.image.height, self.image.width
        return (width, height) if self.orientation >= 5 else (height, width)

    def channels(self, wanted: int | None) -> tuple[int, bool]:
        """Return the number of channels and whether one more plane follows: alpha, or a band of unknown meaning.

        Parameters
        ----------
        wanted
            Number of channels that the model takes; a band of unknown meaning is a channel where they then match.

        Raises
        ------
        InputError
            The sample type or the colour space is not supported.
        """
        image = self.image
        if image.format not in SAMPLE_TYPES:
            raise InputError(
                f"{self.path} holds samples of type {image.format}; convert it to 8 or 16 bits without sign, or to "
                "floats from 0 to 1"
            )
        if image.interpretation not in ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "cmyk", "multiband"):
            raise InputError(f"{self.path} is in the colour space {image.interpretation}; convert it to RGB or gray")
        if image.interpretation == "cmyk":
            return 3, bool(image.bands > 4)
        colours = 1 if image.interpretation in ("b-w", "grey16") else 3
        plane = image.interpretation != "multiband" and image.bands == colours + 1
        if plane and self.contents.extra_band and wanted == image.bands:
            plane = False
        return image.bands - plane, plane


def read_contents(file: BinaryIO, loader: str, page: int) -> Contents:
    """Return what a file holds beside its samples, as far as its container is known.

    Parameters
    ----------
    file
        The file, from its start.
    loader
        Name of libvips's loader for it.
    page
        Which of its pages, from 1.
    """
    try:
        if loader == "tiffload":
            return tiff.read(file, page)
        readers = {"pngload": png.read, "jpegload": jpeg.read, "webpload": webp.read}
        return readers[loader](file) if loader in readers else Contents()
    except DAMAGE as error:
        if loader == "tiffload":
            # What its samples mean is in the same structure.
            return Contents(missing=str(error) if isinstance(error, StructureError) else "its structure")
        # If samples are lost, too, libvips will say so.
        return Contents(notices=("metadata dropped: the structure of the file is damaged",))


def field_of(image: pyvips.Image, name: str, default: Any = None) -> Any:
    """Return a field of libvips.

    A list of all names fails where PNG has a text under a name in Latin-1.

    Parameters
    ----------
    image
        The opened file.
    name
        Name of the field.
    default
        What is returned where it is absent.
    """
    return image.get(name) if image.get_typeof(name) else default


def with_orientation(image: pyvips.Image, contents: Contents) -> pyvips.Image:
    """Return the image with the orientation of EXIF that libvips did not read.

    Parameters
    ----------
    image
        The opened file.
    contents
        What `read_contents` returned.
    """
    block = contents.metadata.exif
    if block is None or image.get_typeof("exif-data") or image.get_typeof("orientation"):
        return image
    image = image.copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", exif.orientation(block))
    return image


def with_fields(image: pyvips.Image, contents: Contents) -> Contents:
    """Return the contents with the metadata that libvips reads from every container.

    Parameters
    ----------
    image
        The opened file.
    contents
        What `read_contents` returned.
    """
    values = {name: field_of(image, name) for name in _KEPT}
    block, records = values["exif-data"], values["iptc-data"]
    block = contents.metadata.exif if block is None else exif.without_mark(block)
    metadata = dataclasses.replace(
        contents.metadata,
        icc=values["icc-profile-data"],
        exif=block,
        resolution=contents.metadata.resolution or (None if block is None else exif.resolution(block)),
        xmp=contents.metadata.xmp if values["xmp-data"] is None else values["xmp-data"],
        iptc=None if records is None else iptc.unwrapped(records)[0],
    )
    notices, others = contents.notices, tuple[str, ...]()
    if contents == Contents():
        # A container that is not known here. Thumbnails of EXIF are taken out of it.
        known = {*_KEPT, "jpeg-thumbnail-data"}
        names = sorted(name for name in set(image.get_fields()) - known if name.endswith("-data"))
        others = tuple(name.removesuffix("-data") for name in names)
        pictures = field_of(image, "n-pages", 1)
        notices = (f"only one of {pictures} pictures",) if pictures > 1 else ()
    lost = tuple(
        f"{title} (damaged, or for other colours)" if title == "ICC profile" else f"{title} (unreadable)"
        for title in contents.expected
        if title not in metadata.titles()
    )
    if metadata.icc is not None and (fault := _profile_fault(image, metadata.icc)):
        metadata = metadata.without("ICC profile")
        lost += (f"ICC profile ({fault})",)
    return dataclasses.replace(contents, metadata=metadata, dropped=contents.dropped + others + lost, notices=notices)


def _profile_fault(image: pyvips.Image, profile: bytes) -> str:
    """Return why a profile does not fit a picture; empty where it does. libvips leaves such ones out in silence."""
    space = {"b-w": "b-w", "grey16": "b-w", "cmyk": "cmyk", "multiband": "multiband"}.get(image.interpretation, "srgb")
    blank = pyvips.Image.black(1, 1, bands=image.bands).copy(interpretation=space)
    blank.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    stored = pyvips.Image.new_from_buffer(blank.tiffsave_buffer(keep="icc"), "")
    if stored.get_typeof("icc-profile-data"):
        return ""
    kind = _PROFILES.get(profile[16:20]) if profile[36:40] == b"acsp" else None
    of_picture = {"b-w": "gray", "cmyk": "CMYK"}.get(space, "RGB")
    return "damaged" if kind in (None, of_picture) else f"it is for {kind}, and the picture is {of_picture}"
