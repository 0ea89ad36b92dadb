"""What a module keeps between calls: a mask that it made for the last size, for instance.

Tracing runs a module with symbols in place of sizes and values. What it keeps of them breaks later calls, and what it
kept of earlier calls ends up in the program as a constant.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import nn

#: The attributes of each part of a module.
State: TypeAlias = list[tuple[nn.Module, dict[str, Any]]]


def state_of(module: nn.Module) -> State:
    """Return the attributes of all parts of a module; containers are copied, tensors are not."""
    return [(part, _copied(vars(part))) for part in module.modules()]


@contextmanager
def in_state(state: State) -> Iterator[None]:
    """Run with an earlier state of a module, and return to it afterwards."""
    _restore(state)
    try:
        yield
    finally:
        _restore(state)


def _restore(state: State) -> None:
    for part, attributes in state:
        vars(part).clear()
        vars(part).update(_copied(attributes))


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: copy.copy(value) if isinstance(value, dict | list | set) else value for name, value in attributes.items()
    }
