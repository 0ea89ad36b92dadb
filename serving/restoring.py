"""The work of one request, which runs in a thread: an uploaded file becomes a result, as ``keygraph restore`` makes it.

Everything is the code of that command, so that the result is the same bit by bit, with the same metadata.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, KeygraphError
from ..runtime.io.input_files import InputFile
from ..runtime.preprocess.normalization import is_spectrum
from ..runtime.restore_files import run_job
from ..runtime.restore_job import RestoreJob
from ..runtime.restore_options import RestoreOptions
from ..runtime.restore_plan import plan_job
from ..runtime.restorer import Restorer
from ..runtime.result_places import check_formats
from ..runtime.tiling.progress import CancelToken
from .errors import RequestError, for_clients, refusal
from .pictures import FORMATS, check_size, identify

_log = logging.getLogger(__name__)

#: Most tiles of an image.
_MOST_TILES = 250_000

#: The format of results for images in formats that are only read.
_OTHERWISE = "png"


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes
    ----------
    upload
        The image, in a folder of its own, in which the result and all temporary files are made.
    options
        How it is restored.
    format
        One of `pictures.FORMATS`; None for the image's own where it is one of them.
    max_pixels
        Most pixels of the image.
    """

    upload: Path
    options: RestoreOptions
    format: str | None
    max_pixels: int


@dataclass(frozen=True)
class Result:
    """A restored image.

    Attributes
    ----------
    file
        Its file.
    media
        Media type of that.
    notices
        Lines for the user: everything that was lost, or done otherwise than asked.
    seconds
        Time of the restoration, without decoding and encoding.
    pixels, size
        Pixels and bytes of the result.
    """

    file: Path
    media: str
    notices: tuple[str, ...]
    seconds: float
    pixels: int
    size: int


def restore(restorer: Restorer, order: Order, cancel: CancelToken) -> Result:
    """Restore an uploaded image.

    Parameters
    ----------
    restorer
        The model.
    order
        What is asked for.
    cancel
        As for `Restorer.restore`.

    Raises
    ------
    RequestError
        It cannot be restored; the message names no path of this machine.
    CancelledError
        `cancel` was set.
    """
    names = {str(order.upload.parent): "the server's scratch folder", " (FILE:N is page N)": ""}
    try:
        name = identify(order.upload)
        _check_tile(order.options.tile, check_size(order.upload, name, order.max_pixels))
        source = order.upload.with_name("image" + (FORMATS[name].suffix if name in FORMATS else ".heif"))
        order.upload.rename(source)
        wanted = FORMATS[order.format or _default_format(restorer, name)]
        target = source.with_name("result" + wanted.suffix)
        names = {str(source): "the image", str(target): "the result", **names}
        job = plan_job(restorer, InputFile(source), {}, target, order.options)
        _check_format(job, names)
        report = run_job(restorer, job, notice=_log.debug, cancel=cancel)
    except RequestError:
        raise
    except (KeygraphError, MemoryError) as error:
        if cancel.is_set():
            raise
        raise refusal(error, {str(order.upload): "the image", **names}) from error
    notices = tuple(for_clients(line, names) for line in report.notices)
    return Result(target, wanted.media, notices, report.seconds, job.size[0] * job.size[1], target.stat().st_size)


def _default_format(restorer: Restorer, name: str) -> str:
    """Return the format of a result that was not asked for: a spectrum has more bands than other formats hold."""
    if is_spectrum(restorer.manifest):
        return "tiff"
    return name if name in FORMATS else _OTHERWISE


def _check_tile(tile: int | str, pixels: int) -> None:
    """Check that a tile does not cut an image into so many that their list alone takes much memory."""
    least = math.isqrt(4 * pixels // _MOST_TILES)  # Tiles overlap by half at the most.
    if isinstance(tile, int) and tile < least:
        raise RequestError(
            422,
            "invalid_parameter",
            f"tile is {tile}, too small for an image of {pixels:,} pixels; give at least {least}",
        )


def _check_format(job: RestoreJob, names: Mapping[str, str]) -> None:
    """Check that the format can hold the result."""
    try:
        check_formats(job)
    except InputError as error:
        raise RequestError(422, "invalid_parameter", for_clients(str(error), names)) from error
