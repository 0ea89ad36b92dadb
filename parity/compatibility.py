"""Whether models can be compared: they are forms of one network, and all of them take the same k."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import InputError
from ..manifest import Interface, Manifest
from ..runtime.backends.base import resolve_k

#: Parts of the interface in which two forms of one network may differ. The size rules of all sides are united, see
#: `inputs.demands`; `neighbours` is checked apart.
_FREE_INTERFACE = {"task", "size_multiple", "global_statistics", "neighbours", "clamp", "wavelengths", "smallest"}

#: Settings of the configuration that may differ between two forms of one network.
_FREE_SETTINGS = {"k", "k_trained", "task"}


class Described(Protocol):
    """What a check needs of a side: a `Probe`, or a `Side`."""

    @property
    def name(self) -> str:
        """The name for messages."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""


def check_comparable(candidate: Described, reference: Described) -> None:
    """Check that both are forms of one network.

    Raises
    ------
    InputError
        They are different networks.
    """
    ours, theirs = candidate.manifest, reference.manifest
    interface = [field.name for field in dataclasses.fields(Interface) if field.name not in _FREE_INTERFACE]
    for name in ("architecture", *interface):
        _require_same(candidate, reference, name.replace("_", " "), getattr(ours, name), getattr(theirs, name))
    for name in sorted((ours.configuration.keys() | theirs.configuration.keys()) - _FREE_SETTINGS):
        values = (manifest.configuration.get(name) for manifest in (ours, theirs))
        _require_same(candidate, reference, name, *map(_as_list, values))
    if (ours.neighbours is None) != (theirs.neighbours is None):
        without = candidate.name if ours.neighbours is None else reference.name
        raise InputError(f"{without} has no key graph, the other has; compare two forms of one network")


def common_k(models: Sequence[tuple[str, Manifest]], k: int | None) -> int | None:
    """Return the k with which all models run.

    Parameters
    ----------
    models
        Name and manifest of each, the reference last.
    k
        What the user asked for; None for the k that a file fixes, else the reference's default.

    Returns
    -------
    None for networks without key graphs.

    Raises
    ------
    InputError
        One of the models does not take this k.
    """
    fixed = [one.neighbours.default for _, one in models if one.neighbours is not None and not one.neighbours.runtime]
    reference = models[-1][1].neighbours
    number = k if k is not None else fixed[0] if fixed else reference.default if reference is not None else None
    for name, manifest in models:
        session_k(name, manifest, number)
    return number


def session_k(name: str, manifest: Manifest, k: int | None) -> int | None:
    """Return what a model's `Session.run` takes for this k.

    Parameters
    ----------
    name
        Of the model, for the message.
    manifest
        Of the model.
    k
        Neighbours of each node; None for networks without key graphs.

    Raises
    ------
    InputError
        The model does not take this k.
    """
    try:
        return resolve_k(manifest, k)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _require_same(candidate: Described, reference: Described, name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise InputError(
            f"{candidate.name} and {reference.name} are different networks: {name} is {ours} and {theirs}; "
            "compare two forms of one network"
        )


def _as_list(value: Any) -> Any:
    """Convert a tuple to a list: a configuration that was read from JSON holds lists."""
    return list(value) if isinstance(value, tuple) else value
