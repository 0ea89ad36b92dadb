"""Finished segments of a video on disk, from which the same command goes on after it was stopped.

A job is a folder beside the result. Its ``job.json`` says of what the segments are; a segment is a file of encoded
packets with checksums, which is complete or absent. A process that works on the job holds a lock, which ends with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError, KeygraphError
from ...files import atomic_path, unwritable
from ..journal.record_file import RecordFile

#: Of a packet: time stamp, duration, whether it is a key frame, and the number of its bytes; then the CRC-32 of this
#: and of the bytes, which follow.
_HEADER, _CHECKSUM = struct.Struct("<qqBQ"), struct.Struct("<I")

_SUFFIX = ".packets"


@dataclass(frozen=True)
class StoredPacket:
    """An encoded frame.

    Attributes
    ----------
    start, duration
        In units of the video's time base.
    is_keyframe
        True where decoding can begin.
    data
        What the encoder made; empty where it is not asked for.
    """

    start: int
    duration: int
    is_keyframe: bool
    data: bytes


class Job:
    """The folder of a job, locked while it is open. Where no segment is finished it is removed at the end.

    Parameters
    ----------
    out
        The file to write.
    described
        What decides the result, in words for the user; every value must be the same for the job to go on.

    Raises
    ------
    InputError
        Another process works on it, or segments were finished with other settings.

    Attributes
    ----------
    damaged
        True when a finished segment was not as it had been written: it counts as not done, like all after it.
    """

    def __init__(self, out: Path, described: Mapping[str, str]) -> None:
        name = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:16]
        self.folder = out.with_name(f".keygraph-{name}.parts")
        self._description = self.folder / "job.json"
        self._suffix = out.suffix
        self._lock: RecordFile | None = None
        try:
            while self._lock is None:
                self._lock = self._locked()
        except BlockingIOError:
            raise InputError(f"another process writes {out} already; wait for it, or choose another name") from None
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            for leftover in self.folder.glob(".keygraph-*"):
                leftover.unlink()
            self._check(out, described)
            self.damaged = self._drop_damaged()
        except BaseException:
            self.close()
            raise

    def _locked(self) -> RecordFile | None:
        """Make the folder and lock it; None where its last holder has removed it in the meantime."""
        self.folder.mkdir(exist_ok=True)
        try:
            return RecordFile(self.folder / "lock")
        except FileNotFoundError:
            return None

    def _check(self, out: Path, described: Mapping[str, str]) -> None:
        """Check that finished segments are of this job; without any, it is begun anew."""
        if not self._description.exists():  # It is removed first, and written before any segment.
            self._remove(self.finished())
        if not self.finished():
            with atomic_path(self._description) as path:
                path.write_text(json.dumps(dict(described), indent=1), encoding="utf-8")
            return
        try:
            begun = json.loads(self._description.read_text(encoding="utf-8"))
            changed = [key for key in {**begun, **described} if begun.get(key) != described.get(key)]
        except (OSError, ValueError, AttributeError, TypeError):
            begun, changed = {}, ["the description of the job"]
        if changed:
            raise InputError(
                f"{out} was begun with something else, and the part that is done would not fit: "
                f"{_listed(changed)} changed; give the same command and files as before, or begin again after: "
                f"rm -r {self.folder}"
            )

    def _drop_damaged(self) -> bool:
        """Remove segments from the first damaged one on; return whether there is any."""
        files = self.finished()
        damaged = next((number for number, path in enumerate(files) if not _is_whole(path)), None)
        self._remove([] if damaged is None else files[damaged:])
        return damaged is not None

    def _remove(self, files: Sequence[Path]) -> None:
        """Remove the last segments; what is left is without a gap at any time."""
        for path in reversed(files):
            path.unlink()

    def close(self) -> None:
        """Release the lock; remove the folder where nothing would be lost with it."""
        if self._lock is None:
            return
        self.result.unlink(missing_ok=True)  # A failed one: it may take the last space of a disk.
        if not self.finished():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        self._lock = None

    @property
    def result(self) -> Path:
        """Where the result is written before it gets its name: what a kill leaves of it is written anew."""
        return self.folder / f"result{self._suffix}"

    def publish(self, out: Path) -> None:
        """Give the result its name, and remove the folder."""
        try:
            os.replace(self.result, out)
        except OSError as error:
            raise unwritable(out, error) from error
        # Under the lock. Without its description nothing else counts.
        self._description.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def finished(self) -> list[Path]:
        """Return the files of the segments that are done, without a gap from the first on."""
        files: list[Path] = []
        while (path := self._path(len(files))).exists():
            files.append(path)
        return files

    def write(self, number: int, packets: Iterable[StoredPacket], extradata: bytes) -> Path:
        """Write a segment.

        Parameters
        ----------
        number
            Of the segment, from 0.
        packets
            In the order in which they are decoded.
        extradata
            The encoder's parameter sets, which must be those of all segments.
        """
        target = self._path(number)
        with atomic_path(target) as path, open(path, "wb") as file:
            file.write(hashlib.sha256(extradata).digest())
            for packet in packets:
                header = _HEADER.pack(packet.start, packet.duration, packet.is_keyframe, len(packet.data))
                file.write(header + _CHECKSUM.pack(zlib.crc32(packet.data, zlib.crc32(header))))
                file.write(packet.data)
            file.flush()
            os.fsync(file.fileno())
        return target

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}{_SUFFIX}"


def read_segment(path: Path, extradata: bytes | None = None, *, whole: bool = False) -> Iterator[StoredPacket]:
    """Yield the packets of a segment.

    Parameters
    ----------
    path
        Its file.
    extradata
        Parameter sets that it must have been encoded with; None to take any.
    whole
        Read the bytes of packets, too, as with `extradata`; else the times alone.

    Raises
    ------
    KeygraphError
        The file is damaged, or another build of the encoder made it.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        digest = file.read(32)
        if len(digest) < 32:
            raise _damaged(path)
        if extradata is not None and digest != hashlib.sha256(extradata).digest():
            raise KeygraphError(
                f"{path} was encoded by another build of the encoder; begin again after: rm -r {path.parent}"
            )
        while header := file.read(_HEADER.size):
            checksum = file.read(_CHECKSUM.size)
            if len(checksum) < _CHECKSUM.size:
                raise _damaged(path)
            start, duration, is_keyframe, size = _HEADER.unpack(header)
            data = b""
            if extradata is None and not whole:
                file.seek(size, os.SEEK_CUR)
            elif size > length or _CHECKSUM.pack(zlib.crc32(data := file.read(size), zlib.crc32(header))) != checksum:
                raise _damaged(path)
            yield StoredPacket(start, duration, bool(is_keyframe), data)


def _is_whole(path: Path) -> bool:
    """Return whether a segment is as it was written."""
    try:
        for _packet in read_segment(path, whole=True):
            pass
    except KeygraphError:
        return False
    return True


def _damaged(path: Path) -> KeygraphError:
    return KeygraphError(f"{path} is damaged; begin again after: rm -r {path.parent}")


def _listed(words: list[Any]) -> str:
    return " and ".join(map(str, words))
