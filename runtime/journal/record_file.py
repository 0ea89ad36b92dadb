"""A file of records that are only appended; each has a checksum, so that a torn end is noticed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from pathlib import Path
from typing import Any

#: Characters of a line before the record: CRC-32 as hexadecimal digits, and a space.
_HEAD = 9


class RecordFile:
    """A file of JSON records, one a line, locked by this process while it is open.

    Parameters
    ----------
    path
        The file; made where there is none.

    Raises
    ------
    BlockingIOError
        Another process, or another part of this one, has it open.
    OSError
        It cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        while True:
            self._file = path.open("a+b", buffering=0)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise
            except OSError:
                return  # A file system without locks.
            if os.fstat(self._file.fileno()).st_nlink:
                return
            self._file.close()  # Its last holder has deleted it in the meantime.

    def read(self) -> list[Any]:
        """Return the records up to the first damaged one, and cut off the file there."""
        self._file.seek(0)
        content = self._file.readall()
        records, end = [], 0
        for line in content.splitlines(keepends=True):
            head, text = line[:_HEAD], line[_HEAD:]
            if not text.endswith(b"\n") or head != _checksum(text):
                break
            records.append(json.loads(text))
            end += len(line)
        self._file.truncate(end)
        return records

    def clear(self) -> None:
        """Remove all records."""
        self._file.truncate(0)

    def append(self, record: Any) -> None:
        """Append a record; it survives the end of this process, and after `sync` also that of the system."""
        text = json.dumps(record).encode() + b"\n"
        line = _checksum(text) + text
        if self._file.write(line) != len(line):
            raise OSError(28, os.strerror(28))  # A disk that is full takes a part of a line.

    def sync(self) -> None:
        """Wait until all records are on the disk."""
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file, which frees the lock."""
        with contextlib.suppress(OSError):
            self._file.close()


def _checksum(text: bytes) -> bytes:
    return b"%08x " % zlib.crc32(text)
