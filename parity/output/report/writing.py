"""The report as a file: one page that needs nothing else, and asks nothing of a network."""

from __future__ import annotations

import importlib.util
import os
from importlib import resources
from pathlib import Path
from typing import Any

from ....errors import InputError, MissingDependencyError
from ....files import atomic_path, check_place
from ...run import Run
from .encoding import as_text, encode
from .page import make_page
from .pictures import pictures
from .words import FILTERS

#: In the order in which the page runs them.
_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "charts.js", "viewer.js", "report.js")


def check_report(path: Path) -> None:
    """Check, before any work, that a report can be made and written here; raises `InputError`."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--report {path} would be a web page; let it end with .html")
    check_place(path)
    if importlib.util.find_spec("jinja2") is None:
        raise MissingDependencyError(
            "a report needs the package jinja2; install it with: pip install 'keygraph[parity]'"
        )


def write_report(path: str | os.PathLike[str], run: Run) -> None:
    """Write a page that shows a run: the verdict, the numbers, the pictures and where they differ.

    It holds everything that it needs, charts and pictures too, and works from the disk. Memory is needed for one
    picture at a time beside the run.

    Parameters
    ----------
    path
        Where; an earlier file is replaced.
    run
        With its images (``keep_images=True``), or the page has no pictures.

    Raises
    ------
    InputError
        The place cannot be written.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    page = make_page(run)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(FILTERS)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # and in our order: readers choose from it
    template = environment.from_string(_read("template.html.jinja"))
    values: dict[str, Any] = {
        "page": page,
        "run": run,
        "style": Markup(_read("report.css")),
        "scripts": [Markup(_read(name)) for name in _SCRIPTS],
        "licences": _read("vendor/LICENSES.txt"),
        "pictures": ((name, Markup(as_text(encode(pixels)))) for name, pixels in pictures(page.shown, page.first)),
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(template.generate(**values))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
