"""The registry of architectures.

To add one, describe it in a module of its own (`models/mst_plus_plus.py` is a short example) and register it below.
Code outside of keygraph does the same with `register`, and an installed package by an entry point (`installed`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

from ..errors import InputError
from . import kgt, mst, mst_plus_plus, restormer
from .architecture import CUSTOM, Architecture, StateDict
from .installed import Installed, Package, read_installed

#: All architectures, in the order in which `detect` asks them.
ARCHITECTURES: list[Architecture] = []


def register(architecture: Architecture) -> Architecture:
    """Add an architecture, so that its checkpoints can be loaded, exported and compared.

    Parameters
    ----------
    architecture
        Its description. `detect` asks it after all that were registered before it.

    Returns
    -------
    Architecture
        The same.

    Raises
    ------
    ValueError
        An architecture of that name, or with that type of configuration, is registered already.
    """
    if architecture.name == CUSTOM:
        raise ValueError(f"{CUSTOM} cannot be registered: it is the name of networks without a description")
    for other in ARCHITECTURES:
        if architecture.name == other.name or architecture.config_type is other.config_type:
            raise ValueError(f"{architecture.name} cannot be registered: {other.name} is, with the same name or config")
    ARCHITECTURES.append(architecture)
    return architecture


register(kgt.ARCHITECTURE)
register(restormer.ARCHITECTURE)
register(mst.ARCHITECTURE)
register(mst_plus_plus.ARCHITECTURE)

#: Names of those that keygraph describes itself.
OWN = frozenset(architecture.name for architecture in ARCHITECTURES)


def register_installed() -> Installed:
    """Register what installed packages bring, at the first call in a process; they come after all others.

    Returns
    -------
    Installed
        What they bring, and a line for each that cannot be used.
    """
    found = read_installed(OWN)
    for entry in list(found.architectures):
        architecture, package = entry
        if any(architecture is other for other in ARCHITECTURES):
            continue
        try:
            register(architecture)
        except ValueError as error:
            found.architectures.remove(entry)
            found.problems.append(f"architecture {architecture.name} by {package} cannot be used: {error}")
    return found


def package_of(name: str) -> Package | None:
    """Return the package that brought an architecture; None for keygraph's own, and for those of `register`."""
    found = register_installed().architectures
    return next((package for architecture, package in found if architecture.name == name), None)


def by_name(name: str) -> Architecture:
    """Return the architecture of a name.

    Raises
    ------
    InputError
        There is none.
    """
    installed = register_installed()
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    if name in installed.conflicts:
        raise InputError(installed.conflicts[name])
    names = ", ".join(a.name for a in ARCHITECTURES)
    raise InputError(f"the checkpoint says architecture {name!r}, which keygraph does not know; it knows: {names}")


def of_config(config: object) -> Architecture:
    """Return the architecture of a configuration.

    Raises
    ------
    ValueError
        No architecture has configurations of its type.
    """
    register_installed()
    for architecture in ARCHITECTURES:
        if isinstance(config, architecture.config_type):
            return architecture
    raise ValueError(f"{type(config).__name__} is the configuration of no architecture that keygraph knows")


def of(model: nn.Module) -> Architecture:
    """Return the architecture of a network.

    Raises
    ------
    ValueError
        The type of its `config` is that of no architecture.
    """
    return of_config(getattr(model, "config", None))


def detect(state: StateDict) -> Architecture | None:
    """Return the first architecture that recognises a state dict; None if there is none."""
    return next((a for a in ARCHITECTURES if a.detect(state)), None)


def nearest(keys: Iterable[str]) -> tuple[Architecture, list[str], list[str]]:
    """Find the architecture with the most similar keys, for an error message.

    Returns
    -------
    architecture, missing, unknown
        `missing` are keys of the architecture's default configuration with no counterpart among `keys`; `unknown` are
        those of `keys` without one in the architecture. Numbers in keys are ignored.
    """
    found = {_pattern(key): key for key in sorted(keys, reverse=True)}

    def expected(architecture: Architecture) -> dict[str, str]:
        with torch.device("meta"):
            module = architecture.build(architecture.config_type())
        return {_pattern(key): key for key in reversed(list(module.state_dict()))}

    def similarity(architecture: Architecture) -> float:
        try:
            patterns = expected(architecture).keys()
        except Exception:
            if package_of(architecture.name) is None:
                raise
            return -1.0  # A package's description without usable defaults is not the nearest.
        return len(patterns & found.keys()) / len(patterns | found.keys())

    best = max(ARCHITECTURES, key=similarity)
    wanted = expected(best)
    missing = [wanted[p] for p in wanted if p not in found]
    unknown = [found[p] for p in found if p not in wanted]
    return best, missing[::-1], unknown[::-1]


def _pattern(key: str) -> str:
    return re.sub(r"\d+", "#", key)
