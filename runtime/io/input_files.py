"""Files to read, pictures or spectral cubes: how they are named, checked by header, and decoded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...files import STORE_SUFFIX, is_folder, is_regular, is_store, status
from ...manifest import IMAGE_INPUT
from . import cubes, images, slides, zarr_stores
from .cubes import Cube
from .images import Picture, streaming

#: What follows the colon after a TIFF file whose gray pages are bands.
BANDS = "bands"

#: Suffixes of files that can be read.
SUFFIXES = tuple(dict.fromkeys((*images.FORMATS, *images.READ_ONLY, *slides.FORMATS, *cubes.FORMATS, STORE_SUFFIX)))

#: Bits of a picture's samples -> their type.
_PICTURE_TYPES = {8: np.uint8, 16: np.uint16, 32: np.float32, 64: np.float64}


@dataclass(frozen=True)
class InputFile:
    """A file, and which of the arrays or pages in it.

    Attributes
    ----------
    path
        The file.
    variable
        Name of the array, for a file with several; in TIFF the number of the page, or `BANDS` where the pages are
        bands; None where there is no need to choose.
    subfolder
        Where the file was found below a folder that was searched, relative to that folder: ``2024/may``, which its
        result keeps. Empty for a file of that folder itself, and for one that was named.
    """

    path: Path
    variable: str | None = None
    subfolder: Path = Path()

    @classmethod
    def parse(cls, text: str | os.PathLike[str] | InputFile) -> InputFile:
        """Parse ``scene.png``, ``scene.mat:cube`` for an array, ``scan.tif:2`` for a page, or ``scene.tif:bands``."""
        if isinstance(text, InputFile):
            return text
        whole = os.fspath(text)
        file, colon, variable = whole.rpartition(":")
        if colon and Path(file).suffix.lower() in cubes.FORMATS and not os.path.exists(whole):
            return cls(Path(file), variable)
        return cls(Path(whole))

    @property
    def page(self) -> int | None:
        """Which page of a TIFF, from 1; None where none is named."""
        number = self._after_tiff
        return int(number) if number.isascii() and number.isdigit() and int(number) > 0 else None

    @property
    def bands(self) -> bool:
        """True when the pages of a TIFF are named as bands."""
        return self._after_tiff == BANDS

    @property
    def is_slide(self) -> bool:
        """True for a slide that OpenSlide reads, judged by its suffix."""
        return self.path.suffix.lower() in slides.FORMATS

    @property
    def _after_tiff(self) -> str:
        return self.variable or "" if cubes.FORMATS.get(self.path.suffix.lower()) == "TIFF" else ""

    def check_exists(self) -> None:
        """Check that there is a file of this name; a broken link is one, which cannot be read.

        Raises
        ------
        InputError
            There is none, or its folder cannot be read.
        """
        try:
            os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{self.path} does not exist; give an image file or a folder of them") from None
        except OSError as error:
            raise InputError(
                f"cannot read {self.path}: {error.strerror}; give an image file or a folder of them"
            ) from error

    def __str__(self) -> str:
        return str(self.path) if self.variable is None else f"{self.path}:{self.variable}"


@dataclass(frozen=True)
class InputHeader:
    """What a file says about its image before it is decoded.

    Attributes
    ----------
    file
        The file.
    height, width, channels
        Size of the image, without alpha; of a picture, after its EXIF orientation is applied.
    is_cube
        True for a spectral cube, False for a picture.
    expected_channels
        The channels that the model expects, which `read` needs to find the band axis of a cube.
    dtype
        Type of the samples.
    """

    file: InputFile
    height: int
    width: int
    channels: int
    is_cube: bool
    expected_channels: int
    dtype: np.dtype[Any]

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels

    def read(self) -> Picture | Cube:
        """Decode the file; errors are those of the function `read`."""
        return _decoded(self.file, self.is_cube, self.expected_channels)

    def read_streaming(self, folder: Path, files: contextlib.ExitStack, name: str | None = None) -> Picture:
        """Decode a picture into scratch files; errors are those of the function `read`, or the disk is full.

        Parameters
        ----------
        folder
            Folder for the scratch files.
        files
            Closes them.
        name
            Name of the file with the pixels, which then stays; None for an unnamed one.
        """
        if is_store(self.file.path):
            return zarr_stores.read_streaming(self.file.path, folder, files, self.expected_channels, name)
        if self.file.is_slide:
            return slides.read_streaming(self.file.path, folder, files, name)
        return streaming.read(self.file.path, folder, files, self.expected_channels, _page(self.file), name)


def read_headers(
    image: InputFile, inputs: Mapping[str, InputFile], channels: Mapping[str, int]
) -> dict[str, InputHeader]:
    """Read the headers of an image and of the model's other inputs.

    Parameters
    ----------
    image
        The image.
    inputs
        The other inputs by name: a file, or a folder that holds a file with the image's name.
    channels
        Numbers of channels expected of ``"image"`` and of the other inputs.

    Raises
    ------
    InputError
        As `matching_inputs` and `read_header`.
    """
    files = {IMAGE_INPUT: image, **matching_inputs(image, inputs)}
    return {name: read_header(file, channels[name]) for name, file in files.items()}


def read_header(file: InputFile, channels: int) -> InputHeader:
    """Read the size of an image without decoding it.

    Parameters
    ----------
    file
        The file.
    channels
        Number of channels expected. In a cube it tells whether the bands are the first or the last axis.

    Raises
    ------
    InputError
        The file is missing, damaged or of another kind.
    """
    if is_store(file.path):
        height, width, count, dtype = zarr_stores.read_header(file.path, channels)
        return InputHeader(file, height, width, count, False, channels, dtype)
    if file.is_slide:
        height, width, count, dtype = slides.read_header(file.path)
        return InputHeader(file, height, width, count, False, channels, dtype)
    if _is_cube(file, channels):
        cube = cubes.read_header(file.path, None if file.bands else file.variable, channels)
        return InputHeader(file, cube.height, cube.width, cube.bands, True, channels, cube.dtype)
    picture = images.read_header(file.path, channels, _page(file))
    dtype = np.dtype(_PICTURE_TYPES[picture.bits])
    return InputHeader(file, picture.height, picture.width, picture.channels, False, channels, dtype)


def read(file: InputFile, channels: int) -> Picture | Cube:
    """Decode a file; parameters as for `read_header`.

    Raises
    ------
    InputError
        The file is missing, damaged or of another kind, or a cube holds NaN or infinity.
    """
    return _decoded(file, _is_cube(file, channels), channels)


def _is_cube(file: InputFile, channels: int) -> bool:
    suffix = file.path.suffix.lower()
    if is_store(file.path):
        return False
    if status(file.path) is not None and not (is_regular(file.path) or is_folder(file.path)):
        raise InputError(f"{file.path} is a device or a pipe; write the image into a file first")
    if suffix not in images.FORMATS and suffix in cubes.FORMATS:
        return True
    # Only a TIFF must be opened to tell.
    return suffix in cubes.FORMATS and file.page is None and cubes.is_cube(file.path, None if file.bands else channels)


def _decoded(file: InputFile, is_cube: bool, channels: int) -> Picture | Cube:
    if is_store(file.path):
        return zarr_stores.read(file.path, channels)
    if file.is_slide:
        return slides.read(file.path)
    if is_cube:
        return cubes.read(file.path, None if file.bands else file.variable, channels)
    return images.read(file.path, channels, _page(file))


def _page(file: InputFile) -> int:
    """Return which page of a picture is read, from 1.

    Raises
    ------
    InputError
        The name after the colon names no page.
    """
    if file.bands:
        raise InputError(
            f"{file} names bands, and its pages are not gray pages of one size; give {file.path} alone, or "
            f"{file.path}:2 for its second page"
        )
    if file.variable is not None and file.page is None:
        raise InputError(
            f"{file} names no page of a picture; give {file.path} alone, {file.path}:2 for its second page, or "
            f"{file.path}:{BANDS} for gray pages that are bands"
        )
    return file.page or 1


def is_image_folder(path: Path) -> bool:
    """Return whether a path is a folder of images; a Zarr store is a folder, too, but one image."""
    return os.path.isdir(path) and not is_store(path)


def matching_inputs(image: InputFile, inputs: Mapping[str, InputFile]) -> dict[str, InputFile]:
    """Return the extra inputs of one image: of a folder that is given, the file with the image's subfolder and name.

    Raises
    ------
    InputError
        A folder holds no such file.
    """
    found = {}
    for name, other in inputs.items():
        folder = is_image_folder(other.path)
        wanted = image.subfolder / image.path.name
        found[name] = InputFile(other.path / wanted) if folder else other
        if folder and not (is_regular(found[name].path) or is_store(found[name].path)):
            raise InputError(
                f"--input {name}: {other.path} holds no {wanted}, which {image.path} needs; "
                "files in it must have the images' names"
            )
    return found
