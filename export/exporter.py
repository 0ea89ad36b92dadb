"""Checkpoint -> one portable, verified ONNX file."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import ModelProto

from ..errors import InputError, KeygraphError, MissingDependencyError
from ..files import unwritable
from ..manifest import METADATA_KEY, HalfPrecision, Manifest, Neighbours
from ..models import LoadedModel
from ..plugins import library
from .calibrate import calibrate, statistics_images
from .calibration_data import CalibrationImage, calibration_images
from .canonicalize import canonicalize
from .functions import DOMAIN, VERSION, operator_functions
from .mixed_precision import check_precision_options, to_mixed_precision
from .precision import OPSETS
from .trace import trace
from .verify import as_record, verify

#: Protobuf cannot hold 2 GB; above this the weights go into a file beside the model.
EXTERNAL_DATA_BYTES = 1_500_000_000

#: The newest that the oldest supported ONNX Runtime and TensorRT read.
IR_VERSION = 10

#: ``auto`` is fp16 with as few islands of FP32 as reach a PSNR.
PRECISIONS = ("fp32", "fp16", "bf16", "auto")

#: What ``auto`` reaches unless the user says otherwise, dB against FP32.
TARGET_DB = 50.0

Progress = Callable[[str], None]


def export(
    model: LoadedModel,
    path: str | os.PathLike[str],
    *,
    k: int | None = None,
    shape: tuple[int, int, int] | None = None,
    precision: str = "fp32",
    keep_fp32: Sequence[str] = (),
    half_io: bool = False,
    target_psnr: float | None = None,
    calibration: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str | os.PathLike[str]] | None = None,
    verification: bool = True,
    progress: Progress = lambda _step: None,
) -> Manifest:
    """Export a network and prove the file against PyTorch; the file appears only when it has passed.

    Parameters
    ----------
    model
        From `models.load_checkpoint`.
    path
        The ``.onnx`` file to write. Above 1.5 GB the weights go to ``<path>.data``.
    k
        Fix the neighbours at this number; None makes k an input of the file.
    shape
        (B, H, W) of the only image that the file takes; None makes them dynamic, in multiples of the size rule.
    precision
        ``"fp32"``; ``"fp16"`` or ``"bf16"`` for weights and activations in half, with the islands of FP32 that the
        architecture states; ``"auto"`` for fp16 with as many more as `target_psnr` takes.
    keep_fp32
        More to stay in FP32: patterns over the names of nodes and modules, for instance ``"body.3.*"``.
    half_io
        Make the image and the restored image half too.
    target_psnr
        For ``"auto"``: dB against FP32, 10 to 100; None is 50.
    calibration
        Folder of images on which a half-precision file is measured and verified besides; None: a generated one.
    inputs
        What the network takes beside an image, by name: for each a folder with files of the images' names, or a file
        for all of them.
    verification
        False leaves out the comparison and the measurement of tiles, and the manifest says so.
    progress
        Called with a line before each step.

    Returns
    -------
    Manifest
        As written into the file.

    Raises
    ------
    InputError
        k, shape, precision or a pattern cannot be, or the place cannot be written.
    KeygraphError
        The file does not compute what PyTorch computes. Nothing is left behind.
    """
    manifest = plan(
        model.manifest(),
        k=k,
        shape=shape,
        precision=precision,
        keep_fp32=keep_fp32,
        half_io=half_io,
        target_psnr=target_psnr,
    )
    if precision == "auto" and not verification:
        raise InputError("--precision auto has to measure; leave --no-verify out, or name a precision")
    measured = manifest.half is not None or manifest.global_statistics
    if calibration is not None and not (measured and verification):
        raise InputError(
            "--calibration is for files of half precision that are verified, and for models with statistics over the "
            "whole image; leave it out"
        )
    half = manifest.half is not None
    if inputs and calibration is None:
        raise InputError("--input is what goes with the images of --calibration; give both or none")
    beside = {name: Path(given) for name, given in (inputs or {}).items()}
    images = Path(calibration) if calibration else None
    pictures = calibration_images(manifest, images, beside) if half and verification else []
    whole_pictures = statistics_images(manifest, images, beside) if verification else []
    target = Path(path)
    progress("tracing")
    traced = trace(model.module, manifest)
    canonicalize(traced)
    if half:
        manifest = to_mixed_precision(traced, manifest, model.architecture.keep_fp32, pictures, save, progress)
    try:
        with tempfile.TemporaryDirectory(prefix=".keygraph-", dir=target.parent) as folder:
            # The final names inside the folder: external data is found by the name that is written in the file.
            draft = Path(folder) / target.name
            progress("writing")
            save(traced, manifest, draft)
            onnx.checker.check_model(draft, full_check=True)
            if verification:
                manifest = replace(manifest, verification=_verify(draft, model, manifest, pictures, progress))
                manifest = calibrate(draft, manifest, whole_pictures, progress)
                _set_manifest(draft, manifest)
            # The data first: a model is never there without its weights.
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == draft):
                os.replace(file, target.with_name(file.name))
    except OSError as error:
        raise unwritable(target, error) from error
    return manifest


def plan(
    manifest: Manifest,
    *,
    k: int | None,
    shape: tuple[int, int, int] | None,
    precision: str,
    keep_fp32: Sequence[str] = (),
    half_io: bool = False,
    target_psnr: float | None = None,
) -> Manifest:
    """The manifest of the file to be made: the model's, with the user's choices checked and entered.

    Raises
    ------
    InputError
        A choice is impossible.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision {precision!r}; choose one of: {', '.join(PRECISIONS)}")
    check_precision_options(precision, half_io, keep_fp32, target_psnr)
    half = None
    if precision != "fp32":
        target = (TARGET_DB if target_psnr is None else target_psnr) if precision == "auto" else None
        half = HalfPrecision(keep_fp32=tuple(keep_fp32), target_psnr=target, half_io=half_io)
    neighbours = manifest.neighbours
    if k is not None:
        if neighbours is None:
            raise InputError(f"{manifest.architecture} has no key graph; leave --k out")
        if not 1 <= k <= neighbours.maximum:
            raise InputError(f"k is {k}; it must be from 1 to {neighbours.maximum}, the nodes in a window, or runtime")
        neighbours = Neighbours(default=k, maximum=neighbours.maximum, trained=neighbours.trained, runtime=False)
    if shape is not None:
        batch, height, width = shape
        m = manifest.size_multiple
        if min(shape) < 1 or height % m or width % m:
            fitting = "x".join(str(max(1, -(-side // m)) * m) for side in (height, width))
            raise InputError(
                f"shape {batch}x{height}x{width} breaks the size rule: height and width must be multiples of {m}; "
                f"the next that fits is {max(batch, 1)}x{fitting}"
            )
    made_with = {name: importlib.metadata.version(name) for name in ("keygraph", "torch", "onnx", "onnxscript")}
    return replace(
        manifest,
        neighbours=neighbours,
        shape=shape,
        precision="fp16" if precision == "auto" else precision,
        half=half,
        made_with=made_with,
    )


def save(traced: ir.Model, manifest: Manifest, path: Path) -> None:
    """Write a network that was traced, tidied and perhaps converted, as the manifest says, with its operators."""
    proto = ir.to_proto(traced)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "keygraph", manifest.made_with["keygraph"]
    used = {node.op_type for node in proto.graph.node if node.domain == DOMAIN}
    opset = OPSETS[manifest.precision]
    proto.functions.extend(f for f in operator_functions(*_form(proto), opset) if f.name in used)
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", opset))
    if used:
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    _enter(proto, manifest)
    if proto.ByteSize() > EXTERNAL_DATA_BYTES:
        onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data")
    else:
        path.write_bytes(proto.SerializeToString(deterministic=True))


def _form(proto: ModelProto) -> tuple[bool, bool]:
    """Whether the file's KeyGraphAttention nodes have a bias, and whether their heads come last.

    Raises
    ------
    KeygraphError
        They differ: a file can hold one function of that name.
    """
    nodes = [node for node in proto.graph.node if node.op_type == "KeyGraphAttention"]
    forms = {(len(node.input) == 5, any(a.name == "heads" for a in node.attribute)) for node in nodes}
    if len(forms) > 1:
        raise KeygraphError("the network calls key_graph_attention in several forms: use one, with or without bias")
    return forms.pop() if forms else (False, False)


def _set_manifest(path: Path, manifest: Manifest) -> None:
    proto = onnx.load(path, load_external_data=False)
    _enter(proto, manifest)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _enter(proto: ModelProto, manifest: Manifest) -> None:
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())


def _verify(
    draft: Path,
    model: LoadedModel,
    manifest: Manifest,
    pictures: Sequence[CalibrationImage],
    progress: Progress,
) -> dict:
    """Verify the file as every user may run it: with our library where it is installed, and without it.

    Only once where it has none of our operators.
    And as a GPU computes half precision, which is the only way for bf16 on a CPU; with the library, for speed.
    """
    records = {}
    # Name -> library, and whether to round. A bf16 file is always rounded.
    bf16 = manifest.precision == "bf16"
    fastest = None
    ways: dict[str, tuple[Path | None, bool]]
    if not onnx.load(draft, load_external_data=False).functions:
        ways = {"standard operators": (None, bf16)}
    else:
        ways = {"functions": (None, bf16)}
        try:
            fastest = library("onnxruntime")
            ways = {"library": (fastest, bf16), **ways}
        except MissingDependencyError:
            progress("the operator library is not installed: only the file's own functions are verified")
    if manifest.precision == "fp16":
        ways["rounded"] = (fastest, True)
    for name, (operators, rounded) in ways.items():
        try:
            progress(f"verifying with {name}")
            checks = verify(draft, model.module, manifest, operators, progress, pictures=pictures, rounded=rounded)
        except KeygraphError as error:
            raise KeygraphError(f"verification with {name} failed: {error}; no file was written") from error
        records[name] = as_record(checks, "library" if operators else "functions", manifest, rounded)
    return records
