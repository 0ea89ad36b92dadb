"""Restoring image files into image files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DiskFullError, KeygraphError
from .io import output_files, spectral_preview
from .io.cubes import Cube
from .io.encoding import Encoding
from .io.input_files import InputFile
from .io.regions import ArrayWriter
from .notices import warn
from .preprocess.request import make_request
from .restore_in_files import goes_through_files, restore_in_files
from .restore_job import FailedImage, RestoreJob, check_places, plan_job
from .restore_options import RestoreKeywords, RestoreOptions
from .restorer import Restored, Restorer
from .tiling.progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Report:
    """How one file was restored; plain values, printed as one line of JSON.

    Attributes
    ----------
    source, target
        The files.
    height, width
        Size of the restored image in pixels, after the EXIF orientation is applied.
    k
        Neighbours of each node; None for a model without a key graph.
    tiles, tile, overlap, batch
        Number of tiles, their height and width, their least overlap, and how many ran together.
    padded
        True when the image was padded by reflection to the model's `size_multiple`, and cropped.
    sweeps
        Sweeps over the tiles for the exact result; 0 for a whole image and for blended tiles.
    seconds
        Time of the restoration, without reading and writing.
    engine
        What ran.
    notices
        Everything that was lost, or done otherwise than asked.
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


def restore_file(
    restorer: Restorer,
    image: str | os.PathLike[str] | InputFile,
    target: str | os.PathLike[str],
    k: int | None = None,
    *,
    inputs: Mapping[str, str | os.PathLike[str] | InputFile] | None = None,
    preview: str | os.PathLike[str] | None = None,
    compression: str | None = None,
    pyramid: bool = False,
    progress: Progress | None = None,
    **options: Unpack[RestoreKeywords],
) -> Report:
    """Restore one image file into another, whose suffix gives its format.

    Alpha is not restored: the model gets the colours only.

    Parameters
    ----------
    restorer
        The model.
    image, target
        PNG, JPEG, TIFF or WebP files (also AVIF and HEIC for `image`), or cubes (`cubes.FORMATS`). An existing target
        is replaced, and is never left half-written.
    inputs
        Files with the model's other inputs, by name; as for `Restorer.restore`.
    preview
        File for a picture of a spectrum's bands; None for none.
    compression, pyramid
        How the result is encoded; see `io.encoding.Encoding`.
    k, progress
        As for `Restorer.restore`.
    **options
        `tile`, `overlap`, `batch`, `global_statistics` and `scratch`; see `RestoreOptions`.

    Raises
    ------
    InputError
        A file, an option or a target is not possible.
    KeygraphError
        The model failed.
    """
    job = plan_job(
        restorer,
        InputFile.parse(image),
        {name: InputFile.parse(file) for name, file in (inputs or {}).items()},
        Path(target),
        RestoreOptions(k, **options),
        None if preview is None else Path(preview),
        Encoding(compression, pyramid),
    )
    check_places([job], [])
    job.check_formats()
    return run_job(restorer, job, progress)


def run_jobs(
    restorer: Restorer,
    jobs: Sequence[RestoreJob],
    progress: Callable[[str], AbstractContextManager[Progress | None]] = lambda _name: nullcontext(),
    *,
    fail_fast: bool = False,
    notice: Callable[[str], None] = warn,
) -> Iterator[Report | FailedImage]:
    """Restore several image files, each when the caller asks for it; one that fails does not stop the others.

    When the disk of the results is full, the images that are left fail without being computed.

    Parameters
    ----------
    restorer
        The model for which the jobs were planned.
    jobs
        What is read and written, and how.
    progress
        Called with the name of each image; gives the context, in which the image is restored, of its `progress`.
    fail_fast
        Raise the error of the first image that fails.
    notice
        As for `run_job`.

    Yields
    ------
    Report | FailedImage
        One for each job, in order.

    Raises
    ------
    KeygraphError
        As `run_job`, with `fail_fast`.
    """
    full = False
    for job in jobs:
        if full:
            yield FailedImage(str(job.image.file), f"{job.image.file}: not restored, because the disk is full")
            continue
        try:
            with progress(job.image.file.path.name) as of_job:
                report = run_job(restorer, job, of_job, notice)
        except Exception as error:
            if fail_fast:
                raise
            full = isinstance(error, DiskFullError)
            yield FailedImage.of(job.image.file, error)
        else:
            yield report


def run_job(
    restorer: Restorer,
    job: RestoreJob,
    progress: Progress | None = None,
    notice: Callable[[str], None] = warn,
) -> Report:
    """Restore one image file.

    Parameters
    ----------
    restorer
        The model for which the job was planned.
    job
        What is read and written, and how.
    progress
        Called with (tiles done, tiles in all).
    notice
        Called with a line when an earlier run of the job goes on, and when this one is stopped and can go on.

    Raises
    ------
    InputError
        A file cannot be decoded or written, or an earlier run of the job was of another image, model or option.
    KeygraphError
        The model failed.
    """
    if job.tiled and goes_through_files(restorer, job):
        restored, seconds, notices = restore_in_files(restorer, job, progress, notice)
    else:
        restored, seconds, notices = _restore_in_memory(restorer, job, progress)
    return Report(
        source=str(job.image.file),
        target=str(job.target),
        height=job.size[0],
        width=job.size[1],
        k=restored.k,
        tiles=len(restored.plan.tiles),
        tile=restored.tile,
        overlap=restored.overlap,
        batch=restored.batch,
        padded=restored.padded,
        sweeps=restored.sweeps,
        seconds=round(seconds, 3),
        engine=restorer.description,
        notices=tuple(notices),
    )


def _restore_in_memory(
    restorer: Restorer, job: RestoreJob, progress: Progress | None
) -> tuple[Restored, float, list[str]]:
    """Restore an image that is decoded into memory; return how, the seconds that it took, and notices."""
    manifest = restorer.manifest
    image = job.image.read()
    inputs = {name: header.read() for name, header in job.inputs.items()}
    began = time.perf_counter()
    try:
        request = make_request(manifest, image.pixels, {name: one.pixels for name, one in inputs.items()})
        result = np.empty(job.size, request.dtype)
        restored = restorer.restore_request(request, ArrayWriter(result), job.options, progress)
    except KeygraphError as error:
        raise type(error)(f"{job.image.file}: {error}") from error
    seconds = time.perf_counter() - began
    notices = [*image.notices, *(f"{name}: {line}" for name, one in inputs.items() for line in one.notices)]
    notices += restored.notices
    pixels = result[:, :, 0] if image.pixels.ndim == 2 and job.size[2] == 1 else result
    notices += output_files.write(
        job.target,
        pixels,
        image,
        as_cube=job.as_cube,
        wavelengths=manifest.wavelengths,
        encoding=job.encoding,
    )
    if job.preview is not None:
        notices += spectral_preview.write(job.preview, Cube(pixels, manifest.wavelengths))
    return restored, seconds, notices
