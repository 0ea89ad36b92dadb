"""``keygraph inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .describe import Description, describe
from .table import show


def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A checkpoint, an ONNX file, an engine, a spectral cube or an image."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a checkpoint, an ONNX file, an engine, a spectral cube or an image is."""
    description = describe(file)
    if as_json:
        print(json.dumps(description))
    else:
        show(("", ""), _rows(description), left=2)


def _rows(description: Description) -> list[tuple[str, str]]:
    rows = []
    for name, value in description.items():
        lines = _lines(value)
        rows += [(name if i == 0 else "", line) for i, line in enumerate(lines)]
    return rows


def _lines(value: Any) -> list[str]:
    """A value in words, several lines for several things."""
    if isinstance(value, dict):
        return [", ".join(f"{name} {_word(item)}" for name, item in value.items())]
    if isinstance(value, list):
        return [_word(item) for item in value] or ["none"]
    return [_word(value)]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_word, value)) + ")"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
