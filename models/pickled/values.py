"""What a pickle gives besides plain data: names, and records of objects that were not made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: No network has more modules, or is deeper; only one that contains itself does.
_MOST_MODULES, _DEEPEST_MODULE = 20_000, 64


class DamagedPickleError(Exception):
    """The bytes are no pickle, are cut off, or contradict themselves."""


class RefusedPickleError(Exception):
    """The pickle does more than build data. The message names the opcode and what it would have called."""


@dataclass(frozen=True)
class Global:
    """A name in a module. It is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Stub:
    """The record of an object whose class is not known. Nothing of the class runs.

    Attributes
    ----------
    name
        Full name of the class or constructor.
    arguments
        What the constructor would have been called with.
    attributes
        The object's state, by name; under ``""`` what is not a dictionary.
    items, elements
        Entries of a subclass of dict, of list or set.
    """

    __slots__ = ("arguments", "attributes", "elements", "items", "name")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.attributes: dict[Any, Any] = {}
        self.items: dict[Any, Any] = {}
        self.elements: list[Any] = []

    def build(self, state: Any) -> None:
        """Record the state that ``__setstate__`` would have been called with."""
        # The default state of a class with __slots__ is a pair of dictionaries.
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self.attributes.update(part or {})
        else:
            self.attributes[""] = state


@dataclass
class Log:
    """What a reader of a file should know of it.

    Attributes
    ----------
    classes
        The classes of which there are records, and how many.
    quantized
        Number of quantized tensors.
    """

    classes: Counter[str] = field(default_factory=Counter)
    quantized: int = 0

    def notes(self) -> list[str]:
        """Return a line for each kind of thing."""
        lines: list[str] = []
        if self.classes:
            most = self.classes.most_common(4)
            named = [printable(name) + (f" ({count})" if count > 1 else "") for name, count in most]
            more = f" and {len(self.classes) - 4} more classes" if len(self.classes) > 4 else ""
            total = self.classes.total()
            lines.append(
                f"{total} object{'s' * (total > 1)} read as plain data, without running their code: "
                f"{', '.join(named)}{more}"
            )
        if self.quantized:
            lines.append(f"{self.quantized} quantized tensor{'s' * (self.quantized > 1)} converted to float32")
        return lines


def entries(value: Any) -> Mapping[Any, Any] | None:
    """Return the named parts of a dictionary, or of the record of an object; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Stub):
        return value.items if value.items else value.attributes
    return None


def kind(value: Any) -> str:
    """Return the type of a value in a word, for a message."""
    return printable(value.name.rpartition(".")[2] if isinstance(value, Stub) else type(value).__name__)


def printable(text: object, limit: int = 120) -> str:
    """Return a name from a file as part of a message of one line."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:limit])


def module_tensors(stub: Stub, is_tensor: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield the parameters and persistent buffers of a pickled ``torch.nn.Module``, named as in its state dict.

    Parameters
    ----------
    stub
        Record of a module.
    is_tensor
        Tells tensors from other values.

    Raises
    ------
    DamagedPickleError
        It has more modules than any network: one of them contains itself.
    """
    pending = [("", stub, 0)]
    visited = 0
    while pending:
        prefix, module, depth = pending.pop()
        visited += 1
        if visited > _MOST_MODULES or depth > _DEEPEST_MODULE:
            raise DamagedPickleError("a module contains itself")
        volatile = module.attributes.get("_non_persistent_buffers_set")
        skipped = volatile if isinstance(volatile, (set, frozenset)) else ()
        for group in ("_parameters", "_buffers"):
            for name, value in (entries(module.attributes.get(group)) or {}).items():
                if is_tensor(value) and not (group == "_buffers" and name in skipped):
                    yield f"{prefix}{name}", value
        children = [*(entries(module.attributes.get("_modules")) or {}).items()]
        pending += [
            (f"{prefix}{name}.", child, depth + 1) for name, child in reversed(children) if isinstance(child, Stub)
        ]
