"""``keygraph compare``."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..manifest import IMAGE_INPUT
from ..parity import Comparison, Difference, StageAgreement
from ..parity import compare as compare_models
from ..runtime.sources import inputs_of
from .inputs import INPUT_HELP, find_images, parse_inputs
from .output import note, progress_bar
from .table import show

#: The two do not agree; apart from 1 and 2, which say that it could not be found out.
DISAGREE = 3


def compare(
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="An exported .onnx file, or a checkpoint.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="What it must agree with; likewise.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", hidden=True)] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--inputs", metavar="IMAGE...", help="Images, or folders of them; without any, a generated picture."
        ),
    ] = None,
    beside: Annotated[list[str] | None, typer.Option("--input", metavar="NAME=FILE", help=INPUT_HELP)] = None,
    k: Annotated[
        int | None, typer.Option("--k", metavar="N", help="Neighbours of each node; the reference's default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is wrong.")] = False,
    emit_polygraphy: Annotated[
        Path | None,
        typer.Option(
            "--emit-polygraphy", metavar="SCRIPT.py", help="Write a script that compares them with Polygraphy, and end."
        ),
    ] = None,
) -> None:
    """Compare a model with a reference, number by number.

    The choice of neighbours is compared apart from the arithmetic. Exit code 0: they agree; 3: they do not.
    """
    if more and not inputs:
        raise InputError(f"{more[0]} is a third model; give two, and images after --inputs")
    # An option takes one value; the images after the first arrive as further arguments.
    others = parse_inputs(beside or [])
    found = find_images([*(inputs or []), *(more or [])], others)
    if others and not found:
        raise InputError("--input goes with images, and there are none; give them with --inputs IMAGE")
    chosen = [{IMAGE_INPUT: image, **inputs_of(image, others)} for image in found]
    if emit_polygraphy is not None:
        from ..parity.polygraphy.script import write_script

        command = shlex.join(["keygraph", *sys.argv[1:]])
        write_script(emit_polygraphy, [candidate], reference, chosen, k=k, command=command)
        if not quiet:
            print(f"wrote {emit_polygraphy}; run it with: python {emit_polygraphy}")
        return
    with progress_bar("comparing", quiet=quiet) as progress:
        comparison = compare_models(
            candidate, reference, chosen, k=k, notice=_silent if quiet else note, progress=progress
        )
    if as_json:
        print(json.dumps(comparison.as_json(), allow_nan=False))
    elif not quiet:
        _show(comparison)
    if not comparison.verdict.good:
        if quiet:
            print("\n".join(comparison.verdict.reasons), file=sys.stderr)
        raise typer.Exit(DISAGREE)


def _show(comparison: Comparison) -> None:
    """One screen of text."""
    sides = (("candidate", comparison.candidate), ("reference", comparison.reference))
    show(
        ("", "", "", ""),
        [
            (title, side.name, f"{side.manifest.architecture} {side.manifest.precision}", side.description)
            for title, side in sides
        ],
        left=4,
    )
    if comparison.k is not None:
        print(f"k {comparison.k}")
    print()
    rows = []
    for result in comparison.inputs:
        where = (result.name, f"{result.width}x{result.height}")
        rows.append((*where, "as run", *_cells(result.as_run)))
        if result.same_graphs is not None:
            rows.append(("", "", "same graphs", *_cells(result.same_graphs)))
    show(("image", "size", "", "PSNR dB", "max abs", "mean abs", "8-bit equal", "finite"), rows, left=3)
    if comparison.stages:
        print()
        show(
            ("key graph", "neighbours", "Jaccard", "links differ", "of", "beyond tolerance"),
            [_stage_cells(stage) for stage in comparison.stages],
        )
    print()
    for line in comparison.notices:
        print(f"note: {line}")
    verdict = comparison.verdict
    print(f"{'AGREE' if verdict.good else 'DIFFERENT'}: the rule is: {verdict.rule}")
    for reason in verdict.reasons:
        print(f"  {reason}")


def _cells(numbers: Difference) -> tuple[str, ...]:
    return (
        "equal" if math.isinf(numbers.psnr) else f"{numbers.psnr:.1f}",
        f"{numbers.max_abs:.1e}",
        f"{numbers.mean_abs:.1e}",
        _share(numbers.identical_8bit),
        "yes" if numbers.finite else "NO",
    )


def _stage_cells(stage: StageAgreement) -> tuple[str, ...]:
    kept = sorted({f"{links / stage.rows:g}" for links in (stage.links_candidate, stage.links_reference)})
    return (
        stage.name,
        " and ".join(kept),
        f"{stage.jaccard:.6f}",
        f"{stage.different:,}",
        f"{stage.links_reference:,}",
        f"{stage.beyond_tolerance:,}",
    )


def _share(part: float) -> str:
    """A percentage that says 100 only when it is."""
    return "100 %" if part == 1 else f"{min(100 * part, 99.999):.3f} %"


def _silent(message: str) -> None:
    """Drop a note."""
