"""Options that several commands have: each is declared once, with its help text and its validation.

A command uses one as the annotation of a parameter: ``device: Device = None``. Options that only one command has, or
whose meaning is its own (``build --tile``), stay with that command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..runtime.io.encoding import COMPRESSIONS

_EXECUTION = "Execution"
_TILING = "Tiling"


def at_least_one(option: typer.CallbackParam, number: int | None) -> int | None:
    """Check the value of an option that counts something: the callback of such options."""
    if number is not None and number < 1:
        raise InputError(f"{option.opts[0]} is {number}; give at least 1")
    return number


Model = Annotated[
    Path, typer.Option("--model", metavar="M", help="An exported .onnx file, an engine, or a checkpoint.")
]

Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="cpu|cuda|cuda:N|intel-gpu",
        help="Device to run on; by default a GPU for engines and GPU providers, the CPU for everything else.",
        rich_help_panel=_EXECUTION,
    ),
]

Provider = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="cpu|cuda|tensorrt|openvino",
        help="ONNX Runtime's execution provider, or OpenVINO, for .onnx files; by default the device's own.",
        rich_help_panel=_EXECUTION,
    ),
]

#: Of the command that restores; the others say what they measure.
ProviderOrAuto = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="cpu|cuda|tensorrt|openvino|auto",
        help="ONNX Runtime's execution provider, or OpenVINO, for .onnx files; by default the device's own; auto: the "
        "faster one of those that are installed.",
        rich_help_panel=_EXECUTION,
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="Threads per operator on the CPU; by default one per core.",
        rich_help_panel=_EXECUTION,
    ),
]

PrecisionHint = Annotated[
    str | None,
    typer.Option(
        "--precision-hint",
        metavar="f32|bf16|auto",
        help="What OpenVINO computes in; auto: bf16 where this CPU is fast in it and the first tiles agree with f32.",
        rich_help_panel=_EXECUTION,
    ),
]

Streams = Annotated[
    int | None,
    typer.Option(
        "--streams",
        metavar="N",
        help="Tiles that OpenVINO computes at a time, each with a part of the threads; by default 1.",
        rich_help_panel=_EXECUTION,
    ),
]

AllowHostCode = Annotated[
    bool,
    typer.Option(
        "--allow-host-code",
        help="Let an engine run its own code on this machine: only if you trust its maker.",
        rich_help_panel=_EXECUTION,
    ),
]

K = Annotated[
    int | None,
    typer.Option("--k", metavar="N", help="Neighbours of each node; by default the model's own number."),
]

#: Its value is read with `parse_pixels`.
Tile = Annotated[
    str,
    typer.Option(
        "--tile",
        metavar="N|none|auto",
        help="Side of the tiles in pixels; none: the whole image at once.",
        rich_help_panel=_TILING,
    ),
]

#: Its value is read with `parse_pixels`.
Overlap = Annotated[
    str,
    typer.Option(
        "--overlap", metavar="N|auto", help="Minimum overlap of the tiles in pixels.", rich_help_panel=_TILING
    ),
]

Batch = Annotated[
    int | None,
    typer.Option("--batch", metavar="N", help="Number of tiles that run together.", rich_help_panel=_TILING),
]

GlobalStatistics = Annotated[
    str | None,
    typer.Option(
        "--global-statistics",
        metavar="exact|tile",
        help="How to tile images for a model with statistics over the whole image. exact: the result is the whole "
        "image's, with features kept on disk; tile: each tile by itself. By default exact where the model allows it.",
        rich_help_panel=_TILING,
    ),
]

Scratch = Annotated[
    Path | None,
    typer.Option(
        "--scratch",
        metavar="FOLDER",
        help="Folder for large pictures and feature maps that are on disk meanwhile; by default the system's temporary "
        "folder, and for the feature maps of large pictures that of the result.",
        rich_help_panel=_TILING,
    ),
]

#: Its value is read with `inputs.parse_inputs`.
ExtraInputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=FILE",
        help="What the model takes beside the image, such as mask=mask.mat. FILE may be a folder with files of the "
        "images' names.",
    ),
]


Pyramid = Annotated[
    bool,
    typer.Option(
        "--pyramid",
        help="Write a TIFF as a pyramid of tiles, for viewers of large images. It is one anyway where the image "
        "is one.",
    ),
]

Compression = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(COMPRESSIONS),
        help="Compression of a TIFF (default deflate) or an OME-Zarr (default zstd). jpeg changes samples, the others "
        "do not.",
    ),
]

Recursive = Annotated[
    bool,
    typer.Option("--recursive", help="Search the folders below a folder, too; results keep the subfolders."),
]

SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Leave results that exist, unless results.jsonl says that the model, an option or the image changed.",
    ),
]

FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop at the first of several images that cannot be restored.")
]

JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")]


Rounds = Annotated[
    int,
    typer.Option("--rounds", metavar="N", help="How often each is measured; the median counts.", callback=at_least_one),
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]

NoProgress = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


def parse_pixels(text: str, option: str, *words: str) -> int | str:
    """Read the value of an option that takes a size in pixels or one of a few words.

    Parameters
    ----------
    text
        The value.
    option
        The option's name, for the message.
    words
        Words that it takes, which are returned as they are.

    Raises
    ------
    InputError
        The value is neither a whole number nor one of the words.
    """
    if text in words:
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}; give pixels, or {' or '.join(words)}") from None
