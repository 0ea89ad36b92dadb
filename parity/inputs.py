"""What both sides are run on: whole images, cut into pieces that any model and machine takes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..manifest import IMAGE_INPUT, Manifest
from ..runtime import sources
from ..runtime.padding import round_up
from ..runtime.sample import test_scene
from ..runtime.scene import Scene, Windows, check_names, scene
from ..runtime.session import Inputs

#: A file, or an array as `Restorer.restore` takes it.
Given = str | os.PathLike[str] | sources.Source | NDArray[Any]

#: The side of a piece in pixels, rounded up to the size rule. Both sides see the same pieces, so no overlap is needed.
PIECE = 256

#: The least side of the generated picture, rounded up likewise.
GENERATED = 96


@dataclass(frozen=True)
class Input:
    """One image to compare on.

    Attributes
    ----------
    name
        The file, or what a reader knows it by.
    scene
        The image, and what the model takes beside it.
    notices
        What must be said of it.
    """

    name: str
    scene: Scene
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demands:
    """What a piece must be, so that both sides take it.

    Attributes
    ----------
    manifest
        Inputs, channels, scale and value range, which both sides share.
    multiple
        Of which height and width are multiples.
    shape
        The only (B, H, W), or None.
    """

    manifest: Manifest
    multiple: int
    shape: tuple[int, int, int] | None


def demands(candidate: Manifest, reference: Manifest) -> Demands:
    """Unite the size rules of both sides; raises `InputError` where both take one shape only, but not the same."""
    shapes = {shape for shape in (candidate.shape, reference.shape) if shape is not None}
    if len(shapes) == 2:
        both = " and ".join("x".join(map(str, shape)) for shape in (candidate.shape, reference.shape) if shape)
        raise InputError(
            f"the two files take one shape each, and not the same ({both}); "
            "compare with the checkpoint, or export one of them again with --shape dynamic"
        )
    multiple = math.lcm(candidate.size_multiple, reference.size_multiple)
    return Demands(reference, multiple, next(iter(shapes), None))


def read_inputs(inputs: Sequence[Given | Mapping[str, Given]], needs: Demands) -> list[Input]:
    """Read files; arrays stay as they are; without any, generate a picture.

    Parameters
    ----------
    inputs
        The images; for a model that takes more, each a mapping: ``"image"`` and the names of the others.
    needs
        What both sides take.

    Raises
    ------
    InputError
        A file cannot be read, or is not what the model takes.
    """
    if len(inputs) == 0:
        return [generated(needs)]
    return [_read(index, given, needs.manifest) for index, given in enumerate(inputs)]


def generated(needs: Demands) -> Input:
    """The picture that is used when none is given: not square, and of a size that both size rules take as it is."""
    height = round_up(GENERATED, needs.multiple)
    width = height + needs.multiple
    if needs.shape is not None:
        _, height, width = needs.shape
    return Input("generated picture", scene(needs.manifest, *test_scene(needs.manifest, height, width)))


def _read(index: int, given: Given | Mapping[str, Given], manifest: Manifest) -> Input:
    together = given if isinstance(given, Mapping) else {IMAGE_INPUT: given}
    if IMAGE_INPUT not in together:
        raise InputError(f"input {index} has no {IMAGE_INPUT}, but {' and '.join(together) or 'nothing'}; give one")
    image = together[IMAGE_INPUT]
    name = f"array {index}" if isinstance(image, np.ndarray) else str(image)
    check_names(manifest, {other: None for other in together if other != IMAGE_INPUT})
    arrays: dict[str, NDArray[Any]] = {}
    notices: list[str] = []
    for what, one in together.items():
        if isinstance(one, np.ndarray):
            arrays[what] = one
            continue
        read = sources.read(sources.source(one), sources.channels(manifest, what))
        arrays[what] = read.pixels
        notices += read.notices
    try:
        found = scene(manifest, arrays.pop(IMAGE_INPUT), arrays)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return Input(name, found, (*notices, *found.notices))


def count_pieces(image: Input, needs: Demands) -> int:
    """How many times `pieces` yields, for a progress bar."""
    rows, columns = _steps(needs)
    return math.ceil(image.scene.height / rows) * math.ceil(image.scene.width / columns)


def pieces(image: Input, needs: Demands) -> Iterator[tuple[Inputs, tuple[int, int]]]:
    """Cut an image and what goes with it, reflected at the edges up to the size rule.

    Yields
    ------
    inputs, (height, width)
        What a session takes but k, and how much of a restored piece shows the image and not its reflection, in output
        pixels.
    """
    height, width = image.scene.height, image.scene.width
    unit = needs.shape[1:] if needs.shape else (needs.multiple, needs.multiple)
    padded = round_up(height, unit[0]), round_up(width, unit[1])
    cut = Windows(image.scene, *padded)
    step = _steps(needs)
    for top in range(0, height, step[0]):
        for left in range(0, width, step[1]):
            images, *extras = cut(top, left, min(step[0], padded[0] - top), min(step[1], padded[1] - left))
            scale = needs.manifest.scale
            shown = (min(height - top, step[0]) * scale, min(width - left, step[1]) * scale)
            if needs.shape is None:
                yield (images, *extras), shown
            else:
                for plane in images:
                    yield tuple(np.repeat(one, needs.shape[0], axis=0) for one in (plane[None], *extras)), shown


def _steps(needs: Demands) -> tuple[int, int]:
    if needs.shape is not None:
        return needs.shape[1:]
    side = round_up(PIECE, needs.multiple)
    return side, side
