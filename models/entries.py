"""The sets of weights that a checkpoint file holds.

Every dictionary of tensors in the file is looked at, every whole module, and every list of averaged tensors; within
them, every prefix of the keys. Those that an architecture recognises are entries. Averages that no architecture
recognises by themselves are fitted to the raw weights of the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from . import averaged
from .pickled.arrays import as_tensor
from .pickled.values import Stub, entries, module_tensors, printable

Recognise = Callable[[Mapping[str, Tensor]], bool]
State = dict[str, Tensor]

#: Words of names that hold no weights of a network.
_OTHER = {"optim", "optimizer", "optimizers", "scheduler", "schedulers", "scaler", "loops", "rng"}

#: Depth of dictionaries, and of prefixes, that are looked at; their number.
_DEEPEST, _MOST = 6, 10_000


@dataclass(frozen=True)
class Entry:
    """A set of weights.

    Attributes
    ----------
    path
        Names of the dictionaries that hold it.
    prefix
        What is removed from its keys.
    state
        The tensors.
    averaged
        Whether they are averages.
    stale
        Whether they are an average that was never updated: a copy of the first weights.
    filled
        Number of tensors that have no average and are raw.
    beside
        Number of other tensors in the same dictionary.
    """

    path: tuple[str, ...]
    prefix: str
    state: State
    averaged: bool = False
    stale: bool = False
    filled: int = 0
    beside: int = 0

    @property
    def name(self) -> str:
        """What ``--entry`` takes: ``params_ema``, ``state_dict/model.``; ``/`` for the file's own top level."""
        return "/".join((*self.path, self.prefix) if self.prefix else self.path) or "/"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of dictionaries and the parts of the prefix, outer ones first."""
        return (*self.path, *filter(None, self.prefix.split(".")))

    @property
    def quoted(self) -> str:
        """The name for a message of one line."""
        return f"'{printable(self.name)}'"


@dataclass(frozen=True)
class Collection:
    """The tensors of one dictionary, module or list, what else is in it, and the dictionary around it.

    For a list, `holder` is the dictionary around it.
    """

    path: tuple[str, ...]
    tensors: State | list[Tensor]
    holder: Mapping[Any, Any] = field(default_factory=dict)
    outer: Mapping[Any, Any] = field(default_factory=dict)

    def updated(self, beside: list[Mapping[Any, Any]]) -> bool:
        """Tell whether an average in it was ever updated, by the counters in `beside` or around it."""
        around = [self.outer] if averaged.looks_averaged(*self.path[:-1]) else []
        return averaged.updated([*beside, *around], self.outer)


@dataclass(frozen=True)
class _Unknown:
    """Tensors that are averages by name, and the collection that they are in."""

    entry: Entry
    tensors: State | list[Tensor]
    within: Collection


def collections(loaded: Any) -> Iterator[Collection]:
    """Yield all collections of tensors in the content of a file, outer ones first."""
    pending: list[tuple[tuple[str, ...], Any, Mapping[Any, Any]]] = [((), loaded, {})]
    # What contains itself ends at _DEEPEST.
    for path, value, holder in pending:  # grows while it is read
        parts: list[tuple[str, Any]]
        within: Mapping[Any, Any]
        if isinstance(value, Stub) and ("_modules" in value.attributes or "_parameters" in value.attributes):
            parts, within = list(module_tensors(value, lambda part: as_tensor(part) is not None)), value.attributes
            # What a module holds besides its own tensors, such as the averages of an EMA wrapper.
            parts += [
                (str(key), part)
                for key, part in within.items()
                if not str(key).startswith("_") and as_tensor(part) is None
            ]
        elif isinstance(value, (list, tuple)):
            pairs = all(isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], str) for part in value)
            parts, within = (list(value) if pairs else [(str(i), part) for i, part in enumerate(value)]), holder
        else:
            within = entries(value) or {}
            parts = [(str(key), part) for key, part in within.items()]
        tensors = {name: tensor for name, part in parts if (tensor := as_tensor(part)) is not None}
        if isinstance(value, (list, tuple)):
            if tensors and len(tensors) == len(value) and averaged.looks_averaged(*path):
                yield Collection(path, list(tensors.values()), holder, holder)
        elif tensors:
            yield Collection(path, tensors, within, holder)
        if len(path) == _DEEPEST or len(pending) > _MOST:
            continue
        for name, part in parts:
            if not isinstance(part, (Mapping, list, tuple, Stub)) or name in tensors:
                continue
            if _OTHER.intersection(averaged.words(name)) and not averaged.looks_averaged(name):
                pending += _averages_of_optimizers((*path, name), part)
            else:
                pending.append(((*path, name), part, within))


def _averages_of_optimizers(
    path: tuple[str, ...], value: Any
) -> Iterator[tuple[tuple[str, ...], Any, Mapping[Any, Any]]]:
    """Yield averages that optimizers keep beside their own state, as NeMo's do: path, content, and what holds it."""
    states = [((*path, str(i)), part) for i, part in enumerate(value)] if isinstance(value, (list, tuple)) else []
    for place, state in states or [(path, value)]:
        within = entries(state) or {}
        for name, part in within.items():
            if averaged.looks_averaged(str(name)) and isinstance(part, (Mapping, list, tuple)):
                yield (*place, str(name)), part, within


def find_entries(loaded: Any, found: list[Collection], recognise: Recognise) -> tuple[list[Entry], list[str]]:
    """Find the sets of weights in a file.

    Parameters
    ----------
    loaded
        Content of the file.
    found
        Its collections of tensors.
    recognise
        Whether an architecture recognises these keys.

    Returns
    -------
    recognised, notes
        The entries that are weights of a network, and lines about averages that cannot be used.
    """
    misleading = averaged.exchanged(loaded)
    recognised: list[Entry] = []
    unknown: list[_Unknown] = []
    notes: list[str] = []
    for one in found:
        if isinstance(one.tensors, list):
            unknown.append(_Unknown(Entry(one.path, "", {}, True), one.tensors, one))
            continue
        parts = list(_parts(one.tensors, recognise))
        # Whether weights are exchanged with the buffers of `FLAT`, which are then the raw ones.
        flat = averaged.FLAT in misleading and any(prefix.endswith(averaged.FLAT) for prefix, _, _ in parts)
        for prefix, state, known in parts:
            if not known:
                entry = Entry(one.path, prefix, {}, not (flat and prefix.endswith(averaged.FLAT)))
                unknown.append(_Unknown(entry, state, one))
                continue
            entry = Entry(one.path, prefix, state, beside=len(one.tensors) - len(state))
            beside = [one.holder, *_outer(one.tensors, prefix)]
            average = flat or averaged.looks_averaged(*one.path, *prefix.split("."))
            average |= any("n_averaged" in tensors for tensors in beside)
            if len(one.path) == 1 and one.path[0] in misleading:
                average, beside = misleading[one.path[0]]
                stale = average and not averaged.updated(beside)
            else:
                stale = average and not one.updated(beside)
            recognised.append(replace(entry, averaged=average and not stale, stale=stale))
        if not any(known for _, _, known in parts) and averaged.looks_averaged(*one.path):
            unknown.append(_Unknown(Entry(one.path, "", {}, True), one.tensors, one))
    fitted = _fit(recognised, unknown, notes)
    averages = [entry for entry in (*recognised, *fitted) if entry.averaged or entry.stale]
    recognised = [
        replace(entry, averaged=False, stale=False)
        if (entry.averaged or entry.stale) and any(averaged.raw_beside(entry.names, other.names) for other in averages)
        else entry
        for entry in recognised
    ]
    notes += [
        f"{entry.quoted} is an average that was never updated: not taken"
        for entry in (*recognised, *fitted)
        if entry.stale
    ]
    return _complete(recognised) + [entry for entry in fitted if not entry.stale], notes


def _outer(tensors: State, prefix: str) -> Iterator[State]:
    """Yield the tensors beside each part of a prefix: the counters of a wrapper."""
    levels = prefix.split(".")[:-1]
    for i in range(len(levels)):
        start = "".join(f"{level}." for level in levels[:i])
        yield {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def _parts(tensors: State, recognise: Recognise, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, State, bool]]:
    """Yield prefix and tensors of the networks in a dictionary, and of averages that are not recognised (False)."""
    groups: dict[str, State] = {}
    for key, tensor in tensors.items():
        first, dot, rest = key.partition(".")
        if dot:
            groups.setdefault(f"{first}.", {})[rest] = tensor
        elif key.startswith(averaged.FLAT):
            groups.setdefault(averaged.FLAT, {})[key.removeprefix(averaged.FLAT)] = tensor
    apart = {name: group for name, group in groups.items() if averaged.looks_averaged(name)}
    own = {key: tensor for key, tensor in tensors.items() if not _of(key, apart)}
    if recognise(tensors) or (apart and recognise(own)):
        # A part of the network may be called `ema` as well: averages are those that the network's tensors fit.
        inner = {name: list(_parts(group, recognise, prefix + name, depth + 1)) for name, group in apart.items()}
        apart = {n: g for n, g in apart.items() if any(p[2] for p in inner[n]) or averaged.fit(own, g) is not None}
        yield prefix, {key: tensor for key, tensor in tensors.items() if not _of(key, apart)}, True
        for name, group in apart.items():
            yield from inner[name] if any(p[2] for p in inner[name]) else [(prefix + name, group, False)]
        return
    for name, group in groups.items():
        parts = list(_parts(group, recognise, prefix + name, depth + 1)) if depth < _DEEPEST else []
        if not parts and name in apart:
            parts = [(prefix + name, group, False)]
        yield from parts


def _of(key: str, groups: Mapping[str, State]) -> bool:
    return any(key.startswith(name) for name in groups)


def _complete(recognised: list[Entry]) -> list[Entry]:
    """Fill tensors that averages lack, which are buffers or not trained, from the raw weights."""
    raw = [entry for entry in recognised if not entry.averaged]
    completed: list[Entry] = []
    for entry in recognised:
        wider = [other.state for other in raw if entry.averaged and entry.state.keys() < other.state.keys()]
        fitted = next((found for state in wider if (found := averaged.fit(state, entry.state)) is not None), None)
        completed.append(replace(entry, state=fitted[0], filled=fitted[1]) if fitted is not None else entry)
    return completed


def _fit(recognised: list[Entry], unknown: list[_Unknown], notes: list[str]) -> list[Entry]:
    """Return the averages that fit recognised weights, and those that were never updated."""
    fitted: list[Entry] = []
    for one in unknown:
        values = one.tensors if isinstance(one.tensors, list) else one.tensors.values()
        if max((tensor.numel() for tensor in values), default=0) <= 1:
            continue  # averages of something else, such as of the loss
        found = next((f for other in recognised if (f := averaged.fit(other.state, one.tensors)) is not None), None)
        if found is None:
            notes.append(f"{one.entry.quoted} looks like averaged weights, but does not fit the others: not taken")
        else:
            stale = one.entry.averaged and not one.within.updated([one.within.holder])
            fitted.append(
                replace(
                    one.entry, averaged=one.entry.averaged and not stale, stale=stale, state=found[0], filled=found[1]
                )
            )
    return fitted
