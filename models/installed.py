"""Architectures that installed packages bring, by the entry point group ``keygraph.architectures``.

A package that somebody installed is code that they chose to run, as PyTorch's own is; a checkpoint is never a reason to
import anything. The packages are imported when a checkpoint is read for the first time, not with keygraph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint

from torch import Tensor

from ..errors import printable
from ..installation import architecture_entry_points
from .architecture import CUSTOM, Architecture


@dataclass(frozen=True)
class Package:
    """A package that brings an architecture."""

    name: str
    version: str

    def __str__(self) -> str:
        """Return it for a message: ``package keygraph-toy 1.2``."""
        return f"package {self.name} {self.version}"


@dataclass
class Installed:
    """What installed packages bring.

    Attributes
    ----------
    architectures
        Those that can be used, and their packages, in the order of their names.
    conflicts
        Name that several packages claim -> what is wrong. None of them is used.
    problems
        A line for each package whose architecture cannot be used, that of a conflict included.
    """

    architectures: list[tuple[Architecture, Package]] = field(default_factory=list)
    conflicts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@cache
def read_installed(own: frozenset[str]) -> Installed:
    """Import the packages that bring architectures, once in a process.

    Parameters
    ----------
    own
        Names of keygraph's architectures, which no package may take.

    Returns
    -------
    Installed
        A package that fails is a line of `Installed.problems`, and does not affect the others.
    """
    found = Installed()
    by_name: dict[str, list[EntryPoint]] = {}
    for entry in architecture_entry_points():
        by_name.setdefault(entry.name, []).append(entry)
    for name, entries in by_name.items():
        packages = [_package(entry) for entry in entries]
        if len(entries) > 1:
            found.conflicts[name] = (
                f"architecture {printable(name)} is claimed by {' and by '.join(map(str, packages))}; uninstall all "
                "but one of them"
            )
            found.problems.append(found.conflicts[name])
            continue
        (entry,), (package,) = entries, packages
        try:
            found.architectures.append((_loaded(entry, package, own, found.problems), package))
        except (Exception, SystemExit) as error:  # Whatever a package raises, the others are read.
            reason = str(error).strip().splitlines()
            found.problems.append(
                f"architecture {printable(name)} by {package} cannot be used: {type(error).__name__}"
                f"{f': {printable(reason[0][:200])}' if reason else ''}"
            )
    return found


def _package(entry: EntryPoint) -> Package:
    assert entry.dist is not None
    return Package(entry.dist.name, entry.dist.version)


def _loaded(entry: EntryPoint, package: Package, own: frozenset[str], problems: list[str]) -> Architecture:
    """Import an entry point's architecture.

    Raises
    ------
    Exception
        Any; the package cannot be used.
    """
    architecture = entry.load()
    if not isinstance(architecture, Architecture):
        raise TypeError(f"{entry.value} is {type(architecture).__name__}, not a keygraph.models.Architecture")
    if architecture.name != entry.name:
        raise ValueError(f"its entry point is named {entry.name}, and the architecture {architecture.name}")
    if architecture.name in own or architecture.name == CUSTOM:
        raise ValueError("keygraph has an architecture of that name; give it another one")

    def detect(state: Mapping[str, Tensor]) -> bool:
        try:
            return bool(architecture.detect(state))
        except Exception as error:  # A description that fails on others' checkpoints recognises none of them.
            problem = f"architecture {architecture.name} by {package} fails to look at a checkpoint: {error!r:.200}"
            if problem not in problems:
                problems.append(problem)
            return False

    return dataclasses.replace(architecture, detect=detect)
