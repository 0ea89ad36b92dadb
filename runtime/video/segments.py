"""Finished segments of a video on disk, from which the same command goes on after it was stopped.

A job is a folder beside the result. Its ``job.json`` says of what the segments are; a segment is a file of encoded
packets, which is complete or absent. A process that works on the job holds a lock, which ends with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import InputError, KeygraphError
from ...files import atomic_path, unwritable

#: Of the head and the tail of a large file that enter its fingerprint.
_SAMPLE = 1 << 20

#: Of a packet: time stamp, duration, whether it is a key frame, and its bytes, which follow.
_HEADER = struct.Struct("<qqBQ")

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
    """The folder of a job, locked while it is open.

    Parameters
    ----------
    out
        The file to write.
    described
        What decides the result, in words for the user; every value must be the same for the job to go on.

    Raises
    ------
    InputError
        Another process works on it, or it was begun with other settings.
    """

    def __init__(self, out: Path, described: Mapping[str, str]) -> None:
        name = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:16]
        self.folder = out.with_name(f".keygraph-{name}.parts")
        self._description = self.folder / "job.json"
        self._suffix = out.suffix
        self._lock: IO[str] | None = None
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = open(self.folder / "lock", "w", encoding="utf-8")  # noqa: SIM115  # until `close`
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise InputError(f"another process writes {out} already; wait for it, or choose another name") from None
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            self._check(out, described)
            for leftover in self.folder.glob(".keygraph-*"):
                leftover.unlink()
        except BaseException:
            self.close()
            raise

    def _check(self, out: Path, described: Mapping[str, str]) -> None:
        if not self._description.exists():
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

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
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
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

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
                file.write(_HEADER.pack(packet.start, packet.duration, packet.is_keyframe, len(packet.data)))
                file.write(packet.data)
            file.flush()
            os.fsync(file.fileno())
        return target

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}{_SUFFIX}"


def read_segment(path: Path, extradata: bytes | None = None) -> Iterator[StoredPacket]:
    """Yield the packets of a segment.

    Parameters
    ----------
    path
        Its file.
    extradata
        Parameter sets that it must have been encoded with; None to read the times alone.

    Raises
    ------
    KeygraphError
        The file is damaged, or another build of the encoder made it.
    """
    with open(path, "rb") as file:
        digest = file.read(32)
        if extradata is not None and digest != hashlib.sha256(extradata).digest():
            raise KeygraphError(
                f"{path} was encoded by another build of the encoder; begin again after: rm -r {path.parent}"
            )
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                raise _damaged(path)
            start, duration, is_keyframe, size = _HEADER.unpack(header)
            if extradata is None:
                data = b""
                file.seek(size, os.SEEK_CUR)
            else:
                data = file.read(size)
                if len(data) < size:
                    raise _damaged(path)
            yield StoredPacket(start, duration, bool(is_keyframe), data)


def fingerprint(path: Path) -> str:
    """Return words that change with a file: its size, its time, and a digest of its first and last megabyte."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_SAMPLE))
        file.seek(max(status.st_size - _SAMPLE, 0))
        digest.update(file.read(_SAMPLE))
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns, {digest.hexdigest()[:32]}"


def content_digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(_SAMPLE):
                digest.update(block)
    return digest.hexdigest()


def _damaged(path: Path) -> KeygraphError:
    return KeygraphError(f"{path} is damaged; begin again after: rm -r {path.parent}")


def _listed(words: list[Any]) -> str:
    return " and ".join(map(str, words))
