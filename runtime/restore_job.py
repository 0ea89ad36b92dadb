"""Restoration jobs: which file is read, what is written and how, checked before any work."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..manifest import IMAGE_INPUT
from .io import cubes, output_files, spectral_preview
from .io.input_files import InputFile, InputHeader, read_headers
from .preprocess.normalization import is_spectrum
from .preprocess.request import check_names, check_sizes, expected_channels, result_size
from .restore_options import RestoreOptions
from .restorer import Restorer


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
    size
        Height, width and channels of the result.
    as_cube
        True when the result is written as a spectral cube, False for a picture.
    """

    image: InputHeader
    inputs: Mapping[str, InputHeader]
    target: Path
    preview: Path | None
    options: RestoreOptions
    size: tuple[int, int, int]
    as_cube: bool

    def check_targets(self) -> None:
        """Check that the result and the preview can be written.

        Raises
        ------
        InputError
            A target is one of the inputs or the other target, or cannot be written or hold the result.
        """
        targets = [self.target] if self.preview is None else [self.target, self.preview]
        for header, target in itertools.product((self.image, *self.inputs.values()), targets):
            if target.exists() and os.path.samefile(header.file.path, target):
                raise InputError(f"{target} is the input itself; choose another place")
        if self.preview is not None:
            if self.preview.resolve() == self.target.resolve():
                raise InputError(f"{self.preview} is the place of the result; choose another one for the preview")
            spectral_preview.check_target(self.preview, *self.size)
        output_files.check_target(self.target, self.size, self.as_cube)


def plan_jobs(
    restorer: Restorer,
    images: Sequence[InputFile],
    inputs: Mapping[str, InputFile],
    out: Path,
    options: RestoreOptions,
    *,
    preview: Path | None = None,
    into_folder: bool = False,
) -> list[RestoreJob]:
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
    into_folder
        True when `out` is a folder whatever its name; else it is a file where it has a suffix and is no folder yet.

    Returns
    -------
    list[RestoreJob]
        One for each image. In a folder a result has its image's name; a spectrum restored from a picture becomes a
        ``.mat`` file.

    Raises
    ------
    InputError
        An option, input or target is not possible.
    """
    options.check(restorer.manifest)
    targets = _targets(images, out, is_spectrum(restorer.manifest), into_folder or len(images) > 1)
    if preview is not None and len(images) > 1:
        raise InputError(f"--preview is for one image, and there are {len(images)}; restore the one to look at alone")
    jobs = [
        plan_job(restorer, image, inputs, target, options, preview)
        for image, target in zip(images, targets, strict=True)
    ]
    if targets[0] != out:
        _make_folder(out)
    for job in jobs:
        job.check_targets()
    return jobs


def plan_job(
    restorer: Restorer,
    image: InputFile,
    inputs: Mapping[str, InputFile],
    target: Path,
    options: RestoreOptions,
    preview: Path | None = None,
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

    Raises
    ------
    InputError
        A file cannot be read or does not fit the model, or an option is not possible.
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
    restorer.choose_tiles(height, width, options)
    return RestoreJob(
        image=headers.pop(IMAGE_INPUT),
        inputs=headers,
        target=target,
        preview=preview,
        options=options,
        size=(height * manifest.scale, width * manifest.scale, channels.channels),
        as_cube=output_files.holds_cube(target, spectrum),
    )


def _targets(images: Sequence[InputFile], out: Path, spectrum: bool, into_folder: bool) -> list[Path]:
    """Return the file for each result."""
    if not into_folder and not out.is_dir() and out.suffix:
        return [out]
    if out.is_file():
        raise InputError(f"{out} is a file; name a folder for several images")
    targets: dict[Path, None] = {}
    for image in images:
        name = Path(image.path.name)
        if spectrum and name.suffix.lower() not in cubes.FORMATS:
            name = name.with_suffix(".mat")
        if out / name in targets:
            raise InputError(f"two of the inputs are called {name}; restore them into different folders")
        targets[out / name] = None
    return list(targets)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; choose another place with -o") from error
