"""Decode JSON from files strictly, with errors that name the field."""

from __future__ import annotations

import json
from typing import Any, TypeVar

T = TypeVar("T")


def decode_json(text: str | bytes) -> Any:
    """Decode JSON that comes from a file.

    Raises
    ------
    ValueError
        The text is not JSON, or nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def decode(values: Any, kind: type[T]) -> T:
    """Convert plain JSON values to a dataclass, strictly.

    Parameters
    ----------
    values
        From `json.loads`.
    kind
        A dataclass; its fields may be dataclasses, tuples and unions with None.

    Returns
    -------
    T
        Lists become tuples where the fields say so. Missing fields get their default.

    Raises
    ------
    ValueError
        A field is unknown, is missing and has no default, or has a value of the wrong type. The message names it:
        ``Expected `int`, got `str` - at `$.tiling.tile```.
    """
    import msgspec  # Takes longer to import than everything else here, and only reading a file needs it.

    try:
        result = msgspec.convert(values, kind)
        # For dataclasses, msgspec ignores unknown fields.
        unknown = _first_unknown(values, msgspec.to_builtins(result), "$")
    except (msgspec.ValidationError, OverflowError) as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("Nested too deeply") from None
    if unknown is not None:
        raise ValueError(f"Unknown field `{unknown}`")
    return result


def _first_unknown(given: Any, known: Any, path: str) -> str | None:
    """Return the path of the first key in nested `given` that `known` lacks."""
    if isinstance(given, dict):
        for key, value in given.items():
            name = f"{path}.{key}"
            found = _first_unknown(value, known[key], name) if key in known else name
            if found is not None:
                return found
    elif isinstance(given, list):
        for i, value in enumerate(given):
            found = _first_unknown(value, known[i], f"{path}[{i}]")
            if found is not None:
                return found
    return None
