"""Load weights from a checkpoint into a network that the user's own code built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from .checkpoint_file import read_file
from .entries import collections
from .key_map import apply_key_map, read_key_map
from .strict_loading import check_fit, check_values, load_strictly, some
from .unwrap import unwrap


def load_weights(
    module: nn.Module,
    path: Path,
    name: str,
    *,
    prefix: str = "",
    entry: str | None = None,
    key_map: Path | None = None,
) -> list[str]:
    """Load the weights of a network strictly: every tensor of the network, and no other.

    Parameters
    ----------
    module
        The network; its parameters are changed in place, and become float32 where they are in half precision.
    path
        The checkpoint, in any of the forms that `load_checkpoint` reads.
    name
        The network's name, for messages.
    prefix
        Start of the names to take, which is removed: ``"model."`` for what a LightningModule keeps in `self.model`. All
        other tensors are left out. Empty to find it: the tensors whose names are exactly the network's.
    entry
        As for `load_checkpoint`.
    key_map
        File with rules for renaming keys, applied after the prefix is removed.

    Returns
    -------
    list of str
        A line for each choice.

    Raises
    ------
    InputError
        The file cannot be read, or a tensor is missing, unexpected, of another shape, or not finite.
    """
    rules = read_key_map(key_map) if key_map is not None else []
    expected = tensors_of(module, name)

    def fits(state: Mapping[str, Tensor]) -> bool:
        try:
            return (apply_key_map(state, rules)[0] if rules else state).keys() == expected.keys()
        except InputError:
            return False  # The key map does not fit this part of the file.

    loaded, notes = read_file(path)
    if prefix:
        state, chosen = _prefixed(loaded, path, prefix, entry)
    else:
        state, chosen = unwrap(loaded, str(path), fits, entry)
    notes = chosen + notes
    if rules:
        state, mapped = apply_key_map(state, rules)
        notes += mapped
    check_values(state, path)
    try:
        check_fit(expected, state, name, path)
    except InputError as error:
        raise InputError(f"{error}{_hint(expected, state)}") from error
    return notes + load_strictly(module, state, path)


def tensors_of(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Return a network's state dict.

    Parameters
    ----------
    module
        The network.
    name
        Its name, for the message.

    Raises
    ------
    InputError
        It has something else than tensors in it.
    """
    state = module.state_dict()
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise InputError(f"{name} has extra state that is no tensor ({some(other)}), which cannot be loaded strictly")
    return dict(state)


def to_float32(module: nn.Module) -> list[str]:
    """Convert a network's parameters and buffers of floating point to float32 on the CPU in place; say what changed."""
    tensors = [*module.parameters(), *module.buffers()]
    kinds = {str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point() and t.dtype != torch.float32}
    places = {t.device.type for t in tensors} - {"cpu"}
    if not kinds and not places:
        return []
    module.to("cpu").float()
    notes = [f"the network is of type {', '.join(sorted(kinds))}: converted to float32"] if kinds else []
    return notes + [f"the network is on {', '.join(sorted(places))}: moved to the CPU"] * bool(places)


def _prefixed(loaded: object, path: Path, prefix: str, entry: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors whose names start with a prefix, of the first dictionary that has them."""
    found = [one for one in collections(loaded) if isinstance(one.tensors, dict)]
    if entry is not None:
        found = [one for one in found if "/".join(one.path) == entry or entry in one.path]
        if not found:
            raise InputError(f"{path} has no weights {entry!r}; leave --entry out to see what it has")
    starts: list[str] = []
    for one in found:
        assert isinstance(one.tensors, dict)
        state = {key.removeprefix(prefix): tensor for key, tensor in one.tensors.items() if key.startswith(prefix)}
        if state:
            left = len(one.tensors) - len(state)
            place = f" in '{'/'.join(one.path)}'" if one.path else ""
            line = f"weights: the {len(state)} tensors{place} whose names start with {prefix!r}"
            return state, [line + (f"; {left} other tensors left out" if left else "")]
        starts += [key.partition(".")[0] + "." for key in one.tensors if "." in key]
    listed = ", ".join(dict.fromkeys(starts[:200])) or "no name with a dot"
    raise InputError(f"{path} has no tensor whose name starts with {prefix!r}; names start with: {listed:.200}")


def _hint(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return a hint for a message where all missing names are there behind a prefix."""
    first = next((key for key in expected if key not in state), None)
    if first is None:
        return ""
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    fitting = [prefix for prefix in prefixes if all(prefix + key in state for key in expected)]
    return f"; or try --weights-prefix {fitting[0]}" if fitting else ""
