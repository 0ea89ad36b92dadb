"""How tiled inference reports its progress, and how it is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...errors import CancelledError, InputError

#: Called with (tiles done, tiles in all), over all sweeps.
Progress = Callable[[int, int], None]


class CancelToken(Protocol):
    """Cancels the calls that have it: a `threading.Event`, or anything with its `is_set`."""

    def is_set(self) -> bool:
        """Return whether the calls are cancelled."""


def check_cancelled(cancel: CancelToken | None) -> None:
    """Raise `CancelledError` where a token is set, and `InputError` for what is no token."""
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise InputError(f"cancel is {cancel!r}; give a threading.Event, or an object with its method is_set")
    if cancel is not None and cancel.is_set():
        raise CancelledError("the restoration was cancelled")


def checked(progress: Progress | None, check: Callable[[], None]) -> Progress:
    """Return a progress callback that calls `check` between batches of tiles, and then `progress` after each."""

    def report(done: int, total: int) -> None:
        if done < total:
            check()
        if progress is not None:
            progress(done, total)

    return report


def part_of(progress: Progress | None, index: int, count: int) -> Progress | None:
    """Return the callback of one of several equal parts of some work.

    Parameters
    ----------
    progress
        That of the whole work.
    index, count
        Number of the part, from 0, and number of parts.
    """
    if progress is None or count == 1:
        return progress
    return lambda done, total: progress(index * total + done, count * total)
