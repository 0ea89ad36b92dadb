"""Restoring a picture that need not fit in memory: decoded into a file, restored into one, and encoded from that."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from ..errors import KeygraphError
from ..files import check_space
from ..version import version
from .backends.base import resolve_k
from .companion_files import content_digest
from .io import output_files
from .io.images import Picture, streaming
from .io.scratch_file import ScratchFile
from .journal.job_folder import JobFolder, require_none
from .preprocess.normalization import result_type
from .preprocess.request import make_request
from .restore_job import RestoreJob
from .restored import Restored
from .restorer import Restorer
from .tiling.progress import CancelToken, Progress
from .tiling.run import TileSession

#: Name of the decoded picture in the folder of a job, where several processes read it.
_PICTURE = "picture"


def goes_through_files(restorer: Restorer, job: RestoreJob) -> bool:
    """Return whether a job is for `restore_in_files`: a picture in exact tiles, or a large one in any.

    Parameters
    ----------
    restorer
        The model for which the job was planned.
    job
        What is read and written, and how.
    """
    return job.space is not None or _is_exact(restorer, job)


def restore_in_files(
    restorer: Restorer,
    job: RestoreJob,
    progress: Progress | None,
    notice: Callable[[str], None],
    cancel: CancelToken | None = None,
) -> tuple[Restored, float, list[str]]:
    """Restore a picture from file to file, so that it is never in memory as a whole.

    What is done of a large one survives when this process is stopped, and is not done again. The feature maps of exact
    tiles lie beside the result for that; in a folder that the user names for scratch files, they do not survive.

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
    cancel
        As for `Restorer.restore`.

    Returns
    -------
    restored, seconds, notices
        How it was restored, the time of that without decoding and encoding, and lines to show to the user.

    Raises
    ------
    InputError
        A file cannot be decoded or written, or an earlier run of the job was of another image, model or option.
    KeygraphError
        The model failed, or `cancel` was set.
    """
    folder = job.options.scratch_folder
    keeps = job.space is not None and (job.options.scratch is None or not _is_exact(restorer, job))
    if not keeps:
        require_none(job.target)
    with contextlib.ExitStack() as files:
        kept = files.enter_context(_kept_work(restorer, job, notice)) if keeps else None
        image = _decoded(restorer, job, kept, files)
        began = time.perf_counter()
        try:
            request = make_request(restorer.manifest, cast(Any, image.pixels))
            if kept is None:
                result = files.enter_context(contextlib.closing(ScratchFile(folder, *job.size, request.dtype)))
            else:
                result = kept.result
            restored = restorer.restore_request(request, kept or result, job.options, progress, kept, cancel)
        except KeygraphError as error:
            raise type(error)(f"{job.image.file}: {error}") from error
        seconds = time.perf_counter() - began
        picture = streaming.with_pixels(image, result, folder, files)
        notices = [*image.notices, *restored.notices, *picture.notices[len(image.notices) :]]
        notices += output_files.write_streaming(job.target, picture, folder, job.encoding)
        if kept is not None:
            kept.remove()
    return restored, seconds, notices


def _decoded(restorer: Restorer, job: RestoreJob, kept: JobFolder | None, files: contextlib.ExitStack) -> Picture:
    """Decode a picture into scratch files, with a name where other processes read it."""
    if kept is None or not isinstance(restorer.session, TileSession):
        return job.image.read_streaming(job.options.scratch_folder, files)
    decoded = math.prod(job.image.size) * job.image.dtype.itemsize
    check_space(kept.folder, decoded, "the decoded picture needs")
    files.callback((kept.folder / _PICTURE).unlink, missing_ok=True)
    image = job.image.read_streaming(kept.folder, files, _PICTURE)
    os.fsync(cast(Any, image.pixels).fileno())
    return image


def _is_exact(restorer: Restorer, job: RestoreJob) -> bool:
    """Return whether a picture is restored in exact tiles, as far as its memory can be estimated."""
    scale = restorer.manifest.scale
    height, width = job.size[0] // scale, job.size[1] // scale
    return job.tiled and restorer.manifest.global_statistics and restorer.restores_exactly(height, width, job.options)


@contextlib.contextmanager
def _kept_work(restorer: Restorer, job: RestoreJob, notice: Callable[[str], None]) -> Iterator[JobFolder]:
    """Open the folder with the work done for a job, and say where it goes on and where it stopped."""
    manifest, options = restorer.manifest, job.options
    dtype = result_type(manifest, job.image.dtype)
    identity = {
        "image": content_digest(job.image.file.path),
        "page": job.image.file.page,
        "model": restorer.fingerprint,
        "k": resolve_k(manifest, options.k),
        "tile": options.tile,
        "overlap": options.overlap,
        "batch": options.batch,
        "global statistics": options.global_statistics,
        "engine": restorer.description,
        "version of keygraph": version(),
        "size": job.size,
        "type": dtype.name,
    }
    with contextlib.closing(JobFolder(job.target, identity, job.size, dtype, manifest.scale)) as kept:
        if kept.begun or kept.damaged:
            below = ", since what was written below it is damaged" if kept.damaged else ""
            notice(f"{job.image.file}: going on at {kept.position}{below}")
        try:
            yield kept
        except BaseException:
            if kept.begun:
                notice(
                    f"{job.image.file}: stopped at {kept.position}; the same command goes on there "
                    f"(what is done is kept in {kept.folder})"
                )
            raise
