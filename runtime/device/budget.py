"""A budget of memory that the calls of several threads share, first come, first served."""

from __future__ import annotations

import contextlib
import logging
import operator
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from ...errors import InputError
from .memory import bytes_text

_log = logging.getLogger(__name__)

#: Bytes of a unit.
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

#: Seconds between two calls of `check` while memory is awaited.
_POLL = 0.05


def parse_size(value: int | str, what: str = "the memory budget") -> int:
    """Return the bytes that a user gave.

    Parameters
    ----------
    value
        A number of bytes, or text: a number with the unit K, M or G, of 2**10, 2**20 and 2**30 bytes.
    what
        What it is, for the message.

    Raises
    ------
    InputError
        It is no such number, or not positive.
    """
    size = 0
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)([KMG])", value.strip().upper(), re.ASCII)
        if match is not None:
            size = int(float(match[1]) * _UNITS[match[2]])
    elif not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            size = operator.index(value)
    if size < 1:
        raise InputError(
            f"{what} is {value!r}; give a number with the unit K, M or G, such as 4G (in Python also bytes)"
        )
    return size


class MemoryBudget:
    """Lets calls run at the same time as far as their estimated memory fits together into a budget.

    Waiting calls are served in the order in which they came: a large one is not overtaken by smaller ones for ever.

    Parameters
    ----------
    size
        Bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, need: int, check: Callable[[], None]) -> Iterator[None]:
        """Wait until memory is free, and hold it inside the block.

        Parameters
        ----------
        need
            Bytes, at most `size`.
        check
            Called at least every `_POLL` seconds while waiting; what it raises ends the wait.
        """
        place, began = object(), time.monotonic()
        with self._changed:
            self._waiting.append(place)
            try:
                waits = self._must_wait(place, need)
                if waits:
                    _log.debug("waits for %s of the memory budget of %s", bytes_text(need), bytes_text(self.size))
                while self._must_wait(place, need):
                    self._changed.wait(_POLL)
                    check()
                self._used += need
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        try:
            if waits:
                _log.info("waited %.3f s for %s of the memory budget", time.monotonic() - began, bytes_text(need))
            yield
        finally:
            with self._changed:
                self._used -= need
                self._changed.notify_all()

    def _must_wait(self, place: object, need: int) -> bool:
        return self._waiting[0] is not place or self._used + need > self.size
