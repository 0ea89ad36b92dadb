"""Writing the page: one self-contained HTML file that makes no network requests."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import atomic_path
from ...manifest import VERDICTS, Attention, Manifest
from ...manifest_summary import times_rounding
from ...parity.output import report
from ...parity.output.report.writing import check_report
from ...parity.pass_criteria import FACTOR

#: What each verdict means, for the legend.
MEANINGS = {
    "fused": "selected and computed by keygraph's operators",
    "by hand": "the network calls the operators itself",
    "packed": "computed by the operator, on the network's own selection",
    "unchanged": "computed as the network's code does",
}


@dataclass(frozen=True)
class Row:
    """Attentions that follow each other and have the same verdict and size.

    Attributes
    ----------
    first
        The number of the first, from 1.
    modules
        Paths of their modules, each once.
    attention
        One of them.
    count
        How many.
    """

    first: int
    modules: tuple[str, ...]
    attention: Attention
    count: int

    @property
    def share(self) -> float | None:
        """Share of the nodes that are attended to; None where it is not known."""
        one = self.attention
        return None if one.k is None or not one.nodes else min(1.0, one.k / one.nodes)


@dataclass(frozen=True)
class Way:
    """A way in which the file was verified.

    Attributes
    ----------
    name
        As in the manifest.
    against
        What it was compared with.
    runs
        Number of runs.
    psnr
        Lowest, in dB.
    times
        Largest error over what rounding explains; None where that was not measured.
    """

    name: str
    against: str
    runs: int
    psnr: float
    times: float | None


def write_page(path: str | os.PathLike[str], manifest: Manifest, name: str) -> None:
    """Write a page with every attention of a network, in order of execution, what became of it, and why.

    Parameters
    ----------
    path
        The ``.html`` file to write; an existing one is replaced.
    manifest
        Of an exported file.
    name
        The file's, for the title.

    Raises
    ------
    InputError
        The manifest has no attentions, or the page cannot be written.
    MissingDependencyError
        jinja2 is not installed.
    """
    check_report(Path(path))
    if not manifest.attentions:
        raise InputError(
            f"{name} lists no attentions, as files of your own networks do (export-model my_model.py:build) that have "
            "any; leave --report out"
        )
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_read(__package__, "page.html.jinja"))
    counts = {verdict: sum(one.verdict == verdict for one in manifest.attentions) for verdict in VERDICTS}
    values: dict[str, Any] = {
        "name": name,
        "manifest": manifest,
        "rows": rows(manifest.attentions),
        "counts": {verdict: count for verdict, count in counts.items() if count},
        "meanings": MEANINGS,
        "ways": _ways(manifest),
        "factor": FACTOR,
        "style": Markup(_read(report.__name__, "report.css") + _read(__package__, "page.css")),
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(template.generate(**values))


def rows(attentions: tuple[Attention, ...]) -> list[Row]:
    """Join attentions that follow each other and differ in their modules only."""

    def kind(one: Attention) -> tuple[Any, ...]:
        return (one.verdict, one.reason, one.k, one.nodes, one.heads, one.channels, one.keeps_ties)

    found, place = [], 1
    for _, group in itertools.groupby(attentions, kind):
        ones = list(group)
        modules = tuple(dict.fromkeys(one.module or "the network itself" for one in ones))
        found.append(Row(place, modules, ones[0], len(ones)))
        place += len(ones)
    return found


def _ways(manifest: Manifest) -> list[Way]:
    return [
        Way(
            name,
            record["against"],
            len(record["checks"]),
            min(check["psnr"] for check in record["checks"]),
            times_rounding(record),
        )
        for name, record in (manifest.verification or {}).items()
    ]


def _read(package: str | None, name: str) -> str:
    assert package is not None
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
