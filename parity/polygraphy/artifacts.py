"""Manifest and input tensors of an artifact, read without opening it in an engine."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from ...manifest import IMAGE_INPUT, K_INPUT, Manifest
from ...runtime.backends import engine_metadata
from ...runtime.backends.onnx_file import read_onnx_file
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
        return read_onnx_file(spec.path).manifest
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
