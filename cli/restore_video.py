"""``keygraph restore`` of videos: a file, or a stream of frames through a pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from ..errors import InputError, printable
from ..runtime.restore_options import RestoreOptions
from ..runtime.restorer import Restorer
from ..runtime.video.colour import MATRICES
from ..runtime.video.pipe import restore_stream
from ..runtime.video.raw_frames import parse_raw
from ..runtime.video.restore import VideoOptions, VideoReport, plan_video, run_video
from .output import progress_bar

#: In place of a file: standard input and standard output.
PIPE = "-"

#: Exit code after nobody reads the result any more, as of a program that SIGPIPE ended.
_BROKEN_PIPE = 141


def check_names(inputs: Sequence[Path], out: Path) -> None:
    """Check the names of a command with a video among its inputs, or with a pipe for its output.

    Raises
    ------
    InputError
        A video is given with something else, or a pipe on one side only.
    """
    if len(inputs) > 1:
        raise InputError(f"of {len(inputs)} inputs one is a video, which is restored alone; give one input")
    if (str(inputs[0]) == PIPE) != (str(out) == PIPE):
        raise InputError(
            "a stream of frames goes from - to -: ffmpeg -i IN -f yuv4mpegpipe - | keygraph restore - -o - ... | "
            "ffmpeg -i - OUT"
        )


def check_options(video: bool, options: VideoOptions, images_only: Mapping[str, object]) -> None:
    """Check that options are given to what has them.

    Parameters
    ----------
    video
        True for a video, False for images.
    options
        The options of videos.
    images_only
        Options that only images have, by name; falsy where they are not given.

    Raises
    ------
    InputError
        An option does not apply, or its value is not possible.
    """
    given = [f"--{key.replace('_', '-')}" for key, value in asdict(options).items() if value is not None]
    if not video and given:
        raise InputError(f"{given[0]} is for videos, and these are images; leave it out")
    others = [name for name, value in images_only.items() if value]
    if video and others:
        raise InputError(f"{others[0]} is for images, and this is a video; leave it out")
    if options.matrix is not None and options.matrix not in MATRICES:
        raise InputError(f"--matrix is {options.matrix!r}; choose {', '.join(MATRICES)}")


def restore_video(
    restorer: Restorer,
    model: Path,
    source: Path,
    out: Path,
    options: RestoreOptions,
    video_options: VideoOptions,
    *,
    as_json: bool,
    quiet: bool,
    notice: Callable[[str], None],
) -> None:
    """Restore a video, and print what was done.

    Parameters
    ----------
    restorer, model
        The model, and its file.
    source, out
        Files to read and to write, or `PIPE` for both.
    options, video_options
        How frames are restored, and encoded.
    as_json
        Print one JSON object in place of a line.
    quiet
        Print no line and no progress.
    notice
        Called with lines about a stream; those about a file are printed with its line.
    """
    if str(source) == PIPE:
        _restore_stream(restorer, options, video_options, as_json=as_json, quiet=quiet, notice=notice)
        return
    if video_options.raw is not None:
        raise InputError("--raw is for frames in a pipe (restore - -o -), and a file says its format; leave it out")
    job = plan_video(restorer, model, source, out, options, video_options)
    if not quiet and not as_json:
        print(f"{printable(str(model))}: {restorer.description}", file=sys.stderr)
    with progress_bar(source.name, quiet=quiet) as progress:
        report = run_video(restorer, job, progress)
    if as_json:
        print(json.dumps(asdict(report)), flush=True)
    elif not quiet:
        print(_line(report), flush=True)


def _restore_stream(
    restorer: Restorer,
    options: RestoreOptions,
    video_options: VideoOptions,
    *,
    as_json: bool,
    quiet: bool,
    notice: Callable[[str], None],
) -> None:
    for_pipes = ("matrix", "raw")
    files_only = [key for key, value in asdict(video_options).items() if key not in for_pipes and value is not None]
    if files_only or as_json:
        name = (files_only or ["json"])[0].replace("_", "-")
        raise InputError(f"--{name} is for files, and nothing but frames goes to standard output; leave it out")
    raw = None if video_options.raw is None else parse_raw(video_options.raw)
    if sys.stdout.isatty():
        raise InputError("standard output is a terminal, and takes no frames; pipe them: ... | ffmpeg -i - OUT")
    if not quiet:
        print(f"standard input: {restorer.description}", file=sys.stderr)
    try:
        with progress_bar("frames", quiet=quiet) as progress:
            restore_stream(
                restorer,
                sys.stdin.buffer,
                sys.stdout.buffer,
                options,
                matrix=video_options.matrix,
                raw=raw,
                notice=notice,
                progress=progress,
            )
    except BrokenPipeError:
        # What is still in the buffer would raise again when Python closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_BROKEN_PIPE) from None


def _line(report: VideoReport) -> str:
    parts = [
        printable(f"{report.source} -> {report.target}"),
        f"{report.width}x{report.height}",
        f"{report.frames} frames" + (f", {report.resumed} of them of an earlier run" if report.resumed else ""),
        f"{report.codec} {report.pixel_format}",
        f"{report.seconds:.2f} s",
    ]
    return "  ".join(parts) + (f"  ({printable('; '.join(report.notices))})" if report.notices else "")
