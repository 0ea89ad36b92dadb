"""The number of neighbours that all sides of a comparison run with."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..manifest import Manifest
from ..runtime.backends.base import resolve_k


def common_k(models: Sequence[tuple[str, Manifest]], k: int | None) -> int | None:
    """The k that all of them run with.

    Parameters
    ----------
    models
        Name and manifest of each, the reference last.
    k
        What the user named; None for the one that a file fixes, else the reference's default.

    Returns
    -------
    None for networks without key graphs.

    Raises
    ------
    InputError
        One of them does not take it.
    """
    fixed = [one.neighbours.default for _, one in models if one.neighbours is not None and not one.neighbours.runtime]
    reference = models[-1][1].neighbours
    number = k if k is not None else fixed[0] if fixed else reference.default if reference is not None else None
    for name, manifest in models:
        given_k(name, manifest, number)
    return number


def given_k(name: str, manifest: Manifest, k: int | None) -> int | None:
    """What a model's `Session.run` takes for this k; raises `InputError`, with its name, when it does not take it."""
    try:
        return resolve_k(manifest, k)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
