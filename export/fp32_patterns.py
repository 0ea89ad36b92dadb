"""FP32 patterns: which nodes of a half-precision file stay in FP32, by the names of nodes and modules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from ..errors import InputError


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern matches a node.

    Parameters
    ----------
    name
        The node's name, ``<module>/<operator>`` with an optional number appended: ``body.2.layers.0/Add_1``.
    pattern
        A pattern with ``*``, ``?`` and ``[...]``. It matches the node's name, with or without the number, or the name
        of a module that the node is in: ``body.3`` and ``body.3.*`` match all nodes in ``body.3``.
    """
    module = name.rpartition("/")[0]
    plain = re.sub(r"_\d+$", "", name)
    parts = module.split(".") if module else []
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(text, pattern) for text in (name, plain, *modules, *(m + "." for m in modules)))


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Return the names that at least one of the patterns matches."""
    chosen = list(patterns)
    return {name for name in names if any(matches(name, pattern) for pattern in chosen)}


def check_patterns(names: Sequence[str], patterns: Iterable[str]) -> None:
    """Check that every pattern matches a node.

    Raises
    ------
    InputError
        A pattern matches none; the message has the nearest names.
    """
    for pattern in patterns:
        if not matching(names, [pattern]):
            modules = {name.rpartition("/")[0] for name in names} - {""}
            near = difflib.get_close_matches(pattern, [*sorted(modules), *names], n=4, cutoff=0)
            raise InputError(
                f"--keep-fp32 {pattern!r} matches no node of the network; the nearest are {', '.join(near)}"
            )


def blocks(names: Iterable[str], depth: int) -> list[str]:
    """Group nodes by module.

    Parameters
    ----------
    names
        Node names, in the order of execution.
    depth
        Number of parts of the module names: ``body.3`` has two.

    Returns
    -------
    list of str
        Modules of `depth` parts, and the names of the nodes that are in no module so deep; each once, in the order of
        execution.
    """
    found: dict[str, None] = {}
    for name in names:
        parts = name.rpartition("/")[0].split(".")
        found[".".join(parts[:depth]) if len(parts) >= depth else name] = None
    return list(found)
