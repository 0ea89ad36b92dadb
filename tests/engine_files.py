"""Files that stand for engines, with their metadata."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from keygraph.manifest import Manifest
from keygraph.runtime.backends.engine_metadata import EngineMetadata, Tensor, metadata_path

ENGINE = b"an engine"

MANIFEST = Manifest(
    architecture="test",
    configuration={},
    task="",
    scale=1,
    in_channels=3,
    out_channels=3,
    value_range=(0.0, 1.0),
    size_multiple=8,
    global_statistics=False,
    shape=None,
    neighbours=None,
    precision="fp32",
    weights_sha256="0" * 64,
)


def metadata_for(engine: bytes = ENGINE, **changes: Any) -> EngineMetadata:
    """Return metadata of an engine with this content; keywords replace fields."""
    values: dict[str, Any] = {
        "engine_sha256": hashlib.sha256(engine).hexdigest(),
        "engine_bytes": len(engine),
        "key": "0" * 64,
        "ingredients": {"graph": "1" * 64, "target": "sm_86"},
        "model": "kgt.onnx",
        "backend": "tensorrt-rtx",
        "version": "1.7.1.116",
        "cuda": "13",
        "target": "sm_86",
        "capability": (8, 6),
        "device": "",
        "plugin": None,
        "compatible": "none",
        "version_compatible": False,
        "host_code": False,
        "stripped": False,
        "tensors": (Tensor("image", "float32", (-1, 3, -1, -1), False, False),),
        "options": {"tile": ["256"]},
        "attempts": (),
        "memory": {"weights": 2**20},
        "seconds": 1.0,
        "read_back": "not read back: no GPU",
        "made_with": {},
        "manifest": MANIFEST,
    }
    return EngineMetadata(**{**values, **changes})


def write_engine(path: Path, engine: bytes = ENGINE, **changes: Any) -> Path:
    """Write an engine and its metadata; keywords replace fields."""
    path.write_bytes(engine)
    metadata_path(path).write_text(metadata_for(engine, **changes).to_json())
    return path
