"""Loading keygraph's operator library into an engine: one rule for every engine that can do without it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ... import plugins
from ...errors import InputError, KeygraphError
from ..errors import SessionMemoryError


def load_library(
    host: str,
    library: str | os.PathLike[str] | None,
    load: Callable[[Path], object],
    reason: Callable[[Exception], str],
    notice: Callable[[str], None],
) -> str | None:
    """Load the library, if one is wanted and there is one.

    Parameters
    ----------
    host
        As for `plugins.library`.
    library
        ``"auto"``: the installed library, or none with a notice. A path: that library. None: none.
    load
        Loads the library into the engine.
    reason
        Returns the message of an exception of `load` in one line.
    notice
        Called with a message when the installed library does not load.

    Returns
    -------
    str | None
        Name of the library; None where the functions in the file are used.

    Raises
    ------
    InputError
        The library that was given does not load.
    SessionMemoryError
        `load` raised it.
    """
    if library is None:
        return None
    path = None
    try:
        path = plugins.library(host) if library == "auto" else Path(library)
        if not path.is_file():
            raise InputError(f"the operator library {path} does not exist")
        load(path)
    except SessionMemoryError:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, KeygraphError) else f"{path} does not load: {reason(error)}"
        if library != "auto":
            raise InputError(f"{why}; give another library, or none to use the functions in the file") from error
        notice(f"slower plain functions are used in place of keygraph's operators: {why}")
        return None
    return path.name
