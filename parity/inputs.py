"""What both sides are run on: whole images, cut into pieces that any model and machine takes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..manifest import Manifest
from ..runtime import images
from ..runtime.padding import reflected, round_up
from ..runtime.restorer import check_image, to_model
from ..runtime.sample import test_image

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
    pixels
        [H, W] or [H, W, C], as `Restorer.restore` takes them.
    notices
        What must be said of it.
    """

    name: str
    pixels: NDArray[Any]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demands:
    """What a piece must be, so that both sides take it.

    Attributes
    ----------
    manifest
        Channels, scale and value range, which both sides share.
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


def read_inputs(inputs: Sequence[str | os.PathLike[str] | NDArray[Any]], needs: Demands) -> list[Input]:
    """Read image files; arrays stay as they are; without any, generate a picture.

    Raises
    ------
    InputError
        A file is no image, or not one that the model takes.
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
    planes = test_image((1, needs.manifest.in_channels, height, width), (0.0, 1.0))[0]
    return Input("generated picture", np.ascontiguousarray(np.moveaxis(planes, 0, 2)))


def _read(index: int, given: str | os.PathLike[str] | NDArray[Any], manifest: Manifest) -> Input:
    if isinstance(given, np.ndarray):
        image = Input(f"array {index}", given)
    else:
        picture = images.read(given)
        image = Input(os.fspath(given), picture.pixels, picture.notices)
    try:
        notice = check_image(manifest, image.pixels).notice
    except InputError as error:
        raise InputError(f"{image.name}: {error}") from None
    return replace(image, notices=(*image.notices, notice)) if notice else image


def count_pieces(image: Input, needs: Demands) -> int:
    """How many times `pieces` yields, for a progress bar."""
    rows, columns = _steps(needs)
    return math.ceil(image.pixels.shape[0] / rows) * math.ceil(image.pixels.shape[1] / columns)


def pieces(image: Input, needs: Demands) -> Iterator[tuple[NDArray[np.float32], tuple[int, int]]]:
    """Cut an image, reflected at its edges up to the size rule.

    Yields
    ------
    tensor, (height, width)
        float32[B, in_channels, H, W] in the manifest's value range, and how much of a restored piece shows the image
        and not its reflection, in output pixels.
    """
    channels = check_image(needs.manifest, image.pixels)
    pixels = image.pixels[:, :, None] if image.pixels.ndim == 2 else image.pixels
    height, width = pixels.shape[:2]
    unit = needs.shape[1:] if needs.shape else (needs.multiple, needs.multiple)
    rows = reflected(height, round_up(height, unit[0]))
    columns = reflected(width, round_up(width, unit[1]))
    step = _steps(needs)
    for top in range(0, height, step[0]):
        for left in range(0, width, step[1]):
            cut = pixels[rows[top : top + step[0], None], columns[left : left + step[1]]]
            planes = channels.split(to_model(cut, needs.manifest))
            scale = needs.manifest.scale
            shown = (min(height - top, step[0]) * scale, min(width - left, step[1]) * scale)
            if needs.shape is None:
                yield planes, shown
            else:
                for plane in planes:
                    yield np.repeat(plane[None], needs.shape[0], axis=0), shown


def _steps(needs: Demands) -> tuple[int, int]:
    if needs.shape is not None:
        return needs.shape[1:]
    side = round_up(PIECE, needs.multiple)
    return side, side
