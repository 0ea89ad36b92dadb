"""What a file to restore holds, or one that goes with it: a picture or a spectral cube."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..manifest import IMAGE_INPUT, Manifest
from . import cubes, images
from .cubes import Cube
from .images import Picture
from .scene import Size


@dataclass(frozen=True)
class Source:
    """A file, and which of the arrays in it.

    Attributes
    ----------
    path
        The file.
    variable
        The name of an array in a file of several; None where there is no need to choose.
    """

    path: Path
    variable: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.variable is None else f"{self.path}:{self.variable}"


#: Suffixes of files that can be read.
SUFFIXES = tuple(dict.fromkeys((*images.FORMATS, *cubes.FORMATS)))


def source(given: str | os.PathLike[str] | Source) -> Source:
    """Read ``scene.png``, or ``scene.mat:cube`` for an array in a file of several."""
    return given if isinstance(given, Source) else Source(*cubes.split_variable(given))


def read_size(given: Source, channels: int) -> Size:
    """Read what a file says of its size, without decoding it.

    Parameters
    ----------
    given
        The file.
    channels
        How many are expected, which tells bands first from bands last in a cube.

    Raises
    ------
    InputError
        The file is missing, damaged or of another kind.
    """
    if cubes.is_cube(given.path):
        cube = cubes.read_header(given.path, given.variable, channels)
        return cube.height, cube.width, cube.bands
    header = images.read_header(given.path)
    return header.height, header.width, header.channels


def read(given: Source, channels: int) -> Picture | Cube:
    """Read a file; parameters and errors are those of `read_size`, and a cube's samples must be finite."""
    if cubes.is_cube(given.path):
        return cubes.read(given.path, given.variable, channels)
    return images.read(given.path)


def channels(manifest: Manifest, name: str) -> int:
    """How many channels a model expects of the image, or of what goes with it."""
    extras = {extra.name: extra.channels for extra in manifest.extra_inputs}
    of_each_view = manifest.in_channels // (len(manifest.views) or 1)
    return of_each_view if name == IMAGE_INPUT else extras.get(name, of_each_view)
