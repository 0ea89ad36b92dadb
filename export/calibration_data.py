"""The calibration images: the user's, or a generated one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import is_folder
from ..instrumentation.synthetic import synthetic_inputs
from ..manifest import IMAGE_INPUT, Manifest
from ..runtime.backends.base import Inputs
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import TileReader, check_names, expected_channels, make_request

if TYPE_CHECKING:
    from ..runtime.io.input_files import InputFile

#: Side in pixels of the images on which half precision is measured.
SIDE = 192


@dataclass(frozen=True)
class CalibrationImage:
    """One image as tensors for the network.

    Attributes
    ----------
    name
        The file name, without its folder.
    inputs
        The image, then the manifest's extra inputs: everything that a session takes except k.
    """

    name: str
    inputs: Inputs


def calibration_images(
    manifest: Manifest,
    folder: Path | None,
    beside: Mapping[str, Path] | None = None,
    side: int = SIDE,
    most: int | None = None,
) -> list[CalibrationImage]:
    """Read a crop from the centre of each image in a folder; without a folder, generate one image.

    Parameters
    ----------
    manifest
        Manifest of the network: channels, size multiple, extra inputs, or its fixed shape.
    folder
        Folder of images, spectral cubes or measurements; None for a generated image.
    beside
        Extra inputs by name: for each a folder with files of the images' names, or one file for all images.
    side
        Side of the crop in pixels, rounded up to the size multiple; a fixed shape takes precedence.
    most
        Read at most this many images; None for all.

    Returns
    -------
    list of CalibrationImage
        float32 tensors [B, C, H, W], B = 1 or the file's fixed batch.

    Raises
    ------
    InputError
        The path is not a folder, the folder holds no image or one that the network does not accept, or an extra input
        is missing.
    """
    m = manifest.size_multiple
    height, width = (round_up(side, m),) * 2 if manifest.shape is None else manifest.shape[1:]
    if folder is None:
        batch = manifest.shape[0] if manifest.shape is not None else 1
        return [CalibrationImage("generated picture", synthetic_inputs(manifest, (batch, height, width)))]
    from ..runtime.io.image_folders import read_folder  # libvips is needed for files only
    from ..runtime.io.input_files import InputFile, matching_inputs

    if not is_folder(folder):
        raise InputError(f"{folder} is not a folder; give a folder with images")
    others = {name: InputFile.parse(path) for name, path in (beside or {}).items()}
    check_names(manifest, others)
    found = []
    for image in read_folder(folder, {other.path.resolve() for other in others.values()}).images[:most]:
        planes = _crop({IMAGE_INPUT: image, **matching_inputs(image, others)}, manifest, height, width)
        found.append(CalibrationImage(image.path.name, planes))
    return found


def _crop(files: Mapping[str, InputFile], manifest: Manifest, height: int, width: int) -> Inputs:
    """Read a centred crop of an image and of its extra inputs; smaller images are padded."""
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
    """Repeat an image for the batch of a file of fixed shape."""
    if manifest.shape is not None:
        planes = np.resize(planes, (manifest.shape[0], *planes.shape[1:]))
    return np.ascontiguousarray(planes, dtype=np.float32)
