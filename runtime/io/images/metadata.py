"""Metadata that a restored picture keeps from its source."""

from __future__ import annotations

#: Metadata that is kept: prefix of libvips's field name -> the name that users know.
_TITLES = {
    "icc-profile-data": "ICC profile",
    "exif-": "EXIF",
    "xmp-data": "XMP",
    "iptc-data": "IPTC",
    "png-comment-": "PNG comments",
    "resolution-unit": "resolution",
}


def metadata_title(name: str) -> str | None:
    """Return the users' name of a metadata field, or None where it is not kept: the orientation is applied instead."""
    if name.endswith("Orientation"):
        return None
    return next((title for start, title in _TITLES.items() if name.startswith(start)), None)
