"""What the samples of a TIFF page are: sensor data, bands, alpha, and what libvips cannot decode."""

from __future__ import annotations

from .ifd import Directory, Reader

PHOTOMETRIC, EXTRA_SAMPLES = 262, 338

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _FORMAT = 256, 257, 258, 259, 277, 339
_PLANAR, _TILE_WIDTH = 284, 322
#: Photometric interpretations: 0 is white, indices into a palette.
WHITE_IS_ZERO, PALETTE, _YCBCR = 0, 3, 6
_FLOAT = 3
_COMPLEX = (5, 6)

#: Photometric interpretations of L*a*b*: CIE's, ICC's, ITU's.
_LAB = (8, 9, 10)

#: Compressions that hold Y, Cb and Cr as their own matter, so that the decoder returns red, green and blue.
_JPEG = (6, 7, 34892)

#: Photometric interpretation -> number of colours.
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}

#: Photometric interpretations of a camera's sensor: colour filter array, linear raw.
_SENSOR = (32803, 34892)

#: Compressions that not every build of libvips reads, or none does.
_COMPRESSIONS = {
    6: "old-style JPEG",
    34661: "JBIG",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    34926: "ZSTD",
    50000: "ZSTD",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
    34933: "PNG",
    32809: "ThunderScan",
    32766: "NeXT",
    32908: "PixarFilm",
    32909: "Pixar's log",
    34676: "SGI's log",
    34677: "SGI's log",
}


def is_sensor_data(reader: Reader, directory: Directory) -> bool:
    """Return whether a page has the samples of a camera's sensor."""
    return reader.number(directory, PHOTOMETRIC, 1) in _SENSOR


def extra_band(reader: Reader, directory: Directory) -> bool:
    """Return whether there is one sample after the colours that is no alpha: infrared, for instance.

    Its field ExtraSamples is 0, "unspecified", or absent; 1 and 2 are alpha.
    """
    colours = _COLOURS.get(reader.number(directory, PHOTOMETRIC, 1))
    if colours is None or reader.number(directory, _SAMPLES, 1) != colours + 1:
        return False
    return reader.number(directory, EXTRA_SAMPLES, 0) not in (1, 2)


def premultiplied(reader: Reader, directory: Directory) -> bool:
    """Return whether colours are multiplied by alpha; libvips divides it out."""
    return reader.number(directory, EXTRA_SAMPLES, 0) == 1


def white_is_zero_float(reader: Reader, directory: Directory) -> bool:
    """Return whether samples are floats of which 0 is white; libvips inverts whole numbers alone."""
    return reader.number(directory, PHOTOMETRIC, 1) == WHITE_IS_ZERO and reader.number(directory, _FORMAT, 1) == _FLOAT


def holds_jpeg(reader: Reader, directory: Directory) -> bool:
    """Return whether the samples of a page are JPEG streams."""
    return reader.number(directory, _COMPRESSION, 1) in _JPEG


def misread(reader: Reader, directory: Directory) -> str:
    """Return what the samples of a page are, and what to do, where libvips takes them for others; else nothing."""
    kind = reader.number(directory, PHOTOMETRIC, 1)
    if kind == _YCBCR and reader.number(directory, _COMPRESSION, 1) not in _JPEG:
        return "holds luma and chroma (YCbCr without JPEG compression), not colours; convert it to RGB"
    if kind in _LAB:
        return "is in the colour space L*a*b*; convert it to RGB or gray"
    alpha = reader.number(directory, EXTRA_SAMPLES, 0) in (1, 2)
    channels = reader.number(directory, _SAMPLES, 1) - alpha
    if kind == WHITE_IS_ZERO and channels > 1:
        return f"has {channels} channels of which 0 is white (MINISWHITE); convert it to RGB, or gray where 0 is black"
    return ""


def missing(reader: Reader, directory: Directory) -> str:
    """Return why the samples of a page that is not compressed cannot all be in the file; empty where they may be."""
    if reader.number(directory, _COMPRESSION, 1) != 1 or reader.number(directory, PHOTOMETRIC, 1) == _YCBCR:
        return ""
    pixels = reader.number(directory, _WIDTH, 0) * reader.number(directory, _HEIGHT, 0)
    bits = reader.number(directory, _BITS, 1) * reader.number(directory, _SAMPLES, 1)
    if pixels * bits <= 8 * reader.size:
        return ""
    return f"its samples need {pixels * bits // 8:,} bytes, and the file has {reader.size:,}"


def unsupported(reader: Reader, directory: Directory) -> str:
    """Return what libvips may be unable to decode in a page, and what to do; empty for usual pages."""
    depths = reader.numbers(directory, _BITS)
    if reader.number(directory, _FORMAT, 1) in _COMPLEX:
        return "has complex numbers for samples, which cannot be read; convert them to 32-bit floats"
    if any(bits > 32 for bits in depths):
        kind = "floats" if reader.number(directory, _FORMAT, 1) == _FLOAT else "whole numbers"
        return f"has samples of 64 bits ({kind}), which cannot be read; convert them to 32-bit floats"
    several = reader.number(directory, _SAMPLES, 1) > 1
    for bits in depths:
        if bits not in (8, 16, 32) and (several or bits not in (1, 2, 4)):
            which = f"several {bits}-bit samples a pixel" if several else f"{bits}-bit samples"
            return f"has {which}, which the imaging library (libvips) cannot read; convert it to 8 or 16 bits"
    if several and reader.number(directory, _PLANAR, 1) == 2 and _TILE_WIDTH in directory.fields:
        return "has separate tiles for every channel, which cannot be read; store the channels of a pixel together"
    compression = reader.number(directory, _COMPRESSION, 1)
    name = _COMPRESSIONS.get(compression)
    if name is not None:
        return f"is compressed with {name}, which the imaging library (libvips) cannot read here; store it with deflate"
    return ""
