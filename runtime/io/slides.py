"""Whole slides of microscopes in the formats that OpenSlide reads, at full size and region by region."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingDependencyError
from ...installation import install_line
from ...manifest_summary import Description
from .images import Metadata, Picture
from .scratch_file import ScratchFile

#: Suffix -> who makes such slides. Aperio's ``.svs`` is a TIFF that is read as one, see `images`.
FORMATS = {
    ".bif": "Ventana",
    ".mrxs": "MIRAX",
    ".ndpi": "Hamamatsu",
    ".scn": "Leica",
    ".svslide": "Sakura",
    ".vms": "Hamamatsu",
    ".vmu": "Hamamatsu",
}

#: Side of the regions in pixels that are decoded at a time.
_SIDE = 1024

#: Channels of a slide.
_RGB = 3


def read_header(path: Path) -> tuple[int, int, int, np.dtype[Any]]:
    """Return height, width, channels and type of a slide; errors are those of `read_streaming`."""
    with _opened(path) as slide:
        width, height = slide.dimensions
        return height, width, _RGB, np.dtype(np.uint8)


def read(path: Path) -> Picture:
    """Read a slide into memory; errors are those of `read_streaming`."""
    with _opened(path) as slide:
        width, height = slide.dimensions
        pixels = np.empty((height, width, _RGB), np.uint8)
        for top, left, values in _regions(slide):
            pixels[top : top + values.shape[0], left : left + values.shape[1]] = values
        return _picture(slide, pixels)


def read_streaming(path: Path, folder: Path, files: contextlib.ExitStack, name: str | None = None) -> Picture:
    """Read a slide into a scratch file.

    Parameters
    ----------
    path
        The slide.
    folder
        Folder for the scratch file.
    files
        Closes the scratch file.
    name
        As for `ScratchFile`.

    Returns
    -------
    Picture
        Its pixels are a `ScratchFile`, [H, W, 3].

    Raises
    ------
    InputError
        The slide is missing or damaged, or of a format that OpenSlide does not read; or the disk is full.
    MissingDependencyError
        OpenSlide is not installed.
    """
    with _opened(path) as slide:
        width, height = slide.dimensions
        pixels = ScratchFile(folder, height, width, _RGB, np.dtype(np.uint8), name)
        files.callback(pixels.close)
        for top, left, values in _regions(slide):
            pixels.write(top, left, values)
        return _picture(slide, cast(Any, pixels))


def describe(path: Path) -> Description:
    """Describe a slide; errors are those of `read_streaming`."""
    with _opened(path) as slide:
        width, height = slide.dimensions
        resolution = _resolution(slide)
        size = (
            None if resolution is None else f"{1000 / resolution[0]:g} um along x, {1000 / resolution[1]:g} um along y"
        )
        return {
            "kind": "image",
            "file": str(path),
            "bytes": path.stat().st_size,
            "format": f"slide ({slide.properties.get('openslide.vendor', 'unknown')})",
            "width": width,
            "height": height,
            "channels": _RGB,
            "type": "uint8",
            "levels": [f"{across} x {down}" for across, down in slide.level_dimensions],
            "pixel size": size,
            "not kept": _dropped(slide),
        }


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        openslide: Any = importlib.import_module("openslide")
    except (ModuleNotFoundError, OSError) as error:  # OSError: without the library itself.
        raise MissingDependencyError(
            f"{path} is a slide that OpenSlide reads, which the imaging library (libvips) is built without here; "
            f"install it with: {install_line('slides')}; or convert it to a pyramidal TIFF"
        ) from error
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; give an image file or a folder of them")
    try:
        with openslide.OpenSlide(path) as slide:
            yield slide
    except openslide.OpenSlideError as error:
        raise InputError(
            f"{path} is damaged, or no slide that OpenSlide reads ({error}); give a whole slide, with its other files"
        ) from error


def _regions(slide: Any) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Yield top, left and samples of the regions of the largest level; where nothing was scanned is background."""
    width, height = slide.dimensions
    background = np.frombuffer(bytes.fromhex(slide.properties.get("openslide.background-color", "FFFFFF")), np.uint8)
    for top in range(0, height, _SIDE):
        for left in range(0, width, _SIDE):
            size = min(_SIDE, width - left), min(_SIDE, height - top)
            samples = np.asarray(slide.read_region((left, top), 0, size))
            yield top, left, np.where(samples[:, :, 3:] == 0, background, samples[:, :, :3])


def _resolution(slide: Any) -> tuple[float, float] | None:
    """Return pixels per millimetre along x and y; None where the slide does not say."""
    try:
        x, y = (1000 / float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return x, y


def _dropped(slide: Any) -> list[str]:
    return [f"{name} image" for name in slide.associated_images] + ["properties of the slide"]


def _picture(slide: Any, pixels: Any) -> Picture:
    layout: Any = "pyramid" if slide.level_count > 1 else "tiles"
    metadata = Metadata(resolution=_resolution(slide), layout=layout, measured=True)
    icc = getattr(slide, "color_profile", None)
    if icc is not None:
        metadata = Metadata(icc=icc.tobytes(), resolution=metadata.resolution, layout=layout, measured=True)
    return Picture(pixels, metadata=metadata, notices=(f"dropped: {', '.join(_dropped(slide))}",))
