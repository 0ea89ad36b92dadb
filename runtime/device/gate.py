"""Close something that several threads use, without pulling it away from one that is using it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ClosedError


class Gate:
    """Admits work of any number of threads until it is closed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._open = True

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Work inside the block; raises `ClosedError` after `close`."""
        with self._changed:
            if not self._open:
                raise ClosedError
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Admit no more work, and wait until all work inside has finished."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._inside == 0)
