"""Restoration jobs: which file is read, what is written and how, checked before any work."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..files import STORE_SUFFIX, check_space, is_folder, is_regular, is_store, is_writable, status
from ..manifest import IMAGE_INPUT
from .companion_files import check_outputs, written_with
from .earlier_results import EarlierResults, find_missing
from .io import cubes, output_files, slides, spectral_preview
from .io.encoding import DEFAULT, Encoding
from .io.images import READ_ONLY, SLIDES
from .io.input_files import InputFile, InputHeader, read_headers
from .journal.job_folder import require_none
from .journal.space import Space, occupied, on_one_disk, space_for
from .preprocess.normalization import is_spectrum, result_type
from .preprocess.request import check_names, check_sizes, expected_channels, result_size
from .reports import FailedImage, SkippedImage
from .restore_options import RestoreOptions
from .restorer import Restorer
from .results_file import RESULTS_FILE, Recipe, check_ours


@dataclass(frozen=True)
class RestoreJob:
    """One image file to restore.

    Attributes
    ----------
    image
        The image, with its header.
    inputs
        The model's other inputs by name, with their headers.
    target
        File for the result.
    preview
        File for a preview of a spectrum; None for no preview.
    options
        How the image is restored.
    encoding
        How the result is encoded.
    size
        Height, width and channels of the result.
    as_cube
        True when the result is written as a spectral cube, False for a picture.
    result_bytes
        Estimate of the size of the result's file.
    tiled
        True for one picture that is restored in tiles into another, so that it need never be in memory as a whole.
    space
        Disk space for a picture and its result that are kept in files meanwhile, so that a run that was stopped can go
        on; None where they are in memory.
    """

    image: InputHeader
    inputs: Mapping[str, InputHeader]
    target: Path
    preview: Path | None
    options: RestoreOptions
    encoding: Encoding
    size: tuple[int, int, int]
    as_cube: bool
    result_bytes: int
    tiled: bool
    space: Space | None

    @property
    def memory_bytes(self) -> int:
        """Estimate of the memory for the decoded image and inputs, the result, and the result's file."""
        decoded = sum(math.prod(one.size) * one.dtype.itemsize for one in (self.image, *self.inputs.values()))
        return decoded + math.prod(self.size) * self.image.dtype.itemsize + self.result_bytes

    @property
    def targets(self) -> list[Path]:
        """The files to write, as they are named."""
        return [self.target] if self.preview is None else [self.target, self.preview]

    @property
    def files(self) -> dict[str, InputFile]:
        """The files that are read, by input."""
        return {IMAGE_INPUT: self.image.file, **{name: header.file for name, header in self.inputs.items()}}

    def check_formats(self) -> None:
        """Check that the formats of the result and the preview can hold them, and that they can be written there.

        Raises
        ------
        InputError
            They cannot, or a run with other options has left work for the result.
        """
        if self.space is None:
            require_none(self.target)
        if self.preview is not None:
            spectral_preview.check_target(self.preview, *self.size)
        output_files.check_target(self.target, self.size, self.as_cube)


class OptionError(InputError):
    """An option does not fit the model or the size of an image."""


class _Failures:
    """Collects the images that fail, or lets the first failure end everything."""

    def __init__(self, *, stop: bool) -> None:
        self.images: list[FailedImage] = []
        self._stop = stop
        self._misfit: OptionError | None = None

    @contextmanager
    def of(self, image: InputFile) -> Iterator[None]:
        """Catch what is raised for one image."""
        try:
            yield
        except Exception as error:
            if self._stop:
                raise
            self.images.append(FailedImage.of(image, error))
            if isinstance(error, OptionError):
                self._misfit = error

    def raise_misfit(self) -> None:
        """Raise the error of an option, if there was one: no image could be restored with it."""
        if self._misfit is not None:
            raise self._misfit


@dataclass(frozen=True)
class RestorePlan:
    """What is restored of several images.

    Attributes
    ----------
    jobs
        The images that can be restored.
    failed
        The images that cannot, as far as their headers tell.
    skipped
        The images whose results exist and are left.
    changed
        How many results that exist are made again, by what has changed since.
    folder
        The folder of the results of several images, in which they are recorded; None for one image, and where nothing
        is restored and the folder does not exist.
    """

    jobs: tuple[RestoreJob, ...]
    failed: tuple[FailedImage, ...] = ()
    skipped: tuple[SkippedImage, ...] = ()
    changed: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None


def plan_jobs(
    restorer: Restorer,
    images: Sequence[InputFile],
    inputs: Mapping[str, InputFile],
    out: Path,
    options: RestoreOptions,
    *,
    preview: Path | None = None,
    encoding: Encoding = DEFAULT,
    into_folder: bool = False,
    fail_fast: bool = False,
    skip_existing: Recipe | None = None,
    read: Sequence[Path] = (),
) -> RestorePlan:
    """Plan the restoration of image files, and check everything that can be known without decoding them.

    Parameters
    ----------
    restorer
        The model.
    images
        The images, at least one.
    inputs
        The model's other inputs by name: a file for all images, or a folder with a file of each image's name.
    out
        File for the result of one image, or folder for the results, which is created.
    options
        How the images are restored.
    preview
        File for a preview of a spectrum, for one image only.
    encoding
        How the results are encoded.
    into_folder
        True when `out` is a folder whatever its name; else it is a file where it has a suffix and is no folder yet.
    fail_fast
        False to plan the other images of several when one of them cannot be restored.
    skip_existing
        What results are made with, to leave those that exist, unless the record of their folder says that they were
        made of something else; None to make all.
    read
        Other files that are read, such as the model, which no result may replace.

    Returns
    -------
    RestorePlan
        In a folder a result has its image's subfolder and name; a spectrum restored from a picture becomes a ``.mat``
        file, a picture in a format that is only read a ``.png`` file, and a slide a ``.tif`` file.

    Raises
    ------
    InputError
        An option or target is not possible, a result would replace a file that is read or that does not belong to it,
        or there is no space for the results; for a single image, and with `fail_fast`, also that an image cannot be
        restored.
    """
    options.check(restorer.manifest)
    check_names(restorer.manifest, inputs)
    several = into_folder or len(images) > 1
    targets = _targets(images, out, is_spectrum(restorer.manifest), several)
    if preview is not None and len(images) > 1:
        raise InputError(f"--preview is for one image, and there are {len(images)}; restore the one to look at alone")
    in_folder = targets[0] != out
    folder = out if several and in_folder else None
    if folder is not None:
        check_ours(folder / RESULTS_FILE)
    wanted = list(zip(images, targets, strict=True))
    skipped: list[SkippedImage] = []
    changed = Counter[str]()
    if skip_existing is not None:
        earlier = EarlierResults(out if in_folder else out.parent, skip_existing)
        wanted, skipped, changed = find_missing(wanted, inputs, earlier)
    failures = _Failures(stop=fail_fast or not several)
    jobs: list[RestoreJob] = []
    for image, target in wanted:
        with failures.of(image):
            jobs.append(plan_job(restorer, image, inputs, target, options, preview, encoding))
    if not jobs:
        failures.raise_misfit()
    given = [image.path for image in images]
    if in_folder:
        _check_in_place(jobs, given)
    check_places(jobs, [*given, *read], [] if folder is None else [folder / RESULTS_FILE])
    made = _make_folders([out, *(job.target.parent for job in jobs)]) if jobs and in_folder else []
    fitting: list[RestoreJob] = []
    try:
        for job in jobs:
            with failures.of(job.image.file):
                job.check_formats()
                fitting.append(job)
    finally:
        used = {place for job in fitting for place in job.target.parents}
        for empty in made:
            if empty not in used:
                empty.rmdir()
    recorded = folder if folder is not None and is_folder(folder) else None
    return RestorePlan(tuple(fitting), tuple(failures.images), tuple(skipped), changed, recorded)


def _check_in_place(jobs: Iterable[RestoreJob], images: Sequence[Path]) -> None:
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
    results = "the result needs" if len(jobs) == 1 else f"the {len(jobs)} results need"
    # A result is complete before it replaces an earlier one. One at a time is worked on.
    needed = max(max(sizes), sum(sizes) - replaced)
    needed += max((job.space.beside - occupied(job.target) for job in jobs if job.space is not None), default=0)
    folder, scratch_folder = jobs[0].target.parent, jobs[0].options.scratch_folder
    scratch = max((job.space.scratch for job in jobs if job.space is not None), default=0)
    if scratch and not on_one_disk(folder, scratch_folder):
        check_space(scratch_folder, scratch, "images in work need")
        scratch = 0
    check_space(folder, needed + scratch, results)


def plan_job(
    restorer: Restorer,
    image: InputFile,
    inputs: Mapping[str, InputFile],
    target: Path,
    options: RestoreOptions,
    preview: Path | None = None,
    encoding: Encoding = DEFAULT,
) -> RestoreJob:
    """Plan the restoration of one image, and check all but its targets, whose folder may not exist yet.

    Parameters
    ----------
    restorer
        The model.
    image
        The image.
    inputs
        The model's other inputs by name: a file, or a folder that holds a file with the image's name.
    target, preview
        Files for the result, and for a preview of a spectrum or None.
    options
        How the image is restored.
    encoding
        How the result is encoded.

    Raises
    ------
    InputError
        A file cannot be read or does not fit the model, or an option is not possible (`OptionError`).
    """
    manifest = restorer.manifest
    spectrum = is_spectrum(manifest)
    if preview is not None and not spectrum:
        raise InputError("a preview is for spectra, and this model makes pictures; leave it out")
    check_names(manifest, inputs)
    expected = {name: expected_channels(manifest, name) for name in (IMAGE_INPUT, *inputs)}
    headers = read_headers(image, inputs, expected)
    try:
        height, width = result_size(manifest, headers[IMAGE_INPUT].height, headers[IMAGE_INPUT].width)
        channels = check_sizes(manifest, {name: header.size for name, header in headers.items()})
    except InputError as error:
        raise InputError(f"{image}: {error}") from None
    try:
        choice = restorer.choose_tiles(height, width, options)
    except InputError as error:
        raise OptionError(str(error)) from None
    size = (height * manifest.scale, width * manifest.scale, channels.channels)
    as_cube = output_files.holds_cube(target, spectrum)
    header = headers.pop(IMAGE_INPUT)
    dtype = result_type(manifest, header.dtype)
    try:
        output_files.check_encoding(target, size, dtype, as_cube, encoding)
    except InputError as error:
        raise OptionError(str(error)) from None
    tiled = len(choice.plan.tiles) > 1 and not (headers or preview is not None or header.is_cube or as_cube)
    return RestoreJob(
        image=header,
        inputs=headers,
        target=target,
        preview=preview,
        options=options,
        encoding=encoding,
        size=size,
        as_cube=as_cube,
        result_bytes=output_files.estimated_bytes(target, size, dtype, as_cube, encoding),
        tiled=tiled,
        space=space_for(choice.plan, manifest.scale, header.size, header.dtype, size, dtype) if tiled else None,
    )


def _targets(given: Sequence[InputFile], out: Path, spectrum: bool, into_folder: bool) -> list[Path]:
    """Return the file for each result."""
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


def _make_folders(folders: Iterable[Path]) -> list[Path]:
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
