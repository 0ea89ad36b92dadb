"""What a file to restore holds, or one that goes with it: a picture or a spectral cube."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...manifest import IMAGE_INPUT, Manifest
from ..preprocess.request import Size
from . import cubes, images
from .cubes import Cube
from .images import Picture


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


def in_folder(folder: Path, others: Collection[Path] = ()) -> list[Path]:
    """The pictures in a folder, or the cubes where it holds no picture, by name and without `others`.

    Raises
    ------
    InputError
        There is none.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.resolve() not in others)
    for suffixes in (images.FORMATS, cubes.FORMATS):
        found = [path for path in files if path.suffix.lower() in suffixes]
        if found:
            return found
    raise InputError(f"{folder} holds no image; it takes {', '.join(SUFFIXES)}")


def inputs_of(image: Source, beside: Mapping[str, Source]) -> dict[str, Source]:
    """What goes with one image: of folders, the file with the image's name; raises `InputError` where there is none."""
    found = {}
    for name, other in beside.items():
        found[name] = Source(other.path / image.path.name) if other.path.is_dir() else other
        if not found[name].path.is_file():
            raise InputError(
                f"--input {name}: {other.path} holds no {image.path.name}, which {image.path} needs; "
                "files in it must be called as the images are"
            )
    return found
