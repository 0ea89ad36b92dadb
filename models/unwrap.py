"""Find the state dict in a file that a training framework saved.

These rules apply in order, each until it no longer does:

1. A dictionary with one of the keys `CONTAINERS` is replaced by that entry. Earlier names take precedence, so averaged
   (EMA) weights are preferred to raw ones.
2. A prefix of `PREFIXES` that all keys have is removed.
3. When only some keys have a prefix of `SUBMODULES` (a Lightning module with its loss), and an architecture recognises
   these, they are used and the others are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError

CONTAINERS = (
    "params_ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "generator",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.")
SUBMODULES = ("ema_model.", "model_ema.", "ema.", "net_g_ema.", "model.", "net.", "network.", "net_g.", "generator.")


def unwrap(
    loaded: Any, source: str, recognise: Callable[[Mapping[str, Tensor]], bool]
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

    Returns
    -------
    state, notes
        The state dict, and a line for each choice that was made.

    Raises
    ------
    InputError
        The file holds no dictionary of tensors.
    """
    notes: list[str] = []
    while isinstance(loaded, Mapping):
        held = [name for name in CONTAINERS if isinstance(loaded.get(name), Mapping) and loaded[name]]
        if not held:
            break
        others = f" (also there: {', '.join(held[1:])})" if held[1:] else ""
        notes.append(f"weights taken from {held[0]!r}{others}")
        loaded = loaded[held[0]]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(
            f"{source} holds no state dict (a dictionary of tensors, or one under {', '.join(CONTAINERS)})"
        )
    state = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if len(state) < len(loaded):
        notes.append(f"{len(loaded) - len(state)} entries that are not tensors left out")
    return _strip(state, notes, recognise), notes


def _strip(
    state: dict[str, Tensor], notes: list[str], recognise: Callable[[Mapping[str, Tensor]], bool]
) -> dict[str, Tensor]:
    while not recognise(state):
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        notes.append(f"prefix {prefix!r} removed")
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    if recognise(state):
        return state
    for prefix in SUBMODULES:
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if part and recognise(part):
            notes.append(f"prefix {prefix!r} removed; {len(state) - len(part)} other tensors left out")
            return part
    return state
