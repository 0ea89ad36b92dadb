"""The images that a half-precision file is measured on: the user's, else a generated one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..manifest import Manifest
from ..runtime.padding import reflected, round_up
from ..runtime.restorer import check_image, to_model
from ..runtime.sample import test_inputs
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
    return [
        CalibrationPicture(file.name, (_batched(_middle(file, manifest, height, width), manifest),)) for file in files
    ]


def _middle(file: Path, manifest: Manifest, height: int, width: int) -> NDArray[np.float32]:
    from ..runtime import images

    pixels = images.read(file).pixels
    try:
        channels = check_image(manifest, pixels)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    top, left = (max(0, (have - want) // 2) for have, want in zip(pixels.shape[:2], (height, width), strict=True))
    cut = pixels[top : top + height, left : left + width]
    rows = reflected(cut.shape[0], height)
    columns = reflected(cut.shape[1], width)
    return _batched(channels.split(to_model(cut[rows[:, None], columns], manifest)), manifest)


def _batched(planes: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """As many as a file of one shape takes."""
    if manifest.shape is not None:
        planes = np.resize(planes, (manifest.shape[0], *planes.shape[1:]))
    return np.ascontiguousarray(planes, dtype=np.float32)
