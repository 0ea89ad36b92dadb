"""Checkpoint -> one portable, verified ONNX file."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import ModelProto

from ..errors import InputError, KeygraphError, MissingDependencyError
from ..files import unwritable
from ..manifest import METADATA_KEY, Manifest, Neighbours
from ..models import LoadedModel
from ..plugins import library
from .calibrate import calibrate_tiling
from .functions import DOMAIN, OPSET, VERSION, operator_functions
from .tidy import tidy
from .trace import trace
from .verify import as_record, verify

#: Protobuf cannot hold 2 GB; above this the weights go into a file beside the model.
EXTERNAL_DATA_BYTES = 1_500_000_000

#: The newest that the oldest supported ONNX Runtime and TensorRT read.
IR_VERSION = 10

PRECISIONS = ("fp32",)

Progress = Callable[[str], None]


def export(
    model: LoadedModel,
    path: str | os.PathLike[str],
    *,
    k: int | None = None,
    shape: tuple[int, int, int] | None = None,
    precision: str = "fp32",
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
        ``"fp32"``.
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
        k, shape or precision cannot be, or the place cannot be written.
    KeygraphError
        The file does not compute what PyTorch computes. Nothing is left behind.
    """
    manifest = plan(model.manifest(), k=k, shape=shape, precision=precision)
    target = Path(path)
    progress("tracing")
    traced = trace(model.module, manifest)
    tidy(traced)
    try:
        with tempfile.TemporaryDirectory(prefix=".keygraph-", dir=target.parent) as folder:
            # The final names inside the folder: external data is found by the name that is written in the file.
            draft = Path(folder) / target.name
            progress("writing")
            _save(traced, manifest, draft)
            onnx.checker.check_model(draft, full_check=True)
            if verification:
                manifest = replace(manifest, verification=_verify(draft, model, manifest, progress))
                progress("measuring how much tiles must overlap")
                manifest = replace(manifest, tiling=calibrate_tiling(draft, manifest))
                _set_manifest(draft, manifest)
            # The data first: a model is never there without its weights.
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == draft):
                os.replace(file, target.with_name(file.name))
    except OSError as error:
        raise unwritable(target, error) from error
    return manifest


def plan(manifest: Manifest, *, k: int | None, shape: tuple[int, int, int] | None, precision: str) -> Manifest:
    """The manifest of the file to be made: the model's, with the user's choices checked and entered.

    Raises
    ------
    InputError
        A choice is impossible.
    """
    if precision not in PRECISIONS:
        raise InputError(
            f"precision {precision} is not available yet: fp16 and bf16 come with engines; choose one of: "
            f"{', '.join(PRECISIONS)}"
        )
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
    return replace(manifest, neighbours=neighbours, shape=shape, precision=precision, made_with=made_with)


def _save(traced: ir.Model, manifest: Manifest, path: Path) -> None:
    proto = ir.to_proto(traced)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "keygraph", manifest.made_with["keygraph"]
    used = {node.op_type for node in proto.graph.node if node.domain == DOMAIN}
    proto.functions.extend(f for f in operator_functions(*_form(proto)) if f.name in used)
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", OPSET))
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


def _verify(draft: Path, model: LoadedModel, manifest: Manifest, progress: Progress) -> dict:
    """Verify the file as every user may run it: with our library where it is installed, and without it."""
    records = {}
    ways: dict[str, Path | None] = {"functions": None}
    try:
        ways = {"library": library("onnxruntime"), **ways}
    except MissingDependencyError:
        progress("the operator library is not installed: only the file's own functions are verified")
    for name, operators in ways.items():
        try:
            progress(f"verifying with {name}")
            checks = verify(draft, model.module, manifest, operators, progress)
        except KeygraphError as error:
            raise KeygraphError(f"verification with {name} failed: {error}; no file was written") from error
        records[name] = as_record(checks, name)
    return records
