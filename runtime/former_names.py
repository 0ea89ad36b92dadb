"""Names that the documentation gave before something moved or was renamed: they work, with a warning."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any


def former_name(module: str, name: str, home: str, new: str) -> Any:
    """Return what a former name stands for, and warn the caller of `module`'s ``__getattr__``.

    Parameters
    ----------
    module, name
        The former name and the module that had it.
    home
        The module that has it now, by its full name.
    new
        Its name there; empty where it is the module itself.

    Raises
    ------
    AttributeError
        There never was such a name.
    """
    found: Any = import_module(home)
    if name.startswith("_") or (new and not hasattr(found, new)):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is now {'.'.join(filter(None, (home, new)))}", DeprecationWarning, stacklevel=3)
    return getattr(found, new) if new else found
