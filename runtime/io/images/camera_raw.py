"""Camera raw files, which hold what a sensor measured and a small preview: they are no pictures yet."""

from __future__ import annotations

import contextlib
import struct
from typing import BinaryIO

from .metadata import tiff
from .metadata.ifd import Reader, StructureError
from .metadata.tiff_samples import is_sensor_data

#: Suffixes of camera raw files; a TIFF file of such a name is refused whatever its tags say.
# fmt: off
SUFFIXES = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff",
    ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef",
    ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))
# fmt: on

#: What files of other containers than TIFF start with.
_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")

_MAKE, _SUBIFDS, _DNG_VERSION = 271, 330, 50706
_WIDTH, _HEIGHT = 256, 257


def sensor(file: BinaryIO, suffix: str) -> str | None:
    """Return what is known of the sensor data in a camera raw file, for messages; None for another file.

    Parameters
    ----------
    file
        The file.
    suffix
        What its name ends with.
    """
    file.seek(0)
    start = file.read(32)
    if start.startswith(_STARTS) or start[4:12] == b"ftypcrx ":
        return ""
    if start[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    size = _sensor(file, start[8:10] == b"CR" or suffix.lower() in SUFFIXES)
    if size is None:
        return None
    return f" (sensor data, {size[0]} x {size[1]} pixels)" if size[0] else ""


def _sensor(file: BinaryIO, raw: bool) -> tuple[int, int] | None:
    """Return width and height of the sensor data in a TIFF file; zeros where unknown, None for a picture.

    Parameters
    ----------
    file
        The file.
    raw
        True when its name or start say that it is camera raw.
    """
    size = None
    # What a damaged file says before the damage counts.
    with contextlib.suppress(StructureError, struct.error):
        reader = Reader(file)
        for page in tiff.pages(reader, inner=True):
            directory = page.directory
            here = reader.number(directory, _WIDTH, 0), reader.number(directory, _HEIGHT, 0)
            first = page.number == 0 and page.inner is None
            raw |= first and (
                _DNG_VERSION in directory.fields
                or (page.reduced and _MAKE in directory.fields and _SUBIFDS in directory.fields)
            )
            if is_sensor_data(reader, directory) or (raw and not page.reduced):
                size = max(size or (0, 0), here)
    return (size or (0, 0)) if raw or size is not None else None
