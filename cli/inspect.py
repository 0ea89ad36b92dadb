"""``keygraph inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..files import CHECKPOINT_SUFFIXES, ENGINE_SUFFIX, is_checkpoint, is_store, read_start
from ..manifest_summary import Description
from ..runtime.companion_files import check_outputs
from ..runtime.io import cubes, images, slides
from ..runtime.io.images.reading import starting_format
from ..runtime.io.input_files import InputFile
from .arguments import Json, K
from .key_graph_tables import show_key_graphs
from .table import show


def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A checkpoint, an ONNX file, an engine, a spectral cube or an image."),
    ],
    key_graphs: Annotated[
        Path | None,
        typer.Option(
            metavar="PHOTO",
            help="Show what the key graphs of a KGT's .onnx file look like on this photo: how far neighbours are, "
            "which blocks of nodes have no link, and how graphs agree.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="With --key-graphs: draw the figures, as .png or .svg.")
    ] = None,
    k: K = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Of a file of your own network: write a web page of its attentions, and which are fused.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a checkpoint, an ONNX file, an engine, a spectral cube or an image is."""
    if key_graphs is not None:
        if report is not None:
            raise InputError("--report is about attentions, not about key graphs; give it in a command of its own")
        show_key_graphs(file, key_graphs, k, plot, as_json)
        return
    if plot is not None or k is not None:
        raise InputError("--plot and --k are about key graphs; give --key-graphs PHOTO as well")
    description = describe(file)
    if report is not None:
        _write_report(report, file)
    if as_json:
        print(json.dumps(description))
    else:
        show(("", ""), _rows(description), left=2)


def _write_report(target: Path, file: Path) -> None:
    if file.suffix.lower() != ".onnx":
        raise InputError(f"--report shows what an export found, and {file} is no exported .onnx file; leave it out")
    from ..export.attention_page import write_page
    from ..runtime.backends.onnx_file import read_onnx_file

    check_outputs([target], [file])
    opened = read_onnx_file(file)
    if not opened.exported:
        raise InputError(f"--report shows what an export found, and keygraph did not export {file}; leave it out")
    write_page(target, opened.manifest, file.name)


def describe(path: Path) -> Description:
    """Describe a file; ``"kind"`` is ``"checkpoint"``, ``"onnx"``, ``"engine"``, ``"cube"`` or ``"image"``.

    An array in a file of several is named as in ``scene.mat:cube``.

    Raises
    ------
    InputError
        The file is missing, cannot be read, is damaged, or is of none of these kinds.
    """
    # Each describer is imported where it is called: an image needs no PyTorch.
    file = InputFile.parse(path)
    path, variable = file.path, file.variable
    if is_store(path):
        from ..runtime.io import zarr_stores

        return zarr_stores.describe(path)
    if file.is_slide:
        return slides.describe(path)
    start = read_start(path, "a checkpoint, an ONNX file, an engine, a spectral cube or an image")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from ..instrumentation.describe import describe_onnx

        return describe_onnx(path)
    if suffix == ENGINE_SUFFIX:
        from ..engines.describe import describe_engine

        return describe_engine(path)
    if file.page is None and cubes.is_cube(path):
        from ..runtime.io.describe import describe_cube

        return describe_cube(path, None if file.bands else variable)
    if is_checkpoint(path, start):
        from ..models.describe import describe_checkpoint

        return describe_checkpoint(path)
    if suffix in images.FORMATS or suffix in images.READ_ONLY or starting_format(start[:16]):
        from ..runtime.io.describe import describe_image

        return describe_image(path, file.page or 1)
    raise InputError(
        f"{path} is of no kind that keygraph knows; it reads checkpoints ({', '.join(CHECKPOINT_SUFFIXES)}), .onnx, "
        f"engines ({ENGINE_SUFFIX}), spectral cubes ({', '.join(cubes.FORMATS)}), and images "
        f"({', '.join((*images.FORMATS, *images.READ_ONLY))})"
    )


def _rows(description: Description) -> list[tuple[str, str]]:
    """Return table rows; a value of several lines has its title on the first only."""
    return [
        (title if i == 0 else "", line) for title, value in description.items() for i, line in enumerate(_lines(value))
    ]


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [", ".join(f"{name} {_text(item)}" for name, item in value.items())]
    if isinstance(value, list):
        return [_text(item) for item in value] or ["none"]
    return [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_text, value)) + ")"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
