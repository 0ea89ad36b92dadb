"""Metadata that a restored picture keeps from its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyvips

if TYPE_CHECKING:
    from .picture import Picture

#: Metadata that is kept: prefix of libvips's field name -> the name that users know.
_TITLES = {
    "icc-profile-data": "ICC profile",
    "exif-": "EXIF",
    "xmp-data": "XMP",
    "iptc-data": "IPTC",
    "png-comment-": "PNG comments",
    "resolution-unit": "resolution",
}


def metadata_of(image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """Return the metadata that is kept: libvips's name -> (its type, value)."""
    return {
        name: (image.get_typeof(name), image.get(name))
        for name in image.get_fields()
        if metadata_title(name) is not None
    }


def metadata_title(name: str) -> str | None:
    """Return the users' name of a metadata field, or None where it is not kept: the orientation is applied instead."""
    if name.endswith("Orientation"):
        return None
    return next((title for start, title in _TITLES.items() if name.startswith(start)), None)


def metadata_titles(picture: Picture) -> list[str]:
    """Return the users' names of the metadata that a picture has."""
    return sorted({title for field in picture.metadata if (title := metadata_title(field)) is not None})


def lost_metadata(written: pyvips.Image, picture: Picture, name: str) -> list[str]:
    """Return a line for the metadata that a written file does not hold.

    Parameters
    ----------
    written
        The written file, opened.
    picture
        What was written.
    name
        Name of the format.
    """
    there = {metadata_title(field) for field in written.get_fields()}
    titles = [title for title in metadata_titles(picture) if title not in there]
    return [f"{', '.join(titles)} dropped: not kept in {name}"] if titles else []
