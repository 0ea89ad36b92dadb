"""The `Session` protocol that every backend implements, and helpers that do not depend on the backend."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, ExtraInput, Manifest

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..tiling.exact.model import ExactModel

#: Most threads, or streams of them, that a session takes; a library may start millions, and would not return.
MAX_THREADS = 1024

#: One batch of a model's inputs without k: the images, then the manifest's `extra_inputs` in order.
Inputs = tuple[NDArray[np.float32], ...]


class Session(Protocol):
    """A loaded model. The rest of the runtime knows nothing else about it.

    A session serves any number of threads at a time, and each gets the results of its own calls. Where a device
    computes one batch at a time, threads wait for each other.
    """

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""

    @property
    def description(self) -> str:
        """One line that names the engine, its version, the device and the implementation of the operators."""

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restore a batch.

        Parameters
        ----------
        images
            float32[B, in_channels, H, W] in the manifest's `value_range`. Without the manifest's `margin`, height and
            width are multiples of `size_multiple`, or the model's fixed shape.
        k
            What `resolve_k` returned.
        extras
            float32[B, channels, H, W] for each of the manifest's `extra_inputs`, each with its own margin.

        Returns
        -------
        float32[B, out_channels, H * scale, W * scale]
            H and W are those of the images without the margin.

        Raises
        ------
        SessionMemoryError
            The engine could not allocate the memory for this batch; a smaller batch may fit.
        """


@runtime_checkable
class StreamingSession(Session, Protocol):
    """A session that runs many batches faster than one after the other, for instance with overlapped transfers."""

    def run_batches(self, batches: Iterator[Inputs], k: int | None) -> Iterator[NDArray[np.float32]]:
        """Restore batches; see the function `run_batches`."""


@runtime_checkable
class IdentifiedSession(Session, Protocol):
    """A session that knows the content of its model's file, beyond the manifest."""

    @property
    def content(self) -> str:
        """SHA-256 of the content: equal for models that compute the same."""


@runtime_checkable
class ClosableSession(Session, Protocol):
    """A session that can free its model before it is garbage collected."""

    def close(self) -> None:
        """Free the model; later calls raise `ClosedError`, as may calls in progress. May be called again."""


class WithBlock(ABC):
    """Base of what a ``with`` block closes."""

    @abstractmethod
    def close(self) -> None:
        """See `ClosableSession.close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@runtime_checkable
class DivisibleSession(Session, Protocol):
    """A session that may be able to divide its network into parts, for exact tiled inference."""

    def exact(self) -> ExactModel:
        """Divide the network.

        Raises
        ------
        InputError
            This network, or this way of running it, does not allow that.
        """


def exact_model(session: Session) -> ExactModel:
    """Return a session's model for exact tiled inference.

    Raises
    ------
    InputError
        This session's network cannot be run exactly in tiles; the message says why.
    """
    if not isinstance(session, DivisibleSession):
        raise InputError(
            "exact tiles are for .onnx files in ONNX Runtime: restore with the one that export-model wrote, or "
            "take --global-statistics tile"
        )
    exact = session.exact()
    exact.prepare()
    return exact


def run_batches(
    session: Session, batches: Iterator[Inputs], k: int | None
) -> Generator[NDArray[np.float32], None, None]:
    """Restore many batches, with the session's own `run_batches` where it has one.

    Parameters
    ----------
    session
        The session that runs them.
    batches
        Each (images, *extras), as `Session.run` takes them. The session may take several of them before it yields the
        first result.
    k
        As for `Session.run`.

    Yields
    ------
    float32[B, out_channels, H * scale, W * scale]
        One result for each batch, in order, valid until the next one is requested. Closing the generator waits for
        all work that has been started.
    """
    if isinstance(session, StreamingSession):
        yield from session.run_batches(batches, k)
    else:
        for images, *extras in batches:
            yield session.run(images, k, *extras)


def image_inputs(manifest: Manifest) -> tuple[ExtraInput, ...]:
    """Return every input of a model except k, in order: the image, then the manifest's `extra_inputs`."""
    return (ExtraInput(IMAGE_INPUT, manifest.in_channels, manifest.margin), *manifest.extra_inputs)


def result_shape(manifest: Manifest, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the shape [B, C, H, W] of a model's result for images of a shape [B, C, H, W]."""
    batch, _, height, width = shape
    down, across = manifest.margin
    return batch, manifest.out_channels, (height - down) * manifest.scale, (width - across) * manifest.scale


def check_tensors(manifest: Manifest, file: Path, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Check that a model that an engine has opened has the inputs and the output that its manifest says.

    Parameters
    ----------
    manifest
        The model's manifest.
    file
        The model's file, for the message.
    inputs, outputs
        Names, as the engine has them.

    Raises
    ------
    InputError
        Inputs are missing or unknown, or the output is missing.
    """
    runtime_k = manifest.neighbours is not None and manifest.neighbours.runtime
    expected = {*(given.name for given in image_inputs(manifest)), *([K_INPUT] if runtime_k else [])}
    if set(inputs) != expected or IMAGE_OUTPUT not in outputs:
        raise InputError(
            f"{file}: inputs {', '.join(inputs)} and outputs {', '.join(outputs)} are not those of its manifest; "
            "export it again"
        )


def check_number(name: str, value: int | None) -> None:
    """Raise `InputError` for what is no number of threads or streams; None stands for the backend's default."""
    if value is None:
        return
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number <= MAX_THREADS:
        raise InputError(f"{name} is {value!r}; it must be a whole number from 1 to {MAX_THREADS}")


def resolve_k(manifest: Manifest, k: Any) -> int | None:
    """Check the k that a user gave. It is never clamped.

    Parameters
    ----------
    manifest
        The model's manifest.
    k
        None for the model's default, or an integer from 1 to the nodes of a window, or to the largest k that an engine
        was built for.

    Returns
    -------
    int | None
        The value for `Session.run`: an integer when k is an input of the model, None when the model has no such input.

    Raises
    ------
    InputError
        The model takes no k, k is out of range, or k is not an integer.
    """
    neighbours = manifest.neighbours
    if neighbours is None:
        if k is not None:
            raise InputError(f"this model ({manifest.architecture}) has no key graph and takes no k; leave k out")
        return None
    if k is None:
        return neighbours.default if neighbours.runtime else None
    limit = "the most that this model takes" if manifest.profiles else "the nodes of a window"
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
