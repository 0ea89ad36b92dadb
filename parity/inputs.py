"""Inputs of a comparison: images read and checked against the models, and their clean counterparts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..instrumentation.synthetic import synthetic_scene
from ..manifest import IMAGE_INPUT, Manifest
from ..runtime.io import input_files
from ..runtime.preprocess.normalization import fractions, white_level
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import Request, check_names, expected_channels, make_request
from .disk_arrays import on_disk

#: Smallest side of the generated picture in pixels, rounded up to the size multiple.
GENERATED = 96


@dataclass(frozen=True)
class Sample:
    """One image with everything that belongs to it.

    Attributes
    ----------
    name
        For messages and reports.
    arrays
        ``"image"``, as `Restorer.restore` takes it, and the model's extra inputs, by name.
    clean
        The image that the model should restore, in the scale of an image file; None where unknown.
    """

    name: str
    arrays: Mapping[str, NDArray[Any]]
    clean: NDArray[Any] | None = None


#: A file, or an array as `Restorer.restore` takes it.
FileOrArray = str | os.PathLike[str] | input_files.InputFile | NDArray[Any]

#: An image, alone or with the model's extra inputs.
InputLike = FileOrArray | Mapping[str, FileOrArray] | Sample


@dataclass(frozen=True)
class Input:
    """One image to compare on, checked against the models.

    Attributes
    ----------
    name
        The file, or another name for messages and reports.
    arrays
        As given; see `Sample.arrays`.
    request
        The same arrays, checked.
    clean
        float32[H', W', C'] in the model's value range; None where unknown.
    notices
        Lines for the reader, from reading the file.
    """

    name: str
    arrays: Mapping[str, NDArray[Any]]
    request: Request
    clean: NDArray[np.float32] | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demands:
    """Requirements on inputs under which all sides accept them.

    Attributes
    ----------
    manifest
        The reference's, for what all sides share: inputs, channels, scale and value range.
    multiple
        Height and width must be multiples of this.
    shape
        The only (B, H, W) accepted; None for any.
    """

    manifest: Manifest
    multiple: int
    shape: tuple[int, int, int] | None


def demands(*manifests: Manifest) -> Demands:
    """Combine the size rules of all sides.

    An engine runs with the optimal shape of its first profile.

    Parameters
    ----------
    manifests
        Of all sides, the reference's last.

    Raises
    ------
    InputError
        Some sides take a single shape, but not the same.
    """
    shapes = list(dict.fromkeys(shape for shape in map(_shape, manifests) if shape is not None))
    if len(shapes) > 1:
        both = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise InputError(
            f"the files take one shape each, and these are not the same ({both}); "
            "compare with the checkpoint, or export one of them again with --shape dynamic"
        )
    multiple = math.lcm(*(manifest.size_multiple for manifest in manifests))
    return Demands(manifests[-1], multiple, next(iter(shapes), None))


def _shape(manifest: Manifest) -> tuple[int, int, int] | None:
    if manifest.shape is not None or not manifest.profiles:
        return manifest.shape
    profile = manifest.profiles[0]
    return profile.batch[0], profile.height[1], profile.width[1]


def read_inputs(inputs: Sequence[InputLike], needs: Demands, clean: Sequence[FileOrArray] = ()) -> list[Input]:
    """Read and check the inputs. Without any input, a picture is generated.

    Arrays are used as they are; what is read from files is kept on disk, see `disk_arrays`.

    Parameters
    ----------
    inputs
        The images. For models with extra inputs, each is a mapping with ``"image"`` and the names of the others.
    needs
        Requirements of all sides.
    clean
        Clean images, one for each input; empty for none.

    Raises
    ------
    InputError
        A file cannot be read or does not suit the model; the clean images differ in number or size.
    """
    if len(clean) not in (0, len(inputs)):
        raise InputError(f"there are {len(clean)} clean images for {len(inputs)} inputs; give one for each, or none")
    if len(inputs) == 0:
        return [generated(needs)]
    given = [_sample(index, one, needs.manifest) for index, one in enumerate(inputs)]
    targets = [sample.clean for sample, _ in given]
    if clean:
        targets = [_array(one, needs.manifest.out_channels)[0] for one in clean]
    return [
        _checked(sample, target, notices, needs.manifest)
        for (sample, notices), target in zip(given, targets, strict=True)
    ]


def generated(needs: Demands) -> Input:
    """Generate the default picture: not square, and of a size that all sides accept without padding."""
    height = round_up(GENERATED, needs.multiple)
    width = height + needs.multiple
    if needs.shape is not None:
        _, height, width = needs.shape
    image, others = synthetic_scene(needs.manifest, height, width)
    return _checked(Sample("generated picture", {IMAGE_INPUT: image, **others}), None, [], needs.manifest)


def floats(given: Input, manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """Convert the arrays so that the runtime returns float32, without changing what the model computes on."""
    pictures = {IMAGE_INPUT, *manifest.views}
    found = {}
    for name, values in given.arrays.items():
        if name not in pictures:
            found[name] = fractions(values, name)[0]
        elif manifest.normalisation == "type" and values.dtype.kind == "u":
            found[name] = values.astype(np.float32) / np.float32(white_level(values.dtype))
        else:
            found[name] = values.astype(np.float32)
    return found


def _sample(index: int, given: InputLike, manifest: Manifest) -> tuple[Sample, list[str]]:
    """Read the files of one input; return it with lines for the reader."""
    if isinstance(given, Sample):
        check_names(manifest, {other: None for other in given.arrays if other != IMAGE_INPUT})
        return given, []
    parts = given if isinstance(given, Mapping) else {IMAGE_INPUT: given}
    if IMAGE_INPUT not in parts:
        raise InputError(f"input {index} has no {IMAGE_INPUT}, but {' and '.join(parts) or 'nothing'}; give one")
    image = parts[IMAGE_INPUT]
    name = f"array {index}" if isinstance(image, np.ndarray) else str(image)
    check_names(manifest, {other: None for other in parts if other != IMAGE_INPUT})
    arrays: dict[str, NDArray[Any]] = {}
    notices: list[str] = []
    for part, one in parts.items():
        arrays[part], lines = _array(one, expected_channels(manifest, part))
        notices += lines
    return Sample(name, arrays), notices


def _array(one: FileOrArray, channels: int) -> tuple[NDArray[Any], tuple[str, ...]]:
    if isinstance(one, np.ndarray):
        return one, ()
    read = input_files.read(input_files.InputFile.parse(one), channels)
    return on_disk(read.pixels), tuple(read.notices)


def _checked(sample: Sample, clean: NDArray[Any] | None, notices: list[str], manifest: Manifest) -> Input:
    others = {name: values for name, values in sample.arrays.items() if name != IMAGE_INPUT}
    try:
        found = make_request(manifest, sample.arrays[IMAGE_INPUT], others)
        target = None if clean is None else _target(clean, found, manifest)
    except InputError as error:
        raise InputError(f"{sample.name}: {error}") from None
    return Input(sample.name, sample.arrays, found, target, (*notices, *found.notices))


def _target(clean: NDArray[Any], found: Request, manifest: Manifest) -> NDArray[np.float32]:
    """Convert a clean image to the model's value range."""
    values = clean[:, :, None] if clean.ndim == 2 else clean
    expected = (found.height * manifest.scale, found.width * manifest.scale, found.channels.channels)
    if values.shape != expected:
        raise InputError(
            f"the clean image has the shape {tuple(values.shape)}, but the restored one {expected} (height, width, "
            "channels); give the clean image of this input"
        )
    white = white_level(values.dtype) if values.dtype.kind == "u" else 1.0
    low, high = manifest.value_range
    target: NDArray[np.float32] = values.astype(np.float32) / np.float32(white) * np.float32(high - low) + np.float32(
        low
    )
    return on_disk(target)
