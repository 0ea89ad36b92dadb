"""Manifest and input tensors of an artifact, read without opening it in an engine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...files import read_start
from ...manifest import IMAGE_INPUT, K_INPUT, METADATA_KEY, Manifest, from_json
from ...runtime.backends import engine_metadata
from ..sides.spec import ModelSpec, parse_spec

#: Name -> (type, shape); a str or None stands for a dynamic size.
Tensors = dict[str, tuple[Any, tuple[int | str | None, ...]]]


def manifest_of(model: str | os.PathLike[str] | ModelSpec) -> Manifest:
    """Read an artifact's manifest; for a checkpoint, with the precision in which it is to run.

    Raises
    ------
    InputError
        The file is missing, damaged or not an artifact of keygraph.
    """
    spec = model if isinstance(model, ModelSpec) else parse_spec(model)
    suffix = spec.path.suffix.lower()
    if suffix == ".plan":
        return engine_metadata.read(spec.path).manifest
    if suffix == ".onnx":
        return _exported(spec.path)
    from ...models import load_checkpoint

    return replace(load_checkpoint(spec.path).manifest(), precision=spec.precision or "fp32")


def tensors_of(manifest: Manifest) -> Tensors:
    """Return the inputs of the exported model in order; float32 even where the file takes half precision."""
    batch, height, width = manifest.shape or ("batch", None, None)

    def side(size: int | None, margin: int) -> int | None:
        return None if size is None else size + margin

    tensors: Tensors = {
        name: (np.float32, (batch, channels, side(height, margin[0]), side(width, margin[1])))
        for name, channels, margin in (
            (IMAGE_INPUT, manifest.in_channels, manifest.margin),
            *((extra.name, extra.channels, extra.margin) for extra in manifest.extra_inputs),
        )
    }
    if manifest.neighbours is not None and manifest.neighbours.runtime:
        tensors[K_INPUT] = (np.int64, (1,))
    return tensors


def _exported(path: Path) -> Manifest:
    import onnx
    from google.protobuf.message import DecodeError

    read_start(path, "an exported .onnx file")
    try:
        entries = onnx.load(path, load_external_data=False).metadata_props
    except (DecodeError, ValueError, OSError) as error:
        raise InputError(f"{path} is not an ONNX file, or is truncated; export or download it again") from error
    text = {entry.key: entry.value for entry in entries}.get(METADATA_KEY)
    if text is None:
        raise InputError(
            f"{path} is an ONNX file, but not one that keygraph exported; make one with: export-model CHECKPOINT"
        )
    return from_json(text, str(path))
