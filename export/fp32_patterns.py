"""Which nodes stay in FP32: patterns over the names of nodes and modules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from ..errors import InputError


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a node.

    Parameters
    ----------
    name
        ``<module>/<operator>``, perhaps with a number behind: ``body.2.layers.0/Add_1``.
    pattern
        With ``*``, ``?`` and ``[...]``: of a node's name, with its number or without, or of a module, which stands for
        all that is in it. ``body.3.*`` is all of ``body.3``.
    """
    module = name.rpartition("/")[0]
    plain = re.sub(r"_\d+$", "", name)
    parts = module.split(".") if module else []
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(text, pattern) for text in (name, plain, *modules, *(m + "." for m in modules)))


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The names that any of the patterns matches."""
    chosen = list(patterns)
    return {name for name in names if any(matches(name, pattern) for pattern in chosen)}


def check_patterns(names: Sequence[str], patterns: Iterable[str]) -> None:
    """Raise an `InputError` with the nearest names for a pattern that matches no node."""
    for pattern in patterns:
        if not matching(names, [pattern]):
            modules = {name.rpartition("/")[0] for name in names} - {""}
            near = difflib.get_close_matches(pattern, [*sorted(modules), *names], n=4, cutoff=0)
            raise InputError(
                f"--keep-fp32 {pattern!r} matches no node of the network; the nearest are {', '.join(near)}"
            )


def blocks(names: Iterable[str], depth: int) -> list[str]:
    """Modules of `depth` parts that the nodes are in, in the order of execution; by name what is in none so deep."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.rpartition("/")[0].split(".")
        found[".".join(parts[:depth]) if len(parts) >= depth else name] = None
    return list(found)
