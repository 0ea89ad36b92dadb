"""The files that a command line names: images, folders of them, and what goes with each by ``--input NAME=FILE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..runtime.io.input_files import Source, in_folder, source


def find_images(given: Sequence[Path], beside: Mapping[str, Source]) -> list[Source]:
    """Replace every folder by the images in it, sorted by name; folders are not searched below.

    Cubes are taken from a folder that holds no picture, since others keep masks and the like beside their pictures.

    Parameters
    ----------
    given
        Image files (``FILE:VARIABLE`` for an array in a file of several) or folders of them.
    beside
        What `parse_inputs` returned: these files are no images themselves.

    Raises
    ------
    InputError
        One does not exist, or a folder holds no image.
    """
    found: list[Source] = []
    for path in given:
        one = source(path)
        if path.is_dir():
            found += [Source(file) for file in in_folder(path, {other.path.resolve() for other in beside.values()})]
        elif one.path.exists():
            found.append(one)
        else:
            raise InputError(f"{path} does not exist; give an image file or a folder of them")
    return found


def parse_inputs(options: Sequence[str]) -> dict[str, Source]:
    """Read ``--input NAME=FILE`` options; raises `InputError` for what is none, is missing, or comes twice."""
    found: dict[str, Source] = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not (name and equals and file):
            raise InputError(f"--input is {option!r}; give NAME=FILE, for instance mask=mask.mat")
        if name in found:
            raise InputError(f"--input {name} is given twice; give one file, or a folder for a folder of images")
        found[name] = source(file)
        if not found[name].path.exists():
            raise InputError(f"--input {name}: {found[name].path} does not exist; give a file, or a folder of them")
    return found
