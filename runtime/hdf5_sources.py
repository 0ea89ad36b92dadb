"""Other files that an HDF5 file reads: of virtual datasets, external links, and external raw samples."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

_SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Bytes of the smallest user block before the signature; larger ones are this times a power of two.
USER_BLOCK = 512


def is_hdf5(path: Path) -> bool:
    """Return whether an HDF5 file begins at 0, or behind a user block of 512 bytes times a power of two."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start < size:
            file.seek(start)
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            start = 2 * start or USER_BLOCK
    return False


def source_files(path: Path) -> list[Path]:
    """Return the existing files that an HDF5 file reads, and those that they read.

    A name is looked for in all places in which HDF5 may look. Empty for other files, and where h5py is not installed:
    without it the file cannot be read either.
    """
    found: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        for name in _names(file):
            for place in places(name, file):
                if os.path.realpath(place) not in (*found, os.path.realpath(path)):
                    found[os.path.realpath(place)] = place
                    waiting.append(place)
    return list(found.values())


def places(name: str, file: Path) -> list[Path]:
    """Return the existing files that HDF5 may mean by a name in `file`; ``%b`` in it is the number of a block."""
    pattern = glob.escape(name).replace("%b", "*").replace("%%", "%")
    folders = [glob.escape(str(folder)) for folder in (file.parent, file.resolve().parent, Path())]
    tried = (os.path.join(folder, one) for one in (pattern, os.path.basename(pattern)) for folder in folders)
    return [Path(found) for place in tried for found in glob.glob(place) if os.path.isfile(found)]


def _names(path: Path) -> list[str]:
    """Return the names of other files in an HDF5 file, as far as it can be read."""
    names: list[str] = []
    try:
        if not is_hdf5(path):
            return []
        import h5py

        with h5py.File(path, "r") as file:

            def visit(name: str, link: Any) -> None:
                if isinstance(link, h5py.ExternalLink):
                    names.append(link.filename)
                elif isinstance(link, h5py.HardLink) and isinstance(item := file[name], h5py.Dataset):
                    names.extend(source.file_name for source in (item.virtual_sources() if item.is_virtual else ()))
                    names.extend(os.fsdecode(raw) for raw, *_ in item.external or ())

            file.visititems_links(visit)
    except Exception:  # whatever the damage leads h5py to
        pass
    return [name for name in dict.fromkeys(names) if name != "."]
