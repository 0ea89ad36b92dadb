"""``keygraph inspect --key-graphs``: what key graphs look like, as tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..runtime.companion_files import check_outputs
from ..runtime.io import images
from .table import show

if TYPE_CHECKING:
    from ..instrumentation.key_graph_study import Study


def show_key_graphs(model: Path, photo: Path, k: int | None, plot: Path | None, as_json: bool) -> None:
    """Study the key graphs of a model on a photograph, and print the figures.

    Parameters
    ----------
    model
        The .onnx file.
    photo
        A picture; its middle is looked at.
    k
        Neighbours of each node; None for the model's default.
    plot
        Where to draw the figures, if at all.
    as_json
        Print one JSON object instead of tables.

    Raises
    ------
    InputError
        A file is missing or of the wrong kind, the model has no key graphs, or does not take this k.
    """
    # Imported here: `inspect` describes an image without the package onnx.
    from ..instrumentation.key_graph_plot import check_plot
    from ..instrumentation.key_graph_plot import plot as draw
    from ..instrumentation.key_graph_study import study

    if model.suffix.lower() != ".onnx":
        raise InputError(f"--key-graphs reads an exported .onnx file, which {model} is not; export-model writes one")
    if plot is not None:
        check_plot(plot)
        check_outputs([plot], [model, photo])
    found = study(model, images.read(photo).pixels, k)
    if plot is not None:
        draw(found, plot)
    if as_json:
        print(json.dumps({"model": str(model), "photo": str(photo), **dataclasses.asdict(found)}))
        return
    print(f"key graphs on {found.width} x {found.height} pixels of {photo}, k = {found.k}\n")
    show(*_stages(found), left=1)
    print("\nlinks of two stages / links of either")
    show(*_agreement(found), left=1)
    if found.kept:
        print("\n% of the links of a k that the next larger k has, too")
        show(*_kept(found), left=1)


def _stages(found: Study) -> tuple[list[str], list[list[str]]]:
    orders = list(dict.fromkeys(order for stage in found.stages for order in stage.empty_blocks))
    header = [
        "stage",
        "windows",
        "nodes",
        "links",
        "distance",
        "of all",
        "alike %",
        *(f"empty % ({order})" for order in orders),
    ]
    rows = [
        [
            stage.name,
            str(stage.windows),
            str(stage.nodes),
            f"{stage.links:.0f}",
            _number(stage.distance, ".1f"),
            _number(stage.distance_of_all, ".1f"),
            f"{100 * stage.alike:.0f}",
            *(_number(_percent(stage.empty_blocks.get(order)), ".1f") for order in orders),
        ]
        for stage in found.stages
    ]
    return header, rows


def _agreement(found: Study) -> tuple[list[str], list[list[str]]]:
    names = [stage.name for stage in found.stages]
    rows = [[name, *(_number(share, ".2f") for share in row)] for name, row in zip(names, found.agreement, strict=True)]
    return ["", *names], rows


def _kept(found: Study) -> tuple[list[str], list[list[str]]]:
    header = ["k", *(stage.name for stage in found.stages)]
    return header, [[str(k), *(f"{100 * share:.1f}" for share in shares)] for k, shares in found.kept.items()]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
