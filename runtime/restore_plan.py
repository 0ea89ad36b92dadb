"""Plan restoration jobs, and check everything before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..files import is_folder
from ..manifest import IMAGE_INPUT
from .earlier_results import EarlierResults, find_missing
from .io import output_files
from .io.encoding import DEFAULT, Encoding
from .io.input_files import InputFile, read_headers
from .journal.space import space_for
from .preprocess.normalization import is_spectrum, result_type
from .preprocess.request import check_names, check_sizes, expected_channels, result_size
from .reports import FailedImage, SkippedImage
from .restore_job import RestoreJob
from .restore_options import RestoreOptions
from .restorer import Restorer
from .result_places import check_formats, check_in_place, check_places, make_folders, targets
from .results_file import RESULTS_FILE, Recipe, check_ours


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
    files = targets(images, out, is_spectrum(restorer.manifest), several)
    if preview is not None and len(images) > 1:
        raise InputError(f"--preview is for one image, and there are {len(images)}; restore the one to look at alone")
    in_folder = files[0] != out
    folder = out if several and in_folder else None
    if folder is not None:
        check_ours(folder / RESULTS_FILE)
    wanted = list(zip(images, files, strict=True))
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
        check_in_place(jobs, given)
    check_places(jobs, [*given, *read], [] if folder is None else [folder / RESULTS_FILE])
    made = make_folders([out, *(job.target.parent for job in jobs)]) if jobs and in_folder else []
    fitting: list[RestoreJob] = []
    try:
        for job in jobs:
            with failures.of(job.image.file):
                check_formats(job)
                fitting.append(job)
    finally:
        used = {place for job in fitting for place in job.target.parents}
        for empty in made:
            if empty not in used:
                empty.rmdir()
    recorded = folder if folder is not None and is_folder(folder) else None
    return RestorePlan(tuple(fitting), tuple(failures.images), tuple(skipped), changed, recorded)


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
    tiled = choice.plan.count > 1 and not (headers or preview is not None or header.is_cube or as_cube)
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
