"""Which pages of a TIFF are levels of a pyramid: copies of a half, a quarter ... of the size of another page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .ifd import Directory, Reader

_WIDTH, _HEIGHT, _DESCRIPTION, _TILE_WIDTH = 256, 257, 270, 322

#: Microns to the pixel, in the description that Aperio's scanners write.
_MICRONS = re.compile(rb"\|\s*MPP\s*=\s*([0-9.]+)")

_APERIO = b"Aperio"


def is_tiled(reader: Reader, directory: Directory) -> bool:
    """Return whether the samples of a page are stored in tiles."""
    return reader.number(directory, _TILE_WIDTH, 0) > 0


def levels(reader: Reader, page: Directory, reduced: Sequence[Directory]) -> list[Directory]:
    """Return those of the reduced copies that are levels of the pyramid of a page.

    A pyramid's page is stored in tiles. A level has a half, a quarter, an eighth ... of its height and width, rounded
    up or down; any other copy is a preview.

    Parameters
    ----------
    reader
        The file.
    page
        The page of full size.
    reduced
        The copies of it.
    """
    if not is_tiled(reader, page):
        return []
    return [one for one in reduced if _is_level(_size(reader, page), _size(reader, one))]


def _is_level(whole: tuple[int, int], part: tuple[int, int]) -> bool:
    if 0 in part:
        return False
    factor = round(max(whole) / part[whole.index(max(whole))])
    halves = factor > 1 and factor & (factor - 1) == 0
    return halves and all(abs(a / factor - b) < 1 for a, b in zip(whole, part, strict=True))


def _size(reader: Reader, directory: Directory) -> tuple[int, int]:
    return reader.number(directory, _HEIGHT, 0), reader.number(directory, _WIDTH, 0)


def is_aperio(reader: Reader, directory: Directory) -> bool:
    """Return whether a file is a slide of Aperio's scanners, by its first page.

    Their levels are not marked as reduced, nor is the thumbnail, which is the only page in strips.
    """
    return reader.text(directory, _DESCRIPTION).startswith(_APERIO)


def aperio_resolution(reader: Reader, directory: Directory) -> tuple[float, float] | None:
    """Return pixels per millimetre along x and y from the description of an Aperio slide; None where it has none."""
    found = _MICRONS.search(reader.text(directory, _DESCRIPTION))
    try:
        value = 1000 / float(found[1]) if found else 0.0
    except (ValueError, ZeroDivisionError):
        return None
    return (value, value) if value else None
