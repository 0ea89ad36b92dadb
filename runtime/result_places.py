"""Where results are written: their names, their folders, and that they can be there and replace nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import STORE_SUFFIX, check_space, is_folder, is_regular, is_store, is_writable, status
from .companion_files import check_outputs, written_with
from .io import cubes, output_files, slides, spectral_preview
from .io.images import READ_ONLY, SLIDES
from .io.input_files import InputFile
from .journal.job_folder import require_none
from .journal.space import occupied, on_one_disk
from .restore_job import RestoreJob


def targets(given: Sequence[InputFile], out: Path, spectrum: bool, into_folder: bool) -> list[Path]:
    """Return the file for each result.

    Parameters
    ----------
    given
        The images.
    out
        File for the result of one image, or folder for the results.
    spectrum
        True when the results are spectra.
    into_folder
        True when `out` is a folder whatever its name.

    Raises
    ------
    InputError
        `out` cannot be such a file or folder, or two results would have one name.
    """
    if not into_folder and out.suffix and (is_store(out) or not is_folder(out)):
        return [out]
    if is_store(out) or out.suffix.lower() == STORE_SUFFIX:
        raise InputError(f"{out} is a Zarr store, and no folder for several results; choose another place")
    if is_regular(out):
        raise InputError(f"{out} is a file; name a folder for several images")
    if status(out) is not None and not is_folder(out):
        raise InputError(f"cannot write {out}: it is a device or a pipe; name a file or a folder")
    targets: dict[Path, InputFile] = {}
    for image in given:
        name = Path(image.path.name)
        if is_store(image.path):
            name = name if name.suffix.lower() == STORE_SUFFIX else name.with_name(f"{name.name}{STORE_SUFFIX}")
        elif spectrum and name.suffix.lower() not in cubes.FORMATS:
            name = name.with_suffix(".mat")
        elif name.suffix.lower() in (*SLIDES, *slides.FORMATS):
            name = name.with_suffix(".tif")
        elif name.suffix.lower() in READ_ONLY:
            name = name.with_suffix(".png")
        other = targets.setdefault(out / image.subfolder / name, image)
        if other is not image:
            raise InputError(
                f"two of the inputs, {other} and {image}, would become {image.subfolder / name}; restore them into "
                "different folders"
            )
    return list(targets)


def make_folders(folders: Iterable[Path]) -> list[Path]:
    """Make folders and their parents; return those that did not exist, the innermost first."""
    made: list[Path] = []
    try:
        for folder in dict.fromkeys(folders):
            missing = [place for place in (folder, *folder.parents) if status(place) is None]
            folder.mkdir(parents=True, exist_ok=True)
            made = missing + made
            if not is_writable(folder):
                raise InputError(f"cannot write in {folder}: no permission; choose another place with -o")
    except (InputError, OSError) as error:
        for place in made:
            place.rmdir()
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; choose another place with -o") from error
    return made


def check_in_place(jobs: Iterable[RestoreJob], images: Sequence[Path]) -> None:
    """Check that no result is named like another file beside the images, such as the cube ``a.mat`` of ``a.png``.

    Elsewhere such a file is an earlier result, and is replaced.
    """
    folders = {os.path.realpath(path.parent) for path in images}
    for job in jobs:
        if os.path.exists(job.target) and os.path.realpath(job.target.parent) in folders and job.target not in images:
            raise InputError(
                f"{job.target} exists beside the images, and would be replaced by the result of "
                f"{job.image.file.path.name}; choose another folder with -o"
            )


def check_formats(job: RestoreJob) -> None:
    """Check that the formats of a job's result and preview can hold them, and that they can be written there.

    Raises
    ------
    InputError
        They cannot, or a run with other options has left work for the result.
    """
    if job.space is None:
        require_none(job.target)
    if job.preview is not None:
        spectral_preview.check_target(job.preview, *job.size)
    output_files.check_target(job.target, job.size, job.as_cube)


def check_places(jobs: Sequence[RestoreJob], read: Iterable[Path], also: Sequence[Path] = ()) -> None:
    """Check that the results of some jobs replace nothing that is read, and that there is space for them.

    Parameters
    ----------
    jobs
        The jobs. Their results are in one folder or below it.
    read
        Files that are read, apart from the jobs' own.
    also
        Further files that are written.

    Raises
    ------
    InputError
        As `companion_files.check_outputs`, or there is not enough space.
    """
    own = [header.file.path for job in jobs for header in (job.image, *job.inputs.values())]
    check_outputs([*also, *(target for job in jobs for target in job.targets)], [*read, *own])
    if not jobs:
        return
    replaced = sum(file.stat().st_size for job in jobs for file in written_with(job.target) if os.path.exists(file))
    sizes = [job.result_bytes for job in jobs]
    results = f"the result of {jobs[0].image.file} needs" if len(jobs) == 1 else f"the {len(jobs)} results need"
    # A result is complete before it replaces an earlier one. One at a time is worked on.
    needed = max(max(sizes), sum(sizes) - replaced)
    needed += max((job.space.beside - occupied(job.target) for job in jobs if job.space is not None), default=0)
    folder, scratch_folder = jobs[0].target.parent, jobs[0].options.scratch_folder
    scratch = max((job.space.scratch for job in jobs if job.space is not None), default=0)
    if scratch and not on_one_disk(folder, scratch_folder):
        check_space(scratch_folder, scratch, "images in work need")
        scratch = 0
    check_space(folder, needed + scratch, results)
