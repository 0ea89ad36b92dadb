"""The options of ``keygraph restore`` that only videos have."""

from __future__ import annotations

from typing import Annotated

import typer

_VIDEO = "Video"

Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="ENCODER",
        help="Encoder, such as libx264, libx265, libvpx-vp9, or ffv1 for no loss; by default libx264, in .webm "
        "libvpx-vp9.",
        rich_help_panel=_VIDEO,
    ),
]

Crf = Annotated[
    float | None,
    typer.Option(
        "--crf",
        metavar="N",
        help="Constant rate factor: less is better and larger; by default 17 for libx264.",
        rich_help_panel=_VIDEO,
    ),
]

PixFmt = Annotated[
    str | None,
    typer.Option(
        "--pix-fmt",
        metavar="FORMAT",
        help="Pixel format, such as yuv420p10le; by default that of the input, or the nearest that the encoder takes.",
        rich_help_panel=_VIDEO,
    ),
]

Matrix = Annotated[
    str | None,
    typer.Option(
        "--matrix",
        metavar="bt601|bt709|bt2020",
        help="Colour matrix of an input that does not say it; by default bt709 for high definition, else bt601.",
        rich_help_panel=_VIDEO,
    ),
]

Segment = Annotated[
    int | None,
    typer.Option(
        "--segment",
        metavar="N",
        help="Frames that are encoded and kept together: what is lost at most when the job is killed; by default 48.",
        rich_help_panel=_VIDEO,
    ),
]

Raw = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="WxH:FORMAT",
        help="Frames in the pipe have no headers, but this size and pixel format, such as 640x480:rgb24.",
        rich_help_panel=_VIDEO,
    ),
]
