"""What all sides are run on: images as given, checked against the models, and what they should become."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..instrumentation.synthetic import test_scene
from ..manifest import IMAGE_INPUT, Manifest
from ..runtime.io import input_files
from ..runtime.preprocess.normalization import fractions, white_level
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import Request, check_names, expected_channels, make_request

#: The least side of the generated picture, rounded up to the size rule.
GENERATED = 96


@dataclass(frozen=True)
class Sample:
    """Arrays that go together.

    Attributes
    ----------
    name
        What a reader knows them by.
    arrays
        ``"image"``, as `Restorer.restore` takes it, and what the model takes beside it, by name.
    clean
        The image without what the model takes away, as a file of it is read; None where it is not known.
    """

    name: str
    arrays: Mapping[str, NDArray[Any]]
    clean: NDArray[Any] | None = None


#: A file, or an array as `Restorer.restore` takes it.
One = str | os.PathLike[str] | input_files.InputFile | NDArray[Any]

#: An image, alone or with what the model takes beside it.
Given = One | Mapping[str, One] | Sample


@dataclass(frozen=True)
class Input:
    """One image to compare on.

    Attributes
    ----------
    name
        The file, or what a reader knows it by.
    arrays
        As given; see `Sample.arrays`.
    request
        The same, checked.
    clean
        float32[H', W', C'] in the model's value range; None where it is not known.
    notices
        What must be said of it.
    """

    name: str
    arrays: Mapping[str, NDArray[Any]]
    request: Request
    clean: NDArray[np.float32] | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demands:
    """What a piece must be, so that all sides take it.

    Attributes
    ----------
    manifest
        Inputs, channels, scale and value range, which all sides share.
    multiple
        Of which height and width are multiples.
    shape
        The only (B, H, W), or None.
    """

    manifest: Manifest
    multiple: int
    shape: tuple[int, int, int] | None


def demands(*manifests: Manifest) -> Demands:
    """Unite the size rules of all sides; raises `InputError` where some take one shape only, but not the same.

    An engine is run with the shape that its first profile was built best for.
    """
    shapes = list(dict.fromkeys(shape for shape in map(_shape, manifests) if shape is not None))
    if len(shapes) > 1:
        both = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise InputError(
            f"the files take one shape each, and not the same ({both}); "
            "compare with the checkpoint, or export one of them again with --shape dynamic"
        )
    multiple = math.lcm(*(manifest.size_multiple for manifest in manifests))
    return Demands(manifests[-1], multiple, next(iter(shapes), None))


def _shape(manifest: Manifest) -> tuple[int, int, int] | None:
    if manifest.shape is not None or not manifest.profiles:
        return manifest.shape
    profile = manifest.profiles[0]
    return profile.batch[0], profile.height[1], profile.width[1]


def read_inputs(inputs: Sequence[Given], needs: Demands, clean: Sequence[One] = ()) -> list[Input]:
    """Read files; arrays stay as they are; without any, generate a picture.

    Parameters
    ----------
    inputs
        The images; for a model that takes more, each a mapping: ``"image"`` and the names of the others.
    needs
        What all sides take.
    clean
        What the images should become, one for each; or none.

    Raises
    ------
    InputError
        A file cannot be read, or is not what the model takes; clean images are not as many, or of another size.
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
    """The picture that is used when none is given: not square, and of a size that all size rules take as it is."""
    height = round_up(GENERATED, needs.multiple)
    width = height + needs.multiple
    if needs.shape is not None:
        _, height, width = needs.shape
    image, others = test_scene(needs.manifest, height, width)
    return _checked(Sample("generated picture", {IMAGE_INPUT: image, **others}), None, [], needs.manifest)


def floats(given: Input, manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """The arrays as the runtime takes them for a result in float32: what the model sees stays the same."""
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


def _sample(index: int, given: Given, manifest: Manifest) -> tuple[Sample, list[str]]:
    """Read what is a file, with what must be said of it."""
    if isinstance(given, Sample):
        check_names(manifest, {other: None for other in given.arrays if other != IMAGE_INPUT})
        return given, []
    together = given if isinstance(given, Mapping) else {IMAGE_INPUT: given}
    if IMAGE_INPUT not in together:
        raise InputError(f"input {index} has no {IMAGE_INPUT}, but {' and '.join(together) or 'nothing'}; give one")
    image = together[IMAGE_INPUT]
    name = f"array {index}" if isinstance(image, np.ndarray) else str(image)
    check_names(manifest, {other: None for other in together if other != IMAGE_INPUT})
    arrays: dict[str, NDArray[Any]] = {}
    notices: list[str] = []
    for what, one in together.items():
        arrays[what], said = _array(one, expected_channels(manifest, what))
        notices += said
    return Sample(name, arrays), notices


def _array(one: One, channels: int) -> tuple[NDArray[Any], tuple[str, ...]]:
    if isinstance(one, np.ndarray):
        return one, ()
    read = input_files.read(input_files.InputFile.parse(one), channels)
    return read.pixels, tuple(read.notices)


def _checked(sample: Sample, clean: NDArray[Any] | None, notices: list[str], manifest: Manifest) -> Input:
    others = {name: values for name, values in sample.arrays.items() if name != IMAGE_INPUT}
    try:
        found = make_request(manifest, sample.arrays[IMAGE_INPUT], others)
        target = None if clean is None else _target(clean, found, manifest)
    except InputError as error:
        raise InputError(f"{sample.name}: {error}") from None
    return Input(sample.name, sample.arrays, found, target, (*notices, *found.notices))


def _target(clean: NDArray[Any], found: Request, manifest: Manifest) -> NDArray[np.float32]:
    """A clean image in the model's value range."""
    values = clean[:, :, None] if clean.ndim == 2 else clean
    expected = (found.height * manifest.scale, found.width * manifest.scale, found.channels.channels)
    if values.shape != expected:
        raise InputError(
            f"its clean image has the shape {tuple(values.shape)}, but the restored one {expected} (height, width, "
            "channels); give the image that it should become"
        )
    white = white_level(values.dtype) if values.dtype.kind == "u" else 1.0
    low, high = manifest.value_range
    return values.astype(np.float32) / np.float32(white) * np.float32(high - low) + np.float32(low)
