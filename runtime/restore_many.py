"""Restoring a stream of images: some are computed while the caller takes the results of those before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..errors import InputError, KeygraphError
from .notices import warn
from .tiling.progress import CancelToken, check_cancelled

if TYPE_CHECKING:
    from .restored import Restored


class _Stop:
    """Set when the caller takes no more results, or cancels."""

    def __init__(self, cancel: CancelToken | None) -> None:
        self._cancel, self.stopped = cancel, False

    def is_set(self) -> bool:
        return self.stopped or (self._cancel is not None and self._cancel.is_set())


def restore_many(
    restore: Callable[..., Restored],
    images: Iterable[Any],
    in_flight: int = 2,
    *,
    return_exceptions: bool = False,
    cancel: CancelToken | None = None,
) -> Generator[Any, None, None]:
    """Restore many images; see `Restorer.many`.

    Closing the generator ends what is in progress before its next tile, and waits for that.

    Parameters
    ----------
    restore
        Restores one image: `Restorer.restore` with its options.
    images, in_flight, return_exceptions, cancel
        As for `Restorer.many`.

    Yields
    ------
    numpy.ndarray
        `Restored.image` of each image, or with `return_exceptions` its error.

    Raises
    ------
    InputError
        `in_flight` is no number from 1, or `images` no iterable.
    KeygraphError
        An image cannot be restored.
    """
    if isinstance(in_flight, bool) or not isinstance(in_flight, int) or in_flight < 1:
        raise InputError(f"in_flight is {in_flight!r}; it must be a whole number from 1")
    if not isinstance(images, Iterable) and not hasattr(images, "__getitem__"):
        raise InputError(f"the images are {images!r}; give a list of images, or another iterable")
    check_cancelled(cancel)
    return _restored(restore, iter(images), in_flight, return_exceptions, cancel)


def _restored(
    restore: Callable[..., Restored],
    source: Iterator[Any],
    in_flight: int,
    return_exceptions: bool,
    cancel: CancelToken | None,
) -> Generator[Any, None, None]:
    stop, failure, ended = _Stop(cancel), None, False
    running: deque[Future[Restored]] = deque()
    with ThreadPoolExecutor(in_flight, thread_name_prefix="keygraph-many") as pool:
        try:
            while True:
                while not ended and len(running) <= in_flight:
                    taken, failure = _next(source)
                    ended = taken is None
                    if taken is not None:
                        running.append(pool.submit(restore, taken[0], inputs=taken[1], cancel=stop))
                if not running:
                    break
                try:
                    restored = running.popleft().result()
                except KeygraphError as error:
                    check_cancelled(cancel)  # Never the result of an image.
                    if not return_exceptions:
                        raise
                    yield error
                    continue
                for notice in restored.notices:
                    warn(notice)
                yield restored.image
        finally:
            stop.stopped = True
            for waiting in running:
                waiting.cancel()
    if failure is not None:  # After the results of the images before it.
        raise failure


def _next(images: Iterator[Any]) -> tuple[tuple[Any, Mapping[str, Any] | None] | None, Exception | None]:
    """Return the next image with its inputs, or None at the end, and what the iterator raised."""
    try:
        image = next(images)
    except StopIteration:
        return None, None
    except Exception as error:
        return None, error
    if isinstance(image, tuple) and len(image) == 2 and isinstance(image[1], Mapping):
        return image, None
    return (image, None), None
