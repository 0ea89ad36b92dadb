"""Choose the weights in a file that a training framework saved.

Of the file's entries (see `entries`), averaged ones are preferred to raw ones (see `averaged`), and among equals those
with the most usual name. What was taken, and what else there is, is said in one line; ``--entry`` takes another one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import InputError
from . import averaged
from .entries import Collection, Entry, Recognise, collections, find_entries
from .pickled.values import DamagedPickleError, entries, kind, printable

#: Names of entries with the weights of the network itself, the most usual first.
PREFERRED = (
    "params", "state_dict", "model_state_dict", "model", "module", "net", "network", "generator", "net_g", "student",
)  # fmt: skip

#: Words of networks that are there for training only.
_AUXILIARY = {"teacher", "target", "momentum", "init", "initial", "old", "prev", "pretrained", "discriminator"}

#: Prefixes that are removed from the keys of a network that no architecture recognises.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.")


def unwrap(
    loaded: Any, source: str, recognise: Recognise, entry: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Find the state dict.

    Parameters
    ----------
    loaded
        Content of the file.
    source
        The file's name, for messages.
    recognise
        Whether an architecture recognises these keys.
    entry
        Name of the entry to take; None to choose by the rules above.

    Returns
    -------
    state, notes
        The state dict, and a line for each choice that was made.

    Raises
    ------
    InputError
        The file holds no tensors, or no entry of that name.
    """
    try:
        found = list(collections(loaded))
    except DamagedPickleError as error:
        raise InputError(f"{source} cannot be read as a checkpoint: {error}") from error
    candidates, notes = find_entries(loaded, found, recognise)
    if not candidates:
        candidates = [_by_name(one) for one in found if isinstance(one.tensors, dict)]
    if not candidates:
        raise InputError(f"{source} holds no state dict (a dictionary of tensors); {_content(loaded)}")
    candidates.sort(key=_rank)
    chosen = candidates[0]
    if entry is not None:
        named = [one for one in candidates if one.name == entry] or [one for one in candidates if entry in one.path]
        if not named:
            names = ", ".join(dict.fromkeys(printable(one.name) for one in candidates))
            raise InputError(f"{source} has no weights {entry!r}; --entry can be: {names}")
        chosen = named[0]
    left = _left_out(found, candidates, notes)
    return chosen.state, [*_said(chosen, [one for one in candidates if one is not chosen], left), *notes]


def _left_out(found: list[Collection], candidates: list[Entry], notes: list[str]) -> list[str]:
    """Return dictionaries of tensors in which nothing is recognised, such as a LoRA beside the network."""
    known = {one.path for one in candidates}
    named: list[str] = []
    for one in found:
        tensors = one.tensors
        # Without names they are no weights: states of random generators, and the like.
        if not one.path or one.path in known or not isinstance(tensors, dict) or all(key.isdigit() for key in tensors):
            continue
        quoted = f"'{printable('/'.join(one.path))}'"
        if any(tensor.numel() > 1 for tensor in tensors.values()) and not any(n.startswith(quoted) for n in notes):
            named.append(f"{quoted} ({len(tensors)} tensor{'s' * (len(tensors) > 1)})")
    return named


def _rank(entry: Entry) -> tuple[bool, bool, bool, int, int, int]:
    """Return the sort key of an entry: what is preferred comes first."""
    names = [*entry.path, *entry.prefix.split(".")]
    words = {word for name in names for word in averaged.words(name)}
    usual = min((PREFERRED.index(name) for name in names if name in PREFERRED), default=len(PREFERRED))
    return not entry.averaged, entry.stale, bool(words & _AUXILIARY), entry.filled, usual, -len(entry.state)


def _by_name(one: Collection) -> Entry:
    """Return the entry of a dictionary in which nothing is recognised, with the usual prefixes removed."""
    state, removed = dict(one.tensors), ""  # type: ignore[arg-type] # asked for dictionaries only
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        removed += prefix
    return Entry(one.path, removed, state, averaged.looks_averaged(*one.path, *removed.split(".")))


def _said(chosen: Entry, others: list[Entry], left: list[str]) -> list[str]:
    """Return the line that says what was taken, and what else there is."""
    if chosen.name == "/" and not chosen.averaged and not others and not chosen.beside and not left:
        return []
    average = f"averaged, {chosen.quoted}" if chosen.averaged else chosen.quoted
    filled = f" ({chosen.filled} of {len(chosen.state)} tensors have no average: raw)" if chosen.filled else ""
    line = f"weights: {average}{filled}"
    if others:
        listed = [f"{one.quoted}{', averaged' if one.averaged else ''}" for one in others[:4]]
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        line += f"; the file also has {', '.join(listed)}{more} (take it with --entry)"
    elif chosen.beside:
        line += f"; {chosen.beside} other tensor{'s' * (chosen.beside > 1)} left out"
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        line += f"; not taken: {', '.join(left[:4])}{more}"
    return [line]


def _content(loaded: Any) -> str:
    """Say what a file without tensors holds."""
    named = entries(loaded)
    if named is None:
        return f"it is a {kind(loaded)}"
    if not named:
        return f"it is an empty {kind(loaded)}"
    listed = [f"{printable(key, 40)} ({kind(value)})" for key, value in list(named.items())[:8]]
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return f"it has: {', '.join(listed)}{more}"
