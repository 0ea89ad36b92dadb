"""Architectures that installed packages bring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..installation import architecture_entry_points, package_line, uninstall_line
from .findings import BROKEN, OK, Finding, one_line

_GROUP = "architectures"


def examine_architectures() -> Iterator[Finding]:
    """Yield each architecture that an installed package brings, with the package and whether it can be imported."""
    entries = architecture_entry_points()
    claims = Counter(entry.name for entry in entries)
    for entry in entries:
        assert entry.dist is not None
        package = f"package {entry.dist.name} {entry.dist.version}"
        if claims[entry.name] > 1:
            others = " and ".join(
                other.dist.name
                for other in entries
                if other.name == entry.name and other.dist is not None and other.dist.name != entry.dist.name
            )
            detail = f"by {package}, and also by {others}: neither is used"
            yield Finding(_GROUP, entry.name, BROKEN, detail, uninstall_line(entry.dist.name))
            continue
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # Whatever an import raises, the others are examined.
            detail = f"by {package}, cannot be imported: {one_line(error)}"
            yield Finding(_GROUP, entry.name, BROKEN, detail, package_line("--force-reinstall", entry.dist.name))
        else:
            yield Finding(_GROUP, entry.name, OK, f"by {package}")
