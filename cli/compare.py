"""``keygraph compare``."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, printable
from ..export.precision_search.comparison import check_models, search_run
from ..files import is_folder, is_regular
from ..manifest import IMAGE_INPUT
from ..parity import Run
from ..parity import compare as compare_models
from ..parity.output import archive, junit
from ..parity.output.baseline import changed_numbers, find_regressions, read_run
from ..parity.output.junit_error import check_junit
from ..parity.output.report import check_report, write_report
from ..parity.pass_criteria import Failures, find_failures
from ..parity.sides import spec
from ..runtime.companion_files import check_outputs
from ..runtime.io.input_files import InputFile, matching_inputs
from .arguments import Device, ExtraInputs, Json, Provider, parse_pixels
from .comparison_tables import show_run
from .inputs import find_images, parse_inputs
from .output import no_note, note, progress_bar, status

#: Exit code for models that do not agree; 1 and 2 mean that they could not be compared.
DISAGREE = 3


def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CANDIDATE... REFERENCE",
            help=".onnx files, engines or checkpoints; the last is the reference, which the others must agree with. "
            "How a model runs may follow @: kgt.ckpt@fp16 (or bf16), kgt.onnx@functions, kgt.onnx@cuda:1, "
            "kgt.onnx@tensorrt. Or your own module, with its weights and arguments: my_model.py:build@net.ckpt"
            "@build.json. --device and --provider apply to models that do not say it.",
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option("--inputs", metavar="IMAGE...", help="Images or folders of images; by default a generated image."),
    ] = None,
    beside: ExtraInputs = None,
    clean: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="What the results should be: a file, or a folder with files of the images' names.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", metavar="N", help="Neighbours of each node; by default the reference's own number."),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="N|none|auto",
            help="Restore in tiles, as the command restore does; by default in pieces that do not overlap.",
        ),
    ] = None,
    device: Device = None,
    provider: Provider = None,
    fail_under: Annotated[
        str | None,
        typer.Option(metavar="dB", help="Lowest PSNR that passes, such as 50dB; by default the rule's own limit."),
    ] = None,
    blocks: Annotated[
        bool,
        typer.Option("--blocks", help="Also compare the output of every block, and show where a difference starts."),
    ] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Search for what a half-precision candidate has to keep in FP32.")
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Output of an earlier --json: fail only where something got worse."),
    ] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", metavar="XML", help="Write JUnit XML for CI.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Save the inputs and the result, for --replay.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Repeat a saved run: its models, inputs and settings.")
    ] = None,
    emit_polygraphy: Annotated[
        Path | None,
        typer.Option(metavar="SCRIPT.py", help="Write a script that compares them with Polygraphy, and exit."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="HTML", help="Write a page with the images, their differences and charts; it needs no network."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is wrong.")] = False,
) -> None:
    """Compare models with a reference, number by number.

    The choice of neighbours is compared separately from the arithmetic. Exit code 0: they agree; 3: they do not.
    """
    # Everything that can be checked without a model is checked before the first one is loaded.
    previous = read_run(baseline) if baseline is not None else None
    if junit_file is not None:
        check_junit(junit_file)
    if report is not None:
        check_report(report)
    if save is not None:
        archive.check_folder(save)
    written = [path for path in (junit_file, report, save, emit_polygraphy) if path is not None]
    at_least = None if fail_under is None else _decibels(fail_under)
    options: dict[str, Any]
    earlier = None
    images: list[dict[str, InputFile]] = []
    if emit_polygraphy is not None and (
        replay or clean or tile or save or junit_file or report or baseline or fail_under or blocks or bisect
    ):
        raise InputError("--emit-polygraphy goes with models, --inputs, --input, --k, --device and --provider alone")
    if replay is not None:
        if models or inputs or beside or clean or k is not None or tile or device or provider:
            raise InputError("--replay repeats a run as it was; leave out models, images and how they run")
        earlier = archive.load(replay)
        named = [spec.parse_spec(model) for model in earlier.models]
        settings = earlier.settings
        options = {"inputs": earlier.samples, "k": settings.get("k"), "tile": settings.get("tile")}
        at_least = settings.get("at_least") if at_least is None else at_least
        blocks = blocks or bool(settings.get("blocks"))
        command = ["--replay", str(replay)]
        read = list(replay.rglob("*"))
    else:
        texts, pictures = _apart(models or [], inputs)
        named = [spec.parse_spec(text).by_default(device, provider) for text in texts]
        images, targets = _pictures(pictures, beside or [], clean, no_note if quiet else note)
        options = {
            "inputs": images,
            "clean": targets,
            "k": k,
            "tile": None if tile is None else parse_pixels(tile, "--tile", "none", "auto"),
        }
        command = _command(named, pictures, beside or [], clean, k, tile)
        read = [file.path for file in (*(file for image in images for file in image.values()), *targets)]
    if replay is not None and save is not None and is_folder(save) and save.samefile(replay):
        written.remove(save)  # The repeated run takes the place of the earlier one, with the same inputs.
    check_outputs(
        written,
        [*read, *(path for model in named for path in model.files), *([baseline] if baseline is not None else [])],
    )
    if emit_polygraphy is not None:
        _emit(emit_polygraphy, named, images, k, command)
        if not quiet:
            print(printable(f"wrote {emit_polygraphy}; run it with: python {emit_polygraphy}"))
        return
    if fail_under is not None:
        command += ["--fail-under", fail_under]
    command += [*(["--blocks"] if blocks else []), *(["--bisect"] if bisect else [])]
    if bisect:
        check_models(named)
    own = any(model.entry_point is not None for model in named)
    # What the user's code prints belongs to no JSON.
    elsewhere = contextlib.redirect_stdout(sys.stderr) if own else contextlib.nullcontext()
    with elsewhere, progress_bar("comparing", quiet=quiet) as progress:
        run = compare_models(
            named[:-1],
            named[-1],
            at_least=at_least,
            blocks=blocks,
            keep_images=save is not None or report is not None or bisect,
            command=shlex.join(["keygraph", "compare", *command]),
            notice=no_note if quiet else note,
            progress=progress,
            **options,
        )
    if bisect:
        with status(quiet=quiet) as report_status:
            run = search_run(run, named, report_status)
    failed = find_failures(run) if previous is None else find_regressions(run, previous)
    changed = [*earlier.changed, *changed_numbers(run, earlier.result)] if earlier is not None else None
    if save is not None:
        archive.save(save, run)
    if junit_file is not None:
        junit.write_junit(junit_file, run, failed)
    if report is not None:
        write_report(report, run)
    if as_json:
        print(json.dumps(run.as_json() | ({} if changed is None else {"moved": changed}), allow_nan=False))
    elif not quiet:
        show_run(run, None if previous is None else failed, changed)
    _finish(run, failed, quiet, judged_by_rule=previous is None)


def _emit(
    script: Path, models: list[spec.ModelSpec], images: list[dict[str, InputFile]], k: int | None, command: list[str]
) -> None:
    """Write a script for Polygraphy."""
    from ..parity.polygraphy.script import write_script

    written_by = shlex.join(["keygraph", "compare", *command, "--emit-polygraphy", str(script)])
    write_script(script, models[:-1], models[-1], images, k=k, command=written_by)


def _finish(run: Run, failed: Failures, quiet: bool, judged_by_rule: bool) -> None:
    """Exit with `DISAGREE` if they do not agree."""
    if run.good if judged_by_rule else not failed:
        return
    if quiet:
        lines = run.reasons if judged_by_rule else [line for lines in failed.values() for line in lines]
        print("\n".join(map(printable, lines)), file=sys.stderr)
    raise typer.Exit(DISAGREE)


def _apart(arguments: list[str], inputs: list[Path] | None) -> tuple[list[str], list[Path]]:
    """Separate models from images: Typer gives --inputs one value, so further images arrive as arguments."""
    models = [text for text in arguments if not inputs or spec.is_model(text)]
    if len(models) < 2:
        raise InputError(
            f"{models[0] if models else 'nothing'} alone cannot be compared; give one or several CANDIDATEs, then the "
            "REFERENCE (and images after --inputs)"
        )
    return models, [*(inputs or []), *(Path(text) for text in arguments if text not in models)]


def _pictures(
    given: list[Path], beside: list[str], clean: Path | None, notice: Callable[[str], None]
) -> tuple[list[dict[str, InputFile]], list[InputFile]]:
    """Return the images, each with its extra inputs, and the clean images."""
    others = parse_inputs(beside)
    found = find_images(given, others, notice)
    for option in [*(["--input"] if others else []), *(["--clean"] if clean else [])]:
        if not found:
            raise InputError(f"{option} goes with images, and there are none; give them with --inputs IMAGE")
    images = [{IMAGE_INPUT: image, **matching_inputs(image, others)} for image in found]
    return images, [] if clean is None else [_clean(image, clean, len(found)) for image in found]


def _clean(image: InputFile, clean: Path, images: int) -> InputFile:
    if is_regular(clean) and images > 1:
        raise InputError(f"--clean {clean} is one file for {images} images; give a folder with files of their names")
    file = clean / image.path.name if is_folder(clean) else clean
    if not is_regular(file):
        where = f"holds no {image.path.name}, which {image.path} needs" if is_folder(clean) else "does not exist"
        raise InputError(f"--clean {clean} {where}; give a file, or a folder with files of the images' names")
    return InputFile(file)


def _command(
    models: list[spec.ModelSpec],
    pictures: list[Path],
    beside: list[str],
    clean: Path | None,
    k: int | None,
    tile: str | None,
) -> list[str]:
    """Return the arguments that repeat the comparison."""
    words = [str(model) for model in models]
    words += ["--inputs", *map(str, pictures)] if pictures else []
    for option in beside:
        words += ["--input", option]
    for name, value in (("--clean", clean), ("--k", k), ("--tile", tile)):
        words += [] if value is None else [name, str(value)]
    return words


def _decibels(text: str) -> float:
    """Read ``50dB``, ``50 dB`` or ``50``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:dB)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise InputError(f"--fail-under is {text!r}; give decibels, for instance 50dB")
    return float(found[1])
