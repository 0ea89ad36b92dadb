"""The images that a half-precision file is measured on: the user's, else a generated one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..manifest import Manifest
from ..runtime.padding import round_up
from ..runtime.sample import test_inputs
from ..runtime.scene import Windows, scene
from ..runtime.session import Inputs

#: Side of what is cut out of the middle of an image, in pixels, rounded up to the size rule.
SIDE = 192


@dataclass(frozen=True)
class CalibrationPicture:
    """One image as the network takes it.

    Attributes
    ----------
    name
        The file's name, without its folder.
    inputs
        The image, then the manifest's extra inputs: what a session takes but k.
    """

    name: str
    inputs: Inputs


def calibration_pictures(manifest: Manifest, folder: Path | None) -> list[CalibrationPicture]:
    """Read the images in a folder, a piece from the middle of each; without a folder, generate a picture.

    Raises
    ------
    InputError
        The folder is none, holds no image, or one that the network does not take.
    """
    m = manifest.size_multiple
    height, width = (round_up(SIDE, m),) * 2 if manifest.shape is None else manifest.shape[1:]
    if folder is None:
        batch = manifest.shape[0] if manifest.shape is not None else 1
        return [CalibrationPicture("generated picture", test_inputs(manifest, (batch, height, width)))]
    from ..runtime import images  # libvips is needed for files only

    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in images.FORMATS)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}; give one with images") from error
    if not files:
        raise InputError(f"{folder} holds no image ({', '.join(images.FORMATS)}); give a folder with some")
    return [CalibrationPicture(file.name, _middle(file, manifest, height, width)) for file in files]


def _middle(file: Path, manifest: Manifest, height: int, width: int) -> Inputs:
    from ..runtime import images

    try:
        given = scene(manifest, images.read(file).pixels)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    top, left = max(0, (given.height - height) // 2), max(0, (given.width - width) // 2)
    cut = Windows(given, max(given.height, height), max(given.width, width))(top, left, height, width)
    return tuple(_batched(values, manifest) for values in cut)


def _batched(planes: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """As many as a file of one shape takes."""
    if manifest.shape is not None:
        planes = np.resize(planes, (manifest.shape[0], *planes.shape[1:]))
    return np.ascontiguousarray(planes, dtype=np.float32)
