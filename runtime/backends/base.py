"""What the runtime asks of an engine, and what it asks of k before an engine sees it."""

from __future__ import annotations

import operator
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, KeygraphError
from ...manifest import Manifest

if TYPE_CHECKING:
    from ..tiling.exact.model import ExactModel

#: One batch of everything that a model takes but k: the images, and what the manifest's `extra_inputs` name, in order.
Inputs = tuple[NDArray[np.float32], ...]


class Session(Protocol):
    """A model that is ready to run. The runtime knows nothing else of it than this."""

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""

    @property
    def description(self) -> str:
        """One line that says what really runs: engine, version, device, implementation of the operators."""

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restore a batch.

        Parameters
        ----------
        images
            float32[B, in_channels, H, W], larger than (H, W) by the manifest's `margin`, in its value range; H and W
            are multiples of its `size_multiple`, or its fixed shape.
        k
            What `resolve_k` returned.
        extras
            float32[B, channels, H, W] for each of the manifest's `extra_inputs`, larger by its own margin.

        Returns
        -------
        float32[B, out_channels, H * scale, W * scale]

        Raises
        ------
        SessionMemoryError
            The engine could not allocate what this batch needs; a smaller one may do.
        """


@runtime_checkable
class StreamingSession(Session, Protocol):
    """A session that does better with many batches than to run one after the other."""

    def run_batches(self, batches: Iterator[Inputs], k: int | None) -> Iterator[NDArray[np.float32]]:
        """Restore batches; see `run_batches`."""


@runtime_checkable
class DivisibleSession(Session, Protocol):
    """A session whose network can be taken apart, for exact tiled inference."""

    def exact(self) -> ExactModel:
        """Take it apart.

        Raises
        ------
        InputError
            This network, or this way of running it, cannot be.
        """


def run_batches(
    session: Session, batches: Iterator[Inputs], k: int | None
) -> Generator[NDArray[np.float32], None, None]:
    """Restore many batches, in the session's own way where it has one.

    Parameters
    ----------
    session
        Where they run.
    batches
        Each (images, *extras), as `Session.run` takes them. The session may ask for some of them before it gives the
        first result.
    k
        As `Session.run` takes it.

    Yields
    ------
    One result for each batch, in their order, valid until the next one is asked for. Closing the generator leaves
    nothing running.
    """
    if isinstance(session, StreamingSession):
        yield from session.run_batches(batches, k)
    else:
        for images, *extras in batches:
            yield session.run(images, k, *extras)


def result_shape(manifest: Manifest, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Shape of what a model makes of images of this shape, [B, C, H, W] both."""
    batch, _, height, width = shape
    down, across = manifest.margin
    return batch, manifest.out_channels, (height - down) * manifest.scale, (width - across) * manifest.scale


class SessionMemoryError(KeygraphError):
    """An engine ran out of memory: really so, and for no other reason."""


def resolve_k(manifest: Manifest, k: Any) -> int | None:
    """Check the k that a user named.

    Parameters
    ----------
    manifest
        The model's.
    k
        None for the model's default, or a whole number from 1 to the nodes of a window, or to what an engine was built
        for.

    Returns
    -------
    What to give to `Session.run`: a number when k is an input of the model, None when the model has no such input.

    Raises
    ------
    InputError
        The model takes no k, not this one, or not a number. Nothing is ever clamped.
    """
    neighbours = manifest.neighbours
    if neighbours is None:
        if k is not None:
            raise InputError(f"this model ({manifest.architecture}) has no key graph and takes no k; leave k out")
        return None
    if k is None:
        return neighbours.default if neighbours.runtime else None
    limit = "the most that this engine was built for" if manifest.profiles else "the nodes of a window"
    valid = f"a whole number from 1 to {neighbours.maximum}, {limit}"
    if isinstance(k, bool):
        raise InputError(f"k is {k}; it must be {valid}")
    try:
        number = operator.index(k)
    except TypeError:
        raise InputError(f"k is {k!r}; it must be {valid}") from None
    if not 1 <= number <= neighbours.maximum:
        raise InputError(f"k is {number}; it must be {valid}")
    if neighbours.runtime:
        return number
    if number != neighbours.default:
        raise InputError(
            f"k is fixed at {neighbours.default} in this file, so it cannot be {number}; leave k out, or export the "
            "checkpoint again with: export-model CHECKPOINT --k runtime"
        )
    return None
