"""The image files named on a command line, and the model's other inputs: ``--input NAME=FILE``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import status
from ..runtime.companion_files import read_with
from ..runtime.io.image_folders import read_folder
from ..runtime.io.input_files import InputFile, is_image_folder


def find_images(
    given: Sequence[Path],
    beside: Mapping[str, InputFile],
    notice: Callable[[str], None],
    *,
    recursive: bool = False,
    results: Path | None = None,
) -> list[InputFile]:
    """Return the image files, with every folder replaced by the images in it, sorted by name.

    Cubes are taken only from folders without pictures, because arrays beside pictures are
    usually masks.

    Parameters
    ----------
    given
        Image files (``FILE:VARIABLE`` for one array of a file with several) or folders.
    beside
        What `parse_inputs` returned: these files are not images to restore.
    notice
        Called with a line for each folder that holds something else, too.
    recursive, results
        As for `read_folder`.

    Raises
    ------
    InputError
        A file does not exist, or a folder holds no image.
    """
    found: list[InputFile] = []
    exclude = {Path(os.path.realpath(file)) for other in beside.values() for file in read_with(other.path)}
    for path in given:
        file = InputFile.parse(path)
        if is_image_folder(path):
            folder = read_folder(path, exclude, recursive=recursive, results=results)
            found += folder.images
            if folder.notice is not None:
                notice(folder.notice)
        else:
            file.check_exists()
            found.append(file)
    return found


def parse_inputs(options: Sequence[str]) -> dict[str, InputFile]:
    """Parse ``--input NAME=FILE`` options.

    Raises
    ------
    InputError
        An option has another form or is given twice, or its file does not exist.
    """
    found: dict[str, InputFile] = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not (name and equals and file):
            raise InputError(f"--input is {option!r}; give NAME=FILE, for instance mask=mask.mat")
        if name in found:
            raise InputError(f"--input {name} is given twice; give one file, or a folder for a folder of images")
        found[name] = InputFile.parse(file)
        if status(found[name].path) is None:
            raise InputError(f"--input {name}: {found[name].path} does not exist; give a file, or a folder of them")
    return found
