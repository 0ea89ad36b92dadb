"""``keygraph export``, also installed as ``export-model``."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, counted, printable
from ..export import export as export_file
from ..export.custom.model import CustomModel
from ..export.custom.source import SourceOptions, load_source
from ..export.onnx_import.file import is_onnx
from ..export.onnx_import.load import load_onnx_network
from ..files import check_place, is_folder
from ..manifest import Manifest
from ..manifest_summary import half_precision_lines, statistics_lines, times_rounding
from ..models import LoadedModel, load_checkpoint
from ..models.source_file import is_source
from ..runtime.companion_files import check_outputs, read_with
from ..runtime.preprocess.request import input_names
from .arguments import Quiet
from .inputs import parse_inputs
from .output import note, step_progress


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A trained model: .ckpt, .pth, .pt or .safetensors; or my_model.py:build, a function of your own "
            "Python file that makes any network: the file is run; or an .onnx file of any network.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE.onnx", help="Output file; by default the checkpoint's name with .onnx."
        ),
    ] = None,
    k: Annotated[
        str,
        typer.Option(
            "--k", metavar="N|runtime", help="Fix the number of neighbours of each node; runtime: it is an input."
        ),
    ] = "runtime",
    shape: Annotated[
        str, typer.Option(metavar="dynamic|BxHxW", help="The only image size that the file takes; dynamic: any.")
    ] = "dynamic",
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16|bf16|auto",
            help="Type of weights and activations; auto: fp16, with as much in FP32 as --target-psnr needs.",
        ),
    ] = "fp32",
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Nodes or modules that stay in FP32, such as 'body.3.*'; repeatable."),
    ] = None,
    half_io: Annotated[bool, typer.Option("--half-io", help="Input and output images in half precision too.")] = False,
    target_psnr: Annotated[
        float | None,
        typer.Option(metavar="DB", help="PSNR against FP32 that --precision auto has to reach; 50 by default."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Images to measure half precision, and the effect of tiles, on."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=FOLDER",
            help="What the model takes beside the images of --calibration, such as mask=masks.",
        ),
    ] = None,
    key_map: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rules `pattern -> name` that rename the keys of a foreign state dict."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Settings that the checkpoint does not store; of a .py file, the arguments of build.",
        ),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which weights to take where the file has several, such as params; by default averaged (EMA) ones.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a .py file: checkpoint whose weights the network gets."),
    ] = None,
    weights_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="Take the weights whose names start with this, such as model.; by default it is found.",
        ),
    ] = None,
    size_multiple: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Of a .py or .onnx file: height and width are multiples of this; by default found by running sizes.",
        ),
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range", metavar="LOW HIGH", help="Of a .py or .onnx file: values of black and white; 0 1 by default."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Of a .py or .onnx file: what the network does, such as denoising."),
    ] = None,
    tie: Annotated[
        str | None,
        typer.Option(
            metavar="keep|k",
            help="Of a .py or .onnx file: k makes k an input also where nodes that tie with the k-th are all kept: "
            "exactly k will be; keep by default.",
        ),
    ] = None,
    verification: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the file with PyTorch before it is written.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest and the file's size as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Export a checkpoint, or any network of your own code, to one portable ONNX file, verified against PyTorch."""
    own = SourceOptions(weights, weights_prefix, size_multiple, value_range, task, tie)
    source, foreign = is_source(str(checkpoint)), is_onnx(checkpoint)
    if foreign:
        if out is None:
            raise InputError(f"name the file to write with -o FILE.onnx; {checkpoint} is read")
        own.require_no_weights(checkpoint, key_map=key_map, config=config, entry=entry)
    elif not source:
        own.require_none(checkpoint)
    target = out if out is not None else Path(str(checkpoint).partition(".py:")[0]).with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise InputError(f"{target} does not end with .onnx; name the file to write with -o FILE.onnx")
    check_place(target)
    inputs = parse_inputs(beside or [])
    read = [
        Path(re.sub(r"\.py:.*", ".py", str(checkpoint))),
        weights,
        key_map,
        config,
        *(given.path for given in inputs.values()),
    ]
    if calibration is not None and is_folder(calibration):
        read += calibration.iterdir()
    check_outputs([target], [path for path in read if path is not None])
    fixed_k, fixed_shape = _k(k), _shape(shape)
    start = time.monotonic()

    def load(progress: Callable[[str], None]) -> LoadedModel | CustomModel:
        if foreign:
            return load_onnx_network(
                checkpoint,
                task=task or "",
                shape=fixed_shape,
                size_multiple=size_multiple,
                value_range=value_range,
                tie=tie or "keep",
                progress=progress,
            )
        if not source:
            return load_checkpoint(checkpoint, key_map=key_map, config=config, entry=entry)
        return load_source(
            str(checkpoint),
            own,
            key_map=key_map,
            config=config,
            entry=entry,
            shape=fixed_shape,
            notice=(lambda _line: None) if quiet else note,
            progress=progress,
        )

    # What the user's code prints belongs to no JSON.
    elsewhere = contextlib.redirect_stdout(sys.stderr) if source else contextlib.nullcontext()
    with elsewhere, step_progress(quiet=quiet) as steps:
        model = load(steps.start)
        if not quiet:
            for line in model.notes:
                note(line)
        manifest = export_file(
            model,
            target,
            k=fixed_k,
            shape=model.shape if isinstance(model, CustomModel) else fixed_shape,
            precision=precision,
            keep_fp32=tuple(keep_fp32 or ()),
            half_io=half_io,
            target_psnr=target_psnr,
            calibration=calibration,
            inputs={name: str(given) for name, given in inputs.items()},
            verification=verification,
            progress=steps.start,
            planned=steps.planned,
            notice=(lambda _line: None) if quiet else note,
        )
    seconds = time.monotonic() - start
    if as_json:
        record = {"file": str(target), "bytes": _size(target), "seconds": round(seconds, 1)}
        print(json.dumps({**record, "manifest": json.loads(manifest.to_json())}))
    elif not quiet:
        print(f"{printable(f'{checkpoint} -> {target}')}  {_size(target) / 1e6:.1f} MB, {seconds:.0f} s")
        for line in summary(manifest):
            print(f"  {printable(line)}")


def summary(manifest: Manifest) -> list[str]:
    """Return what a user wants to know about a new file, in lines."""
    scale = f", x{manifest.scale}" if manifest.scale > 1 else ""
    task = f" for {manifest.task}" if manifest.task else ""
    lines = [f"{manifest.architecture}{task}, {manifest.in_channels} -> {manifest.out_channels} channels{scale}"]
    if beside := input_names(manifest):
        lines.append(f"beside the image it takes {' and '.join(beside)} (restore --input {beside[0]}=FILE)")
    if manifest.shape is None:
        sides = f" in multiples of {manifest.size_multiple}" if manifest.size_multiple > 1 else ""
        least = f" from {manifest.smallest}" if manifest.smallest > 1 else ""
        lines.append(f"any batch, height and width{sides}{least} (restore pads by itself)")
    else:
        lines.append(f"only batch x height x width = {'x'.join(map(str, manifest.shape))}")
    neighbours = manifest.neighbours
    if neighbours is not None:
        choice = f"k chosen at run time, 1 to {neighbours.maximum}, {neighbours.default} by default"
        lines.append(choice if neighbours.runtime else f"k fixed at {neighbours.default}")
    if manifest.half is not None:
        lines += half_precision_lines(manifest.precision, manifest.half)
    if manifest.verification is None:
        lines.append("NOT verified against PyTorch")
    for name, record in (manifest.verification or {}).items():
        checks: list[dict[str, Any]] = record["checks"]
        worst = min(check["psnr"] for check in checks)
        if record["against"] != "PyTorch":
            as_run = min(check["psnr_as_run"] for check in checks if check["content"] != "flat")
            lines.append(
                f"verified against {record['against']} in ONNX Runtime, in {counted(len(checks), 'run')}: its import "
                f"at least {worst:.0f} dB with the same selections, the new file {as_run:.0f} dB as run"
            )
            continue
        # On a flat image everything ties.
        links = max(check["links_different"] for check in checks if check["content"] != "flat")
        times = times_rounding(record)
        explained = "" if times is None else f", at most {times:.2g} times what rounding explains"
        lines.append(
            f"verified against PyTorch with {name}: at least {worst:.0f} dB in {counted(len(checks), 'run')}{explained}"
        )
        if links:
            lines.append(f"{links:.4%} of links differ, all near ties")
        if times is not None and worst < record["tolerance_db"]:
            lines.append(
                f"{worst:.0f} dB is little for {manifest.precision} (usual are {record['tolerance_db']:.0f}), but "
                "rounding explains it in this network"
            )
    if manifest.statistics is not None:
        lines += statistics_lines(manifest.statistics)
    elif manifest.tiling is not None:
        t = manifest.tiling
        lines.append(f"tiles of {t.tile} with overlap {t.overlap} are {t.psnr:.0f} dB from the whole image")
    return lines


def _k(text: str) -> int | None:
    if text == "runtime":
        return None
    try:
        number = int(text)
    except ValueError:
        raise InputError(f"--k is {text!r}; give a number, or runtime") from None
    if number < 1:
        raise InputError(f"--k is {number}; it must be at least 1, or runtime")
    return number


def _shape(text: str) -> tuple[int, int, int] | None:
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None:
        raise InputError(f"--shape is {text!r}; give batch x height x width, for instance 1x256x256, or dynamic")
    batch, height, width = (int(number) for number in match.groups())
    return batch, height, width


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in read_with(path))
