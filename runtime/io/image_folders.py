"""Which files of a folder are images, and what else is in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError, counted
from ...files import is_folder, is_store
from ..companion_files import read_with
from ..results_file import RESULTS_FILE
from . import cubes, images, slides
from .input_files import SUFFIXES, InputFile


@dataclass(frozen=True)
class Folder:
    """What is in a folder of images.

    Attributes
    ----------
    path
        The folder.
    images
        The images sorted by name, those of each subfolder after those of its parent.
    left_out
        What else is in it, and is not read: a number and a kind each, such as ``"2 hidden"``.
    """

    path: Path
    images: tuple[InputFile, ...]
    left_out: tuple[str, ...]

    @property
    def notice(self) -> str | None:
        """One line about what is not read, or None when nothing is left out."""
        return f"not read in {self.path}: {', '.join(self.left_out)}" if self.left_out else None


@dataclass
class _Others:
    """What is in folders beside images: how often each suffix, and numbers of hidden files and of folders."""

    suffixes: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    folders: int = 0
    links: int = 0
    results: int = 0

    @property
    def words(self) -> list[str]:
        found = [f"{count} {suffix}" for suffix, count in sorted(self.suffixes.items())]
        found += [f"{self.hidden} hidden"] if self.hidden else []
        found += [counted(self.folders, "subfolder")] if self.folders else []
        found += [f"{self.links} link{'s' if self.links > 1 else ''} to folders"] if self.links else []
        return found + (["the folder of the results"] if self.results else [])


def read_folder(
    folder: Path, exclude: Collection[Path] = (), *, recursive: bool = False, results: Path | None = None
) -> Folder:
    """Find the pictures in a folder, or its cubes where it holds no picture. A Zarr store is one picture.

    Hidden files and folders are left out: those of macOS and editors, and what an interrupted write of keygraph's left.
    Links to folders are not followed, so that no folder is searched twice.

    Parameters
    ----------
    folder
        The folder.
    exclude
        Resolved paths to leave out without a word.
    recursive
        Search the folders below it, too. Each gives its pictures, or its cubes where it holds no picture.
    results
        Folder for the results, which is not searched where it is below `folder`.

    Raises
    ------
    InputError
        There is no image, or a folder cannot be read.
    """
    others = _Others()
    found: list[InputFile] = []
    waiting = [Path()]
    while waiting:
        subfolder = waiting.pop()
        names, below = _list(folder / subfolder, exclude, recursive, results, others)
        found += [InputFile(folder / subfolder / name, subfolder=subfolder) for name in names]
        waiting += [subfolder / name for name in reversed(below)]
    if not found:
        held = f" ({', '.join(others.words)})" if others.words else ""
        raise InputError(f"{folder} holds no image{held}; it takes {', '.join(SUFFIXES)}")
    return Folder(folder, tuple(found), tuple(others.words))


def _list(
    folder: Path, exclude: Collection[Path], recursive: bool, results: Path | None, others: _Others
) -> tuple[list[str], list[str]]:
    """Return the names of the images in one folder and of the folders to search below it; count the rest."""
    try:
        entries = sorted(path for path in folder.iterdir() if Path(os.path.realpath(path)) not in exclude)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}; give another folder") from error
    hidden = [path for path in entries if path.name.startswith(".")]
    # A link that leads nowhere is one image that cannot be read; where a file cannot be looked up, none can.
    is_inner = {path: os.path.isdir(path) if os.path.islink(path) else is_folder(path) for path in entries}
    stores = [path for path in entries if is_inner[path] and is_store(path)]
    folders = [path for path in entries if path not in hidden and is_inner[path] and path not in stores]
    files = [path for path in entries if path not in hidden and path not in folders]
    taken: list[Path] = []
    for suffixes in ((*images.FORMATS, *images.READ_ONLY, *slides.FORMATS), cubes.FORMATS):
        taken = taken or [path for path in files if path.suffix.lower() in suffixes or path in stores]
    companions = {other for path in taken for other in read_with(path)}
    others.suffixes.update(
        path.suffix.lower() or "without a suffix"
        for path in files
        if path not in companions and path.name != RESULTS_FILE
    )
    others.hidden += len(hidden)
    if not recursive:
        others.folders += len(folders)
        return [path.name for path in taken], []
    below = []
    for path in folders:
        if results is not None and os.path.realpath(path) == os.path.realpath(results):
            others.results += 1
        elif path.is_symlink():
            others.links += 1
        else:
            below.append(path.name)
    return [path.name for path in taken], below
