"""XMP packets: kept as they are, except for what a restored picture makes untrue."""

from __future__ import annotations

import re

#: Namespaces of properties of the picture file as it was, and what they describe.
_STALE_NAMESPACES = {
    b"http://ns.adobe.com/hdr-gain-map/1.0/": "gain map",
    b"http://ns.apple.com/HDRGainMap/1.0/": "gain map",
    b"http://ns.google.com/photos/1.0/container/": "list of further pictures in XMP",
    b"http://ns.google.com/photos/1.0/camera/": "motion photo",
    b"http://ns.google.com/photos/1.0/depthmap/": "depth map",
    b"http://ns.google.com/photos/1.0/image/": "second picture in XMP",
    b"http://ns.adobe.com/xmp/note/": "extended XMP",
}

_BASIC = b"http://ns.adobe.com/xap/1.0/"
_TIFF = b"http://ns.adobe.com/tiff/1.0/"
_EXIF = b"http://ns.adobe.com/exif/1.0/"


def updated(packet: bytes, height: int, width: int, turned: bool) -> tuple[bytes | None, list[str]]:
    """Return an XMP packet for a restored picture.

    Parameters
    ----------
    packet
        The packet.
    height, width
        Size of the restored picture.
    turned
        True when an orientation was applied to its pixels.

    Returns
    -------
    bytes, or None
        The packet without thumbnails and references to other parts of the file; None when it is not UTF-8.
    list[str]
        Names of what was removed.
    """
    if b"\0" in packet.rstrip(b"\0"):
        return None, ["XMP (not UTF-8)"]
    removed = []
    for name, title in _STALE_NAMESPACES.items():
        for prefix in _prefixes(packet, name):
            shorter = _without(packet, prefix, rb"[\w.-]+")
            if shorter != packet:
                removed.append(title)
                packet = shorter
    for prefix in _prefixes(packet, _BASIC):
        shorter = _without(packet, prefix, b"Thumbnails")
        if shorter != packet:
            removed.append("XMP thumbnail")
            packet = shorter
    for prefix in _prefixes(packet, _TIFF):
        packet = _with(packet, prefix, b"Orientation", 1) if turned else packet
        packet = _with(_with(packet, prefix, b"ImageWidth", width), prefix, b"ImageLength", height)
    for prefix in _prefixes(packet, _EXIF):
        packet = _with(_with(packet, prefix, b"PixelXDimension", width), prefix, b"PixelYDimension", height)
    return packet, list(dict.fromkeys(removed))


def has_gain_map(packet: bytes) -> bool:
    """Return whether a packet says that the file has a gain map."""
    return any(name in packet for name, title in _STALE_NAMESPACES.items() if title == "gain map")


def _prefixes(packet: bytes, namespace: bytes) -> list[bytes]:
    """Return the prefixes that a packet gives to a namespace, for regular expressions."""
    found = re.findall(rb"xmlns:([\w.-]+)\s*=\s*[\"']" + re.escape(namespace) + rb"[\"']", packet)
    return [re.escape(prefix) for prefix in dict.fromkeys(found)]


def _without(packet: bytes, prefix: bytes, name: bytes) -> bytes:
    """Remove properties: attributes, and elements with all that is in them."""
    packet = re.sub(rb"\s+" + prefix + b":" + name + rb"\s*=\s*(\"[^\"]*\"|'[^']*')", b"", packet)
    packet = re.sub(rb"<(" + prefix + b":" + name + rb")\b[^<>]*(?<!/)>.*?</\1\s*>", b"", packet, flags=re.DOTALL)
    return re.sub(rb"<" + prefix + b":" + name + rb"\b[^<>]*/>", b"", packet)


def _with(packet: bytes, prefix: bytes, name: bytes, value: int) -> bytes:
    """Set a number where a property has one."""
    number = str(value).encode()
    packet = re.sub(
        rb"(\s" + prefix + b":" + name + rb"\s*=\s*)([\"'])[^\"']*\2", rb"\g<1>\g<2>" + number + rb"\g<2>", packet
    )
    return re.sub(rb"(<" + prefix + b":" + name + rb"\b[^<>]*(?<!/)>)[^<]*(</)", rb"\g<1>" + number + rb"\g<2>", packet)
