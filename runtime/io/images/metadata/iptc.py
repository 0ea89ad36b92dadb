"""IPTC-IIM records, which JPEG wraps in Photoshop's image resources."""

from __future__ import annotations

import struct

_MARK = b"Photoshop 3.0\0"
_IPTC = 0x0404

#: Resources that follow from the picture or from other metadata, and are not named when they are dropped.
_DERIVED = {0x03ED, 0x0425}  # Resolution, digest of the IPTC records.


def unwrapped(data: bytes) -> tuple[bytes | None, bool]:
    """Return the IPTC records of a segment or a tag, and whether it holds other resources of Photoshop."""
    if not data.startswith(_MARK):
        return (data.rstrip(b"\0") or None) if data[:1] == b"\x1c" else None, data[:1] != b"\x1c"
    place, records, others = len(_MARK), None, False
    while data[place : place + 4] == b"8BIM" and place + 12 <= len(data):
        (kind,) = struct.unpack_from(">H", data, place + 4)
        name = data[place + 6] + 1
        place += 6 + name + name % 2
        if place + 4 > len(data):
            break
        (size,) = struct.unpack_from(">I", data, place)
        if kind == _IPTC:
            records = data[place + 4 : place + 4 + size]
        elif kind not in _DERIVED:
            others = True
        place += 4 + size + size % 2
    return records, others


def wrapped(records: bytes) -> bytes:
    """Return IPTC records as the content of a JPEG's APP13 segment."""
    return _MARK + b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(records)) + records + bytes(len(records) % 2)
