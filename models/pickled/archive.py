"""PyTorch's file formats, read through `machine`: zip archives, and the format before version 1.6.

The file is mapped into memory, copy on write, and tensors are views of it: what is not used is never read.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from .machine import interpret
from .rebuild import Storage, StorageType, check_read
from .values import DamagedPickleError, Global, Log, Stub

#: First value of a file in the format before PyTorch 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

#: What another tool has compressed may expand to this multiple of the file.
_MOST_EXPANSION = 50


def read_zip(path: Path, log: Log) -> Any:
    """Read a file that ``torch.save`` of PyTorch 1.6 or newer wrote.

    Parameters
    ----------
    path
        The file.
    log
        Gets the classes of all records.

    Returns
    -------
    Any
        What was saved, with `Stub` for objects other than tensors and plain containers.

    Raises
    ------
    RefusedPickleError, DamagedPickleError
        See `machine.interpret`.
    zipfile.BadZipFile
        The archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        for info in records.values():
            if info.CRC == 0:  # what `torch.serialization.set_crc32_options(False)` leaves: no checksum
                info.CRC = None  # type: ignore[assignment] # so zipfile does not check either
        pickles = [name for name in records if PurePosixPath(name).name == "data.pkl"]
        if not pickles:
            raise DamagedPickleError("the archive has no data.pkl")
        folder = str(PurePosixPath(min(pickles, key=len)).parent)
        folder = "" if folder == "." else f"{folder}/"
        compressed = [info for info in records.values() if info.compress_type != zipfile.ZIP_STORED]
        if sum(info.file_size for info in compressed) > _MOST_EXPANSION * path.stat().st_size:
            raise DamagedPickleError("its compressed records are many times larger than the file")
        order = f"{folder}byteorder"
        swap = order in records and archive.read(order).decode() != sys.byteorder
        mapped = _map(path)
        storages: dict[str, torch.UntypedStorage] = {}

        def persistent(identifier: Any) -> Storage:
            match identifier:
                case ("storage", StorageType(dtype), str() as key, _, int() as count, *_):
                    pass
                case _:
                    raise DamagedPickleError("a persistent id that is no storage")
            info = records.get(f"{folder}data/{key}")
            if info is None:
                raise DamagedPickleError(f"the storage {key!r:.40} is missing")
            _check_stored(key, count, dtype, info.file_size)
            if key not in storages:
                if info.compress_type == zipfile.ZIP_STORED:
                    storages[key] = _view(mapped, _start(mapped, info), info.file_size, dtype, swap, info.CRC or 0)
                else:
                    data = _bytes(archive.read(info))
                    storages[key] = _view(data, 0, info.file_size, dtype, swap)
            return Storage(dtype, storages[key])

        data = memoryview(archive.read(records[f"{folder}data.pkl"]))
        return interpret(data, log=log, persistent=persistent, nested=_nested(log))[0]


def read_pickle(path: Path, log: Log) -> Any:
    """Read a pickle, or a file in PyTorch's format before version 1.6; parameters and errors as for `read_zip`."""
    return _read_legacy(_map(path), log, _nested(log))


def _nested(log: Log) -> Callable[[bytes], Any]:
    """Return a function that reads a storage which ``pickle.dump`` wrote as the bytes of a file of its own."""
    return lambda data: _read_legacy(_bytes(data), log, None)


def _read_legacy(mapped: torch.UntypedStorage, log: Log, nested: Callable[[bytes], Any] | None) -> Any:
    data = memoryview(torch.empty(0, dtype=torch.uint8).set_(mapped).numpy().data)
    first, position = interpret(data, log=log, nested=nested)
    if first != LEGACY_MAGIC:
        return first
    _, position = interpret(data, position, log=log)
    system, start = interpret(data, position, log=log)
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    swap = little != (sys.byteorder == "little")
    # The storages follow the pickle, whose end and types are known only after reading it once.
    types: dict[str, torch.dtype] = {}

    def note(identifier: Any) -> Any:
        if (cls := _legacy_class(identifier)) is not None:
            return cls
        dtype, key, _ = _legacy_storage(identifier)
        types.setdefault(key, dtype)
        return Stub("torch.Storage")

    _, position = interpret(data, start, log=Log(), persistent=note, nested=nested)
    keys, position = interpret(data, position, log=log)
    storages: dict[str, torch.UntypedStorage] = {}
    if not isinstance(keys, list) or any(not isinstance(key, str) or key not in types for key in keys):
        raise DamagedPickleError("the list of its storages is not that of its tensors")
    for key in keys:
        dtype = types[key]
        count = int.from_bytes(data[position : position + 8], "little" if little else "big", signed=True)
        position += 8
        size = count * dtype.itemsize
        if count < 0 or position + size > len(data):
            raise DamagedPickleError("the end of the file is missing")
        storages[key] = _view(mapped, position, size, dtype, swap)
        position += size

    def persistent(identifier: Any) -> Any:
        if (cls := _legacy_class(identifier)) is not None:
            return cls
        dtype, key, view = _legacy_storage(identifier)
        if key not in storages:
            raise DamagedPickleError(f"the storage {key!r:.40} is missing")
        if view is None:
            return Storage(dtype, storages[key])
        _, offset, count = view
        if offset < 0 or count < 0 or (offset + count) * dtype.itemsize > storages[key].nbytes():
            raise DamagedPickleError("a view reaches beyond its storage")
        return Storage(dtype, storages[key][offset * dtype.itemsize : (offset + count) * dtype.itemsize])

    value, _ = interpret(data, start, log=log, persistent=persistent, nested=nested)
    return value


def _legacy_class(identifier: Any) -> Global | None:
    """Return the class of a module, which was saved with its source text; None for other identifiers."""
    match identifier:
        case ("module", Global() as cls, *_):
            return cls
    return None


def _legacy_storage(identifier: Any) -> tuple[torch.dtype, str, Any]:
    match identifier:
        case ("storage", StorageType(dtype), str() as key, _, int(), view):
            return dtype, key, view
        case ("storage", StorageType(dtype), str() as key, _, int()):
            return dtype, key, None
    raise DamagedPickleError("a persistent id that is no storage")


def _map(path: Path) -> torch.UntypedStorage:
    # Not PyTorch's own mapping, which takes only names that are UTF-8.
    return torch.from_numpy(np.memmap(path, np.uint8, mode="c")).untyped_storage()


def _bytes(data: bytes) -> torch.UntypedStorage:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()


def _check_stored(key: str, count: int, dtype: torch.dtype, size: int) -> None:
    if count < 0 or count * dtype.itemsize > size:
        raise DamagedPickleError(f"the storage {key!r:.40} has {size} bytes for {count} values of {dtype}")


def _start(mapped: torch.UntypedStorage, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of an uncompressed record begin: after its own header."""
    header = bytes(mapped[info.header_offset + 26 : info.header_offset + 30])
    names, extra = (int.from_bytes(header[i : i + 2], "little") for i in (0, 2))
    return info.header_offset + 30 + names + extra


def _view(
    mapped: torch.UntypedStorage, start: int, size: int, dtype: torch.dtype, swap: bool, checksum: int = 0
) -> torch.UntypedStorage:
    """Return a part of a mapped file; a copy where its elements are not aligned or in the other byte order.

    The CRC-32 of a copy is checked now, that of a part by `check_read`; 0 stands for none.
    """
    if start + size > mapped.nbytes():
        raise DamagedPickleError("a storage reaches beyond the end of the file")
    part = mapped[start : start + size]
    part._keygraph_checksum = checksum  # a mark that stays with the storage
    if start % dtype.itemsize or swap:
        check_read(part)
    if start % dtype.itemsize or swap:
        part = part.clone()
    if swap:
        part.byteswap(dtype)
    return part
