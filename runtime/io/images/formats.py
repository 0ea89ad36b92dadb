"""Formats of picture files, and libvips's names for them and for sample types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips

from ....errors import InputError

#: Suffix -> name of the format, for pictures that are read and written.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
}

#: Suffix -> name of the format, for slides of microscopes.
SLIDES = {".svs": "Aperio"}

#: Suffix -> name of the format, for pictures that are only read.
READ_ONLY = {".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIF", **SLIDES}

#: Suffix -> name of the format, for pictures that are not read: libvips does not, or only with ImageMagick.
NOT_READ = {
    ".bmp": "BMP",
    ".jxl": "JPEG XL",
    ".pbm": "PBM",
    ".pgm": "PGM",
    ".pnm": "PNM",
    ".ppm": "PPM",
    ".tga": "TGA",
}

#: What files of further formats start with -> name of the format.
_STARTS = {
    b"BM": "BMP",
    **{b"P%d" % kind + space: "PNM" for kind in range(1, 7) for space in (b"\n", b" ", b"\r", b"\t")},
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
    **{b"\x0a" + bytes((version, 1)): "PCX" for version in (0, 2, 3, 4, 5)},
    b"8BPS": "Photoshop",
    b"DDS ": "DDS",
    b"icns": "ICNS",
    b"\x01\xda": "SGI",
    b"v/1\x01": "OpenEXR",
    b"#?": "Radiance HDR",
    b"SIMPLE  =": "FITS",
    b"\xb6\xa6\xf2\x08": "libvips (.v)",
    b"\x08\xf2\xa6\xb6": "libvips (.v)",
    b"GIF8": "GIF",
    b"%PDF": "PDF",
}

#: Largest side in pixels, where a format has a limit that images reach.
LARGEST_SIDE = {"JPEG": 65500, "WebP": 16383}

#: libvips's loader -> name of the format.
LOADERS = {"pngload": "PNG", "jpegload": "JPEG", "tiffload": "TIFF", "webpload": "WebP", "heifload": "HEIF"}

#: libvips's sample type -> NumPy's.
SAMPLE_TYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32, "double": np.float64}

#: NumPy's sample type -> libvips's.
VIPS_TYPES = {np.dtype(dtype): name for name, dtype in SAMPLE_TYPES.items()}


def format_of(path: Path) -> str:
    """Return the format of a file by its suffix.

    Raises
    ------
    InputError
        The suffix is not in `FORMATS`.
    """
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise InputError(f"{path} names no image format that can be used; choose one of {', '.join(FORMATS)}")
    return name


def check_read(path: Path, start: bytes) -> None:
    """Check that a file that libvips does not read is not of another format, by its first bytes or its suffix.

    Parameters
    ----------
    path
        The file.
    start
        Its first bytes.

    Raises
    ------
    InputError
        It is.
    """
    name = next((format_ for mark, format_ in _STARTS.items() if start.startswith(mark)), None)
    if start[4:12] == b"ftypavis":
        name = "AVIF sequence"
    name = name or NOT_READ.get(path.suffix.lower())
    if name is not None:
        kind = f"{'an' if name[0] in 'AIOS' else 'a'} {name} file"
        raise InputError(f"{path} is {kind}, which keygraph does not read; convert it to PNG, TIFF or WebP")


def missing_codec(image: pyvips.Image) -> str | None:
    """Return the codec of a HEIF file if this libvips cannot decode it, which depends on how it was built."""
    if image.get_typeof("heif-compression") == 0 or image.get("heif-compression") == "av1":
        return None
    try:
        image.crop(0, 0, 1, 1).avg()
    except pyvips.Error:
        return str(image.get("heif-compression")).upper()
    return None


def reason_of(error: pyvips.Error) -> str:
    """Return libvips's error message in one line."""
    lines = [line.strip() for line in str(error.detail or error.message).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))
