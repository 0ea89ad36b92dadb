"""What an image file or a file of a spectral cube is, from its header."""

from __future__ import annotations

import struct
from pathlib import Path

from ...errors import InputError
from ...manifest_summary import Description
from . import cubes, images


def describe_image(path: Path, page: int = 1) -> Description:
    """Describe an image file; raises `InputError` as `images.read_header` does.

    Parameters
    ----------
    path
        The file.
    page
        Which of its pages, from 1.
    """
    header = images.read_header(path, page=page)
    opened = images.open_file(path, page)
    metadata = opened.contents.metadata
    return {
        "kind": "image",
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": opened.image.get("vips-loader").removesuffix("_source").removesuffix("load").upper(),
        "width": header.width,
        "height": header.height,
        "channels": header.channels,
        "bits": header.bits,
        "alpha": header.alpha,
        "icc profile": None if metadata.icc is None else profile_name(metadata.icc),
        "exif orientation": opened.orientation,
        "pages": opened.pages,
        "metadata": metadata.titles(),
        "not kept": list(opened.contents.dropped),
    }


def describe_cube(path: Path, variable: str | None = None) -> Description:
    """Describe a file of a spectral cube, or of arrays of which one may be a cube.

    Parameters
    ----------
    path
        The file.
    variable
        Which of its arrays; None for the only one that can be a cube.

    Raises
    ------
    InputError
        The file is damaged, holds no array, or has no variable of this name.
    """
    description = {
        "kind": "cube",
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": cubes.FORMATS[path.suffix.lower()],
        "arrays": cubes.describe_arrays(path),
    }
    try:
        header = cubes.read_header(path, variable)
    except InputError as error:
        if variable is not None or not description["arrays"]:
            raise
        return {**description, "not read as a cube": str(error)}
    return {
        **description,
        "variable": header.variable or None,
        "width": header.width,
        "height": header.height,
        "bands": header.bands,
        "type": header.dtype.name,
        "wavelengths": f"{', '.join(f'{value:g}' for value in header.wavelengths)} nm" if header.wavelengths else None,
        "notices": list(header.notices),
    }


def profile_name(profile: bytes) -> str:
    """Return the description stored in an ICC profile: its tag "desc", ASCII in version 2, UTF-16 in version 4.

    libvips does not read it, and Pillow's ImageCms is no dependency of the core.
    """
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        for i in range(min(count, 100)):
            tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * i)
            if tag != b"desc":
                continue
            if profile[offset : offset + 4] == b"mluc":
                length, start = struct.unpack_from(">II", profile, offset + 20)
                return profile[offset + start : offset + start + length].decode("utf-16-be")
            (length,) = struct.unpack_from(">I", profile, offset + 8)
            return profile[offset + 12 : offset + 12 + length].rstrip(b"\0").decode("ascii")
    except (struct.error, UnicodeDecodeError):
        pass
    return f"without a name, {len(profile):,} bytes"
