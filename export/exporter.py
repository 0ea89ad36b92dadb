"""Export a checkpoint to one portable ONNX file, verified against PyTorch."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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

#: Above this size the weights are stored in a file beside the model: protobuf is limited to 2 GB.
EXTERNAL_DATA_BYTES = 1_500_000_000

#: The newest ONNX IR version that the oldest supported ONNX Runtime and TensorRT read.
IR_VERSION = 10

#: ``auto`` is fp16 with the fewest blocks in FP32 that reach a target PSNR.
PRECISIONS = ("fp32", "fp16", "bf16", "auto")

#: Default target of ``auto``: PSNR against FP32, dB.
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
    """Export a network and verify the file against PyTorch; the file is written only when it passes.

    Parameters
    ----------
    model
        From `models.load_checkpoint`.
    path
        The ``.onnx`` file to write. Above 1.5 GB the weights go to ``<path>.data``.
    k
        Fix the number of neighbours; None makes k an input of the file.
    shape
        Fix the input's (B, H, W); None makes them dynamic, H and W in multiples of the size multiple.
    precision
        ``"fp32"``; ``"fp16"`` or ``"bf16"`` for weights and activations in half precision, except what the architecture
        keeps in FP32; ``"auto"`` for fp16 with as many more blocks in FP32 as `target_psnr` takes.
    keep_fp32
        FP32 patterns in addition to the architecture's, for instance ``"body.3.*"``; see `fp32_patterns`.
    half_io
        Make the input and output images half precision, too.
    target_psnr
        For ``"auto"``: PSNR against FP32 in dB, 10 to 100; None for `TARGET_DB`.
    calibration
        Folder of calibration images, on which a half-precision file, or the effect of tiles on global statistics, is
        measured; None for a generated image.
    inputs
        Extra inputs for the calibration images, by name: for each a folder with files of the images' names, or one file
        for all images.
    verification
        False skips verification and the calibration of tiles; the manifest records that.
    progress
        Called with a line before each step.

    Returns
    -------
    Manifest
        The manifest in the file.

    Raises
    ------
    InputError
        An option is invalid, or the file cannot be written.
    KeygraphError
        Verification failed. No file is left behind.
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
        raise InputError("--precision auto needs verification; leave --no-verify out, or choose fp16 or bf16")
    half = manifest.half is not None
    if calibration is not None and not (verification and (half or manifest.global_statistics)):
        raise InputError(
            "--calibration applies only to half precision and to models with statistics over the whole image, and not "
            "with --no-verify; leave it out"
        )
    if inputs and calibration is None:
        raise InputError("--input gives the extra inputs for the images of --calibration; give both or neither")
    beside = {name: Path(given) for name, given in (inputs or {}).items()}
    folder = Path(calibration) if calibration else None
    images = calibration_images(manifest, folder, beside) if half and verification else []
    tiled_images = statistics_images(manifest, folder, beside) if verification else []
    target = Path(path)
    progress("tracing")
    traced = trace(model.module, manifest)
    canonicalize(traced)
    if half:
        manifest = to_mixed_precision(traced, manifest, model.architecture.keep_fp32, images, save, progress)
    try:
        with tempfile.TemporaryDirectory(prefix=".keygraph-", dir=target.parent) as scratch:
            # Under its final name, because the file refers to its external data by name.
            draft = Path(scratch) / target.name
            progress("writing")
            save(traced, manifest, draft)
            onnx.checker.check_model(draft, full_check=True)
            if verification:
                manifest = replace(manifest, verification=_verify(draft, model, manifest, images, progress))
                manifest = calibrate(draft, manifest, tiled_images, progress)
                _set_manifest(draft, manifest)
            # External data first, so that the model never exists without its weights.
            for file in sorted(Path(scratch).iterdir(), key=lambda file: file == draft):
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
    """Return the manifest of the file to be exported: the model's, with the user's options checked and entered.

    Parameters
    ----------
    manifest
        The model's, from `LoadedModel.manifest`.
    k, shape, precision, keep_fp32, half_io, target_psnr
        As for `export`.

    Returns
    -------
    Manifest
        Without verification, tiling and ranges, which `export` measures.

    Raises
    ------
    InputError
        An option is invalid.
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
            raise InputError(f"{manifest.architecture} has no key graph, so no neighbours to choose; leave --k out")
        if not 1 <= k <= neighbours.maximum:
            raise InputError(f"k is {k}; it must be from 1 to {neighbours.maximum} (the nodes of a window), or runtime")
        neighbours = Neighbours(default=k, maximum=neighbours.maximum, trained=neighbours.trained, runtime=False)
    if shape is not None:
        batch, height, width = shape
        m = manifest.size_multiple
        if min(shape) < 1 or height % m or width % m:
            fitting = "x".join(str(max(1, -(-side // m)) * m) for side in (height, width))
            raise InputError(
                f"the shape is {batch}x{height}x{width}; height and width must be multiples of {m}; "
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
    """Write a traced network as an ONNX file with its operators' functions and its manifest.

    Parameters
    ----------
    traced
        The network after `canonicalize`, in the manifest's precision. It is not changed.
    manifest
        The manifest to store in the file.
    path
        The file; above `EXTERNAL_DATA_BYTES` the weights go to ``<path>.data``.

    Raises
    ------
    KeygraphError
        The network uses `key_graph_attention` in several forms.
    """
    proto = ir.to_proto(traced)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "keygraph", manifest.made_with["keygraph"]
    used = {node.op_type for node in proto.graph.node if node.domain == DOMAIN}
    opset = OPSETS[manifest.precision]
    proto.functions.extend(f for f in operator_functions(*_attention_form(proto), opset) if f.name in used)
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", opset))
    if used:
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    _store_manifest(proto, manifest)
    if proto.ByteSize() > EXTERNAL_DATA_BYTES:
        onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data")
    else:
        path.write_bytes(proto.SerializeToString(deterministic=True))


def _attention_form(proto: ModelProto) -> tuple[bool, bool]:
    """Tell whether the KeyGraphAttention nodes have a bias, and whether their heads are last.

    Raises
    ------
    KeygraphError
        The nodes differ in this; a file can hold only one function of that name.
    """
    nodes = [node for node in proto.graph.node if node.op_type == "KeyGraphAttention"]
    forms = {(len(node.input) == 5, any(a.name == "heads" for a in node.attribute)) for node in nodes}
    if len(forms) > 1:
        raise KeygraphError(
            "the network calls key_graph_attention in several forms; use one form everywhere, with or without bias"
        )
    return forms.pop() if forms else (False, False)


def _set_manifest(path: Path, manifest: Manifest) -> None:
    proto = onnx.load(path, load_external_data=False)
    _store_manifest(proto, manifest)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _store_manifest(proto: ModelProto, manifest: Manifest) -> None:
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())


def _verify(
    draft: Path,
    model: LoadedModel,
    manifest: Manifest,
    images: Sequence[CalibrationImage],
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Verify a file in every configuration in which users may run it; return a record for each.

    - ``"library"``: with keygraph's operator library, if it is installed and the file uses the operators.
    - ``"functions"``: with the file's own functions, or ``"standard operators"`` where it has none.
    - ``"rounded"``: fp16 emulated as a GPU computes it (`runtime.backends.emulated_half`). bf16 is always emulated,
      because ONNX Runtime does not compute it on a CPU.
    """
    emulated = manifest.precision == "bf16"
    installed: Path | None = None
    configurations: dict[str, tuple[Path | None, bool]]
    if onnx.load(draft, load_external_data=False).functions:
        configurations = {"functions": (installed, emulated)}
        try:
            installed = library("onnxruntime")
            configurations = {"library": (installed, emulated), **configurations}
        except MissingDependencyError:
            progress("the operator library is not installed: only the file's own functions are verified")
    else:
        configurations = {"standard operators": (installed, emulated)}
    if manifest.precision == "fp16":
        configurations["rounded"] = (installed, True)
    records = {}
    for name, (operators, rounded) in configurations.items():
        try:
            progress(f"verifying with {name}")
            checks = verify(draft, model.module, manifest, operators, progress, images=images, rounded=rounded)
        except KeygraphError as error:
            raise KeygraphError(f"verification with {name} failed: {error}; no file was written") from error
        records[name] = as_record(checks, "library" if operators else "functions", manifest, rounded)
    return records
