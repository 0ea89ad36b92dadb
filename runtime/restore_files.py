"""Restoring an image file, with what goes with it, into another."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from ..errors import InputError, KeygraphError
from ..manifest import IMAGE_INPUT, Manifest
from .backends.base import resolve_k
from .io import cubes, images, input_files, spectral_preview
from .io.cubes import Cube
from .io.images import Picture
from .io.input_files import Source
from .preprocess.normalization import is_spectrum
from .preprocess.request import check_names, check_sizes, result_size, streamed_scene
from .restorer import Options, Progress, Restored, Restorer


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
    sweeps
        How often the tiles were gone over for the exact result; 0 for a whole image, and for plain tiles.
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
    sweeps: int
    seconds: float
    engine: str
    notices: tuple[str, ...]


def check_source(
    restorer: Restorer, image: Source, inputs: Mapping[str, Source] | None = None
) -> tuple[tuple[int, int], int]:
    """Check, without decoding them, that a model can restore an image file with what goes with it.

    Returns
    -------
    (height, width) of the result, and its channels.

    Raises
    ------
    InputError
        It cannot.
    """
    manifest, inputs = restorer.manifest, inputs or {}
    check_names(manifest, inputs)
    files = {IMAGE_INPUT: image, **inputs}
    sizes = {name: input_files.read_size(file, input_files.channels(manifest, name)) for name, file in files.items()}
    try:
        result = check_sizes(manifest, sizes).channels
        height, width = result_size(manifest, *sizes[IMAGE_INPUT][:2])
    except InputError as error:
        raise InputError(f"{image}: {error}") from None
    return (height * manifest.scale, width * manifest.scale), result


def check(
    restorer: Restorer,
    image: Source,
    target: str | os.PathLike[str],
    inputs: Mapping[str, Source] | None = None,
    preview: str | os.PathLike[str] | None = None,
) -> None:
    """Check, before any work, that files can be read, restored by this model, and the results be written.

    Raises
    ------
    InputError
        It cannot, a target is one of the files, or a preview is asked for of what is no spectrum.
    """
    size, channels = check_source(restorer, image, inputs)
    targets = [target] if preview is None else [target, preview]
    for file, place in itertools.product((image, *(inputs or {}).values()), targets):
        if Path(place).exists() and os.path.samefile(file.path, place):
            raise InputError(f"{place} is the input itself; choose another place")
    if preview is not None:
        if not is_spectrum(restorer.manifest):
            raise InputError("a preview is for spectra, and this model makes pictures; leave it out")
        if Path(preview).resolve() == Path(target).resolve():
            raise InputError(f"{preview} is the place of the result; choose another one for the preview")
        spectral_preview.check_target(preview, *size, channels)
    holder = cubes if holds_cube(restorer.manifest, target) else images
    holder.check_target(target, *size, channels)


def holds_cube(manifest: Manifest, target: str | os.PathLike[str]) -> bool:
    """Whether a result becomes a cube in this file: spectra always, pictures where the file is for arrays only."""
    suffix = Path(target).suffix.lower()
    return is_spectrum(manifest) or (suffix in cubes.FORMATS and suffix not in images.FORMATS)


def restore_file(
    restorer: Restorer,
    image: str | os.PathLike[str] | Source,
    target: str | os.PathLike[str],
    k: int | None = None,
    *,
    inputs: Mapping[str, str | os.PathLike[str] | Source] | None = None,
    preview: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Restore one image file into another, whose format its name says.

    Alpha stays apart: the model sees the colours only.

    Parameters
    ----------
    restorer
        The model.
    image, target
        PNG, JPEG, TIFF or WebP files, or cubes (`cubes.FORMATS`). The target is replaced if it exists, and is never
        left half-written.
    inputs
        Files with what the model takes beside the image, by name; as for `Restorer.restore`.
    preview
        Where to draw the bands of a spectrum, a picture; None for nowhere.
    k, progress, options
        As for `Restorer.restore`.

    Raises
    ------
    InputError
        As `check`, `sources.read`, `Restorer.restore`, `images.write` and `cubes.write`.
    KeygraphError
        The model failed.
    """
    manifest = restorer.manifest
    source = input_files.source(image)
    others = {name: input_files.source(file) for name, file in (inputs or {}).items()}
    check(restorer, source, target, others, preview)
    wishes = Options(**options)
    if _streams(restorer, source, target, wishes, bool(others) or preview is not None):
        return _restore_streamed(restorer, source, target, k, wishes, progress)
    given = input_files.read(source, input_files.channels(manifest, IMAGE_INPUT))
    beside = {name: input_files.read(file, input_files.channels(manifest, name)) for name, file in others.items()}
    began = time.perf_counter()
    try:
        restored = restorer.restore(
            given.pixels,
            k,
            inputs={name: one.pixels for name, one in beside.items()},
            progress=progress,
            **dataclasses.asdict(wishes),
        )
    except KeygraphError as error:
        raise type(error)(f"{source}: {error}") from error
    seconds = time.perf_counter() - began
    said = [f"{name}: {line}" for name, one in beside.items() for line in one.notices]
    said += [*restored.notices, *_write(target, restored.image, given, manifest)]
    if preview is not None:
        said += spectral_preview.write(preview, Cube(restored.image, manifest.wavelengths))
    size = restored.image.shape[:2]
    return _report(restorer, source, target, size, restored, seconds, (*given.notices, *said))


def _streams(restorer: Restorer, source: Source, target: str | os.PathLike[str], options: Options, more: bool) -> bool:
    """Whether an image goes from file to file without ever being in memory: where it is restored exactly in tiles.

    `more`: there are other inputs or results, which are in memory.
    """
    manifest = restorer.manifest
    if more or manifest.scale != 1 or cubes.is_cube(source.path) or holds_cube(manifest, target):
        return False
    (height, width), channels = check_source(restorer, source)
    same = images.read_header(source.path).channels == channels
    return same and restorer.runs_exactly(height, width, options)


def _restore_streamed(
    restorer: Restorer,
    source: Source,
    target: str | os.PathLike[str],
    k: int | None,
    options: Options,
    progress: Progress | None,
) -> Report:
    """Restore an image from file to file."""
    from .io import streaming
    from .io.feature_file import FeatureFile

    folder = options.folder
    with contextlib.ExitStack() as files:
        given = streaming.read(source.path, folder, files)
        began = time.perf_counter()
        try:
            scene = streamed_scene(restorer.manifest, given.pixels)
            height, width, channels = given.pixels.shape
            result = FeatureFile(folder, height, width, channels, scene.dtype)
            files.callback(result.close)
            restored = restorer.restore_scene(scene, result, resolve_k(restorer.manifest, k), options, progress)
        except KeygraphError as error:
            raise type(error)(f"{source}: {error}") from error
        seconds = time.perf_counter() - began
        lost = streaming.write(target, dataclasses.replace(given, pixels=cast(Any, result)), folder)
        said = (*given.notices, *restored.notices, *lost)
        return _report(restorer, source, target, result.shape[:2], restored, seconds, said)


def _report(
    restorer: Restorer,
    source: Source,
    target: str | os.PathLike[str],
    size: tuple[int, ...],
    restored: Restored,
    seconds: float,
    notices: tuple[str, ...],
) -> Report:
    return Report(
        source=str(source),
        target=str(target),
        height=size[0],
        width=size[1],
        k=restored.k,
        tiles=len(restored.plan.tiles),
        tile=restored.tile,
        overlap=restored.overlap,
        batch=restored.batch,
        padded=restored.padded,
        sweeps=restored.sweeps,
        seconds=round(seconds, 3),
        engine=restorer.description,
        notices=notices,
    )


def _write(
    target: str | os.PathLike[str], pixels: NDArray[Any], given: Picture | Cube, manifest: Manifest
) -> list[str]:
    """Write a result; return what could not be kept of what was given, and what the format could not hold."""
    if isinstance(given, Cube):
        picture = Picture(pixels)
        lost: list[str] = []
    else:
        picture = given.with_pixels(pixels)
        lost = list(picture.notices[len(given.notices) :])
    if not holds_cube(manifest, target):
        return lost + images.write(target, picture)
    if picture.alpha is not None:
        lost.append("alpha dropped: a cube has none")
    if titles := images.metadata_titles(picture):
        lost.append(f"{', '.join(titles)} dropped: not kept in a cube")
    return lost + cubes.write(target, Cube(pixels, manifest.wavelengths))
