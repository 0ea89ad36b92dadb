"""Restoring an image file into another."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, KeygraphError
from . import images
from .channels import Channels
from .restorer import Restorer, check_size


@dataclass(frozen=True)
class Report:
    """What was done to one file; plain values, for one line of JSON.

    Attributes
    ----------
    source, target
        The files.
    height, width
        Of the restored image, upright.
    k
        Neighbours of each node, None for a model without a key graph.
    tiles, tile, overlap, batch
        How many tiles, their height and width, their least overlap, and how many ran together.
    padded
        True when the image was reflected at its edges to fit the model's size rule, and cut back.
    seconds
        For the restoration, without reading and writing.
    engine
        What ran.
    notices
        Everything that was dropped or done otherwise.
    """

    source: str
    target: str
    height: int
    width: int
    k: int | None
    tiles: int
    tile: tuple[int, int]
    overlap: int
    batch: int
    padded: bool
    seconds: float
    engine: str
    notices: tuple[str, ...]


def check_source(restorer: Restorer, source: str | os.PathLike[str]) -> tuple[images.Header, Channels]:
    """Check, without decoding it, that a file is an image that this model can restore; raises `InputError`."""
    header = images.read_header(source)
    try:
        return header, check_size(restorer.manifest, header.height, header.width, header.channels)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def check(restorer: Restorer, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Check, before any work, that a file can be read, restored by this model, and written.

    Raises
    ------
    InputError
        It cannot, or the target is the source.
    """
    header, adapted = check_source(restorer, source)
    if Path(target).exists() and os.path.samefile(source, target):
        raise InputError(f"{target} is the input itself; choose another place with -o")
    scale = restorer.manifest.scale
    images.check_target(target, header.height * scale, header.width * scale, adapted.channels)


def restore_file(
    restorer: Restorer,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    k: int | None = None,
    **options: Any,
) -> Report:
    """Restore one image file into another, whose format its name says.

    Alpha stays apart: the model sees the colours only.

    Parameters
    ----------
    restorer
        The model.
    source, target
        PNG, JPEG, TIFF or WebP files. The target is replaced if it exists, and is never left half-written.
    k, options
        As for `Restorer.restore`.

    Raises
    ------
    InputError
        As `check`, `images.read`, `Restorer.restore` and `images.write`.
    KeygraphError
        The model failed.
    """
    check(restorer, source, target)
    picture = images.read(source)
    began = time.perf_counter()
    try:
        restored = restorer.restore(picture.pixels, k, **options)
    except KeygraphError as error:
        raise type(error)(f"{source}: {error}") from error
    seconds = time.perf_counter() - began
    result = picture.with_pixels(restored.image)
    lost = images.write(target, result)
    return Report(
        source=str(source),
        target=str(target),
        height=result.pixels.shape[0],
        width=result.pixels.shape[1],
        k=restored.k,
        tiles=len(restored.plan.tiles),
        tile=(restored.plan.rows.tile, restored.plan.columns.tile),
        overlap=restored.overlap,
        batch=restored.batch,
        padded=restored.padded,
        seconds=round(seconds, 3),
        engine=restorer.description,
        notices=(*result.notices, *restored.notices, *lost),
    )
