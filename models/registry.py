"""The architectures, in the order in which they are tried."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

from ..errors import InputError
from . import kgt, mst, mst_plus_plus, restormer
from .architecture import Architecture, StateDict

ARCHITECTURES: tuple[Architecture, ...] = (
    kgt.ARCHITECTURE,
    restormer.ARCHITECTURE,
    mst.ARCHITECTURE,
    mst_plus_plus.ARCHITECTURE,
)


def by_name(name: str) -> Architecture:
    """Look an architecture up.

    Raises
    ------
    InputError
        There is none of that name.
    """
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    names = ", ".join(a.name for a in ARCHITECTURES)
    raise InputError(f"the checkpoint says architecture {name!r}, which keygraph does not know; it knows: {names}")


def of(model: nn.Module) -> Architecture:
    """The architecture that a network is of.

    Raises
    ------
    ValueError
        No architecture builds a module of this type.
    """
    config = getattr(model, "config", None)
    for architecture in ARCHITECTURES:
        if isinstance(config, architecture.config_type):
            return architecture
    raise ValueError(f"{type(model).__name__} is of no architecture that keygraph knows")


def detect(state: StateDict) -> Architecture | None:
    """The first architecture that recognises these keys."""
    return next((a for a in ARCHITECTURES if a.detect(state)), None)


def nearest(keys: Iterable[str]) -> tuple[Architecture, list[str], list[str]]:
    """The architecture whose kind of keys is most like these, for a message.

    Returns
    -------
    architecture, missing, unknown
        `missing`: keys of that architecture's default configuration with no counterpart among `keys`; `unknown`: the
        other way round. Both without regard to the numbers in the keys.
    """
    found = {_pattern(key): key for key in sorted(keys, reverse=True)}

    def expected(architecture: Architecture) -> dict[str, str]:
        with torch.device("meta"):
            module = architecture.build(architecture.config_type())
        return {_pattern(key): key for key in reversed(list(module.state_dict()))}

    def likeness(architecture: Architecture) -> float:
        patterns = expected(architecture).keys()
        return len(patterns & found.keys()) / len(patterns | found.keys())

    best = max(ARCHITECTURES, key=likeness)
    wanted = expected(best)
    missing = [wanted[p] for p in wanted if p not in found]
    unknown = [found[p] for p in found if p not in wanted]
    return best, missing[::-1], unknown[::-1]


def _pattern(key: str) -> str:
    return re.sub(r"\d+", "#", key)
