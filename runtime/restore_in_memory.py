"""Restoring an image in memory, in three steps that may run in different threads: decoded, computed, encoded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import KeygraphError
from .io import output_files, spectral_preview
from .io.cubes import Cube
from .io.images import Picture
from .io.regions import ArrayWriter
from .preprocess.request import make_request
from .restore_job import RestoreJob
from .restored import Restored
from .restorer import Restorer
from .tiling.progress import CancelToken, Progress


@dataclass(frozen=True)
class Decoded:
    """An image that was read, with the model's other inputs by name."""

    image: Picture | Cube
    inputs: Mapping[str, Picture | Cube]


@dataclass(frozen=True)
class Computed:
    """A result that is not written yet.

    Attributes
    ----------
    source
        The image that it was made of.
    pixels
        The result, [H, W] or [H, W, C].
    restored
        How it was restored.
    seconds
        The time of that.
    notices
        Lines to show to the user.
    """

    source: Picture | Cube
    pixels: NDArray[Any]
    restored: Restored
    seconds: float
    notices: tuple[str, ...]


def decode(job: RestoreJob) -> Decoded:
    """Read a job's image and the model's other inputs.

    Raises
    ------
    InputError
        A file cannot be decoded.
    """
    return Decoded(job.image.read(), {name: header.read() for name, header in job.inputs.items()})


def compute(
    restorer: Restorer,
    job: RestoreJob,
    decoded: Decoded,
    progress: Progress | None,
    cancel: CancelToken | None = None,
) -> Computed:
    """Restore a decoded image.

    Parameters
    ----------
    restorer
        The model for which the job was planned.
    job
        How it is restored.
    decoded
        From `decode`.
    progress
        Called with (tiles done, tiles in all).
    cancel
        As for `Restorer.restore`.

    Raises
    ------
    KeygraphError
        The model failed, or `cancel` was set; the message names the image.
    """
    image, inputs = decoded.image, decoded.inputs
    began = time.perf_counter()
    try:
        request = make_request(restorer.manifest, image.pixels, {name: one.pixels for name, one in inputs.items()})
        values = np.empty(job.size, request.dtype)
        restored = restorer.restore_request(request, ArrayWriter(values), job.options, progress, cancel=cancel)
    except KeygraphError as error:
        raise type(error)(f"{job.image.file}: {error}") from error
    seconds = time.perf_counter() - began
    notices = [*image.notices, *(f"{name}: {line}" for name, one in inputs.items() for line in one.notices)]
    pixels = values[:, :, 0] if image.pixels.ndim == 2 and job.size[2] == 1 else values
    return Computed(image, pixels, restored, seconds, (*notices, *restored.notices))


def encode(restorer: Restorer, job: RestoreJob, computed: Computed) -> tuple[str, ...]:
    """Write a result, and its preview if there is one; return all lines to show to the user.

    Parameters
    ----------
    restorer
        The model for which the job was planned.
    job
        What is written.
    computed
        From `compute`.

    Raises
    ------
    InputError
        A file cannot be written.
    """
    wavelengths = restorer.manifest.wavelengths
    lost = output_files.write(
        job.target,
        computed.pixels,
        computed.source,
        as_cube=job.as_cube,
        wavelengths=wavelengths,
        encoding=job.encoding,
    )
    if job.preview is not None:
        lost += spectral_preview.write(job.preview, Cube(computed.pixels, wavelengths))
    return (*computed.notices, *lost)
