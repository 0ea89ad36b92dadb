"""Companion files: what is read or written along with a file that is named, and the check that no output replaces them.

An ENVI header has its samples in another file, a Zarr store is a folder whose files all belong to it, an ONNX file may
have its weights in others, a ``.mat`` file of version 7.3 may read others, a ``.mrxs`` slide has a folder, and an
engine has metadata and a log. This module is the only one that knows which; commands give it what they read and what
they write.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import InputError
from ..files import ENGINE_SUFFIX, is_folder, is_store
from .backends.engine_metadata import file_sha256, metadata_path
from .hdf5_sources import source_files

# Names of companions may be too long for the file system: then `Path.exists` raises, and `os.path.exists` does not.

#: Suffix of the file of samples that is written with an ENVI header.
SAMPLES_SUFFIX = ".img"

#: What ENVI's readers add to a header's name without ``.hdr`` to find the samples, in any case; nothing comes first.
SAMPLE_SUFFIXES = ("", ".img", ".dat", ".sli", ".hyspex", ".raw", ".bin", ".bsq", ".bil", ".bip")

#: An entry ``location`` of `TensorProto.external_data` as protobuf writes it: key, then the length of the value.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])")


def external_data_path(path: Path) -> Path:
    """Return the file in which export stores the weights of a large ONNX file."""
    return path.with_name(f"{path.name}.data")


def log_path(engine: Path) -> Path:
    """Return the path of an engine's build log."""
    return engine.with_name(f"{engine.name}.log")


def read_with(path: Path) -> list[Path]:
    """Return the files that are read when `path` is opened, as far as they exist, `path` first."""
    suffix = path.suffix.lower()
    others: Iterable[Path] = ()
    if suffix == ".hdr":
        others = samples_of(path)
    elif suffix == ".onnx":
        others = [path.parent / name for name in _external_data(path)]
    elif suffix == ENGINE_SUFFIX:
        others = [metadata_path(path)]
    elif suffix == ".mat":
        others = source_files(path)
    elif suffix == ".mrxs":
        others = [path.with_suffix("")]
    return [path, *(other for other in others if os.path.exists(other))]


def written_with(path: Path) -> list[Path]:
    """Return the files that may be written when `path` is written, `path` first."""
    suffix = path.suffix.lower()
    if suffix == ".hdr":
        return [path, path.with_suffix(SAMPLES_SUFFIX)]
    if suffix == ".onnx":
        return [path, external_data_path(path)]
    if suffix == ENGINE_SUFFIX:
        return [path, metadata_path(path), log_path(path)]
    return [path]


def content_digest(path: Path) -> str:
    """Return a digest of everything that is read when `path` is opened.

    For one file it is its SHA-256, whatever its name is; a Zarr store counts with the files in it.
    """
    files = [found for one in read_with(path) for found in (sorted(one.rglob("*")) if one.is_dir() else [one])]
    if files == [path]:
        return file_sha256(path)
    whole = hashlib.sha256()
    for file in files:
        if file.is_file():
            name = file.relative_to(path) if path in file.parents else file.name
            whole.update(f"{name}\0{file_sha256(file)}\0".encode(errors="surrogateescape"))
    return whole.hexdigest()


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check, before any work, that writing some files loses nothing but earlier files of their names.

    Files are compared by what they are, not by name: links and file systems that ignore case are seen through.

    Parameters
    ----------
    outputs
        The files to write, as they are named; and folders that are replaced as a whole.
    inputs
        The files that are read, as they are named.

    Raises
    ------
    InputError
        An output, or a companion of one, is an input or a companion of one; it is also written for another output; it
        exists and does not belong to the output; it lies inside a Zarr store; or a header is replaced whose samples
        are not.
    """
    named = list(outputs)
    for output in named:
        if (store := next((place for place in output.absolute().parents if is_store(place)), None)) is not None:
            raise InputError(f"{output} lies inside the Zarr store {store}; choose another place")
    written = [(output, file) for output in named for file in written_with(output)]
    _check_distinct(named, written)
    existing = [(output, file) for output, file in written if os.path.exists(file)]
    if not existing:
        return
    read = {_identity(file): (given, file) for given in inputs for file in read_with(given) if os.path.exists(file)}
    for output, file in existing:
        found = read.get(_identity(file)) or _read_inside(file, read.values())
        if found is not None:
            raise InputError(_conflict(output, file, *found))
        if file == output and (samples := _orphaned_samples(output)) is not None:
            raise InputError(
                f"{output} exists, and {samples} holds its samples, which would be left without a header; choose "
                "another name, or move both files away"
            )
        if file != output and not _belongs(file, output):
            raise InputError(
                f"{file} exists and does not belong to {output} alone, which may be written with it; choose another "
                "name, or move that file away"
            )


def _check_distinct(named: Iterable[Path], written: Iterable[tuple[Path, Path]]) -> None:
    """Check that no file is written for two outputs, nor taken by the readers of another."""
    claims = [*written, *((output, output.with_suffix("")) for output in named if output.suffix.lower() == ".hdr")]
    claimed: dict[object, list[tuple[Path, Path]]] = {}
    for output, file in claims:
        same = claimed.setdefault((_folder(file), unicodedata.normalize("NFC", file.name).casefold()), [])
        for other, its_file in same:
            if other is output or not (its_file.name == file.name or _one_name(its_file, file)):
                continue
            if other == output:
                raise InputError(f"{output} is named for two outputs; choose different names")
            raise InputError(f"{other} and {output} would both be written to {file}; choose different names")
        same.append((output, file))


def _one_name(first: Path, second: Path) -> bool:
    """Return whether the file system takes two names, equal but for case or accents, for one; tried in a new folder."""
    folder = first.absolute().parent
    existing = next(place for place in (folder, *folder.parents) if is_folder(place))
    try:
        with tempfile.TemporaryDirectory(prefix=".keygraph-", dir=existing) as place:
            Path(place, first.name).touch()
            return Path(place, second.name).exists()
    except OSError:
        return False


def _folder(file: Path) -> object:
    parent = file.parent
    return _identity(parent) if is_folder(parent) else os.path.realpath(parent)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _read_inside(folder: Path, read: Iterable[tuple[Path, Path]]) -> tuple[Path, Path] | None:
    """Return what is read from inside a folder that is replaced."""
    if not folder.is_dir():
        return None
    place = folder.resolve()
    return next((pair for pair in read if place in pair[1].resolve().parents), None)


def _conflict(output: Path, file: Path, given: Path, read: Path) -> str:
    """Return the message for a file that is written for `output` and read with the input `given`."""
    what = "is the input itself" if read == given else f"belongs to the input {given}"
    if file.is_dir() and read != file:
        return f"{output} would be replaced, and holds the input {given}; choose another place"
    if file == output:
        return f"{output} {what}; choose another place"
    return f"{output} is written with {file}, which {what}; choose another name"


def _belongs(file: Path, output: Path) -> bool:
    """Return whether a companion that exists belongs to the output, an earlier one, and to nothing else."""
    suffix = output.suffix.lower()
    if suffix == ENGINE_SUFFIX:
        return file == log_path(output) or _is_metadata(file)
    if not output.is_file():
        return False
    if suffix == ".onnx":
        others = (other for other in output.parent.glob("*.onnx") if not other.samefile(output))
        return file.name in _external_data(output) and not any(file.name in _external_data(other) for other in others)
    samples = next(samples_of(output), None)
    return (
        samples is not None
        and samples.samefile(file)
        and _start_of(output).startswith(b"ENVI")
        and not any(
            os.path.exists(header) and not header.samefile(output)
            for base in (file, file.with_suffix(""))
            for header in (base.with_name(f"{base.name}.hdr"), base.with_name(f"{base.name}.HDR"))
        )
    )


def _orphaned_samples(header: Path) -> Path | None:
    """Return an earlier header's file of samples, if it is not the one that would be written with a new header."""
    if header.suffix.lower() != ".hdr" or not _start_of(header).startswith(b"ENVI"):
        return None
    samples, written = next(samples_of(header), None), header.with_suffix(SAMPLES_SUFFIX)
    if samples is None or (os.path.exists(written) and samples.samefile(written)):
        return None
    return samples


def samples_of(header: Path) -> Iterator[Path]:
    """Yield the existing files in which ENVI's readers look for the samples of a header, in their order."""
    for suffixes in (SAMPLE_SUFFIXES, [suffix.upper() for suffix in SAMPLE_SUFFIXES[1:]]):
        for suffix in suffixes:
            file = header.with_name(f"{header.stem}{suffix}")
            if os.path.isfile(file):
                yield file


def _external_data(path: Path) -> list[str]:
    """Return the names of the files with an ONNX file's weights, relative to its folder.

    They are found by their encoding, without the package onnx, which running a model does not need.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names = set()
            for found in _LOCATION.finditer(content):
                low, *high = found[1]
                length = low % 128 + 128 * sum(high)
                names.add(content[found.end() : found.end() + length])
    except (OSError, ValueError):
        return []
    return sorted(os.fsdecode(name) for name in names if b"\0" not in name)


def _is_metadata(path: Path) -> bool:
    """Return whether a file is an engine's metadata."""
    start = _start_of(path)
    return start.startswith(b"{") and b'"engine_sha256"' in start


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""
