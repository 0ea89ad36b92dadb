"""Writing the report: one self-contained HTML file that makes no network requests."""

from __future__ import annotations

import importlib.util
import os
from importlib import resources
from pathlib import Path
from typing import Any

from ....errors import InputError, MissingDependencyError
from ....files import atomic_path, check_place
from ....installation import install_line
from ...results import Run
from .encoding import as_text, encode
from .formatting import FILTERS
from .page import make_page
from .pictures import pictures

#: Scripts in the order in which the page runs them.
_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "charts.js", "viewer.js", "report.js")


def check_report(path: Path) -> None:
    """Check that a report can be made and written to a path.

    Raises
    ------
    InputError
        The suffix is not that of a web page, or the file cannot be written.
    MissingDependencyError
        jinja2 is not installed.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--report {path} is written as a web page; give a name that ends with .html")
    check_place(path)
    if importlib.util.find_spec("jinja2") is None:
        raise MissingDependencyError(f"a report needs the package jinja2; install it with: {install_line('parity')}")


def write_report(path: str | os.PathLike[str], run: Run) -> None:
    """Write a page that shows a run: the verdict, the numbers, the pictures and their differences.

    The page contains everything it needs, including charts and pictures, and works from the disk. In addition to the
    run, memory holds one picture at a time.

    Parameters
    ----------
    path
        Output file; an existing one is replaced.
    run
        The run; without its images (``keep_images=True``) the page has no pictures.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    page = make_page(run)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(FILTERS)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # Keys stay in our order, in which they are shown.
    template = environment.from_string(_read("template.html.jinja"))
    values: dict[str, Any] = {
        "page": page,
        "run": run,
        "style": Markup(_read("report.css")),
        "scripts": [Markup(_read(name)) for name in _SCRIPTS],
        "licences": _read("vendor/LICENSES.txt"),
        "pictures": ((name, Markup(as_text(encode(pixels)))) for name, pixels in pictures(page.shown, page.first)),
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(template.generate(**values))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
