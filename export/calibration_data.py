"""The images that a file is measured on: the user's, else a generated one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..instrumentation.synthetic import test_inputs
from ..manifest import IMAGE_INPUT, Manifest
from ..runtime.backends.base import Inputs
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import TileReader, check_names, expected_channels, make_request

if TYPE_CHECKING:
    from ..runtime.io.input_files import InputFile

#: Side of what half precision is measured on.
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


def calibration_pictures(
    manifest: Manifest,
    folder: Path | None,
    beside: Mapping[str, Path] | None = None,
    side: int = SIDE,
    most: int | None = None,
) -> list[CalibrationPicture]:
    """Read the images in a folder, a piece from the middle of each; without a folder, generate a picture.

    Parameters
    ----------
    manifest
        Says what the network takes.
    folder
        Pictures, or cubes and measurements.
    beside
        What goes with them, by name: folders with files of the same names, or one file for all.
    side
        Of what is cut out of the middle of each, in pixels, rounded up to the size rule.
    most
        Only so many of the images; None for all.

    Raises
    ------
    InputError
        The folder is none, holds no image, or one that the network does not take; something beside it is missing.
    """
    m = manifest.size_multiple
    height, width = (round_up(side, m),) * 2 if manifest.shape is None else manifest.shape[1:]
    if folder is None:
        batch = manifest.shape[0] if manifest.shape is not None else 1
        return [CalibrationPicture("generated picture", test_inputs(manifest, (batch, height, width)))]
    from ..runtime.io.input_files import (  # libvips is needed for files only
        InputFile,
        images_in_folder,
        matching_inputs,
    )

    if not folder.is_dir():
        raise InputError(f"cannot read the folder {folder}: it is none; give one with images")
    others = {name: InputFile.parse(path) for name, path in (beside or {}).items()}
    check_names(manifest, others)
    found = []
    for path in images_in_folder(folder, {other.path.resolve() for other in others.values()})[:most]:
        image = InputFile(path)
        planes = _middle({IMAGE_INPUT: image, **matching_inputs(image, others)}, manifest, height, width)
        found.append(CalibrationPicture(path.name, planes))
    return found


def _middle(files: Mapping[str, InputFile], manifest: Manifest, height: int, width: int) -> Inputs:
    from ..runtime.io.input_files import read

    samples = {name: read(file, expected_channels(manifest, name)).pixels for name, file in files.items()}
    try:
        whole = make_request(manifest, samples.pop(IMAGE_INPUT), samples)
    except InputError as error:
        raise InputError(f"{files[IMAGE_INPUT]}: {error}") from None
    top, left = max(0, (whole.height - height) // 2), max(0, (whole.width - width) // 2)
    cut = TileReader(whole, max(whole.height, height), max(whole.width, width))(top, left, height, width)
    return tuple(_batched(values, manifest) for values in cut)


def _batched(planes: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """As many as a file of one shape takes."""
    if manifest.shape is not None:
        planes = np.resize(planes, (manifest.shape[0], *planes.shape[1:]))
    return np.ascontiguousarray(planes, dtype=np.float32)
