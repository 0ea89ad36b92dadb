"""The ONNX file that an engine is built from: its graph, its manifest, and digests of its parts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, MissingDependencyError
from ..files import read_start
from ..manifest import METADATA_KEY, Manifest, from_json
from ..runtime.backends.engine_metadata import file_sha256

try:
    import onnx
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise MissingDependencyError(
        f"building engines needs {error.name}; install it with: pip install 'keygraph[rtx]', or 'keygraph[tensorrt]'"
    ) from error


@dataclass(frozen=True)
class Model:
    """A file that keygraph exported.

    Attributes
    ----------
    path
        Where it is.
    proto
        Its content; weights that lie in a file of their own are left there.
    manifest
        What it says of itself.
    graph_sha256, weights_sha256, manifest_sha256
        Of the computation, of the numbers in it, and of the manifest: together all that is in the file.
    weights_bytes
        Bytes of all weights.
    data
        Files that hold weights.
    """

    path: Path
    proto: onnx.ModelProto
    manifest: Manifest
    graph_sha256: str
    weights_sha256: str
    manifest_sha256: str
    weights_bytes: int
    data: tuple[Path, ...]

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Sizes and times of the files, to notice a change while an engine is built."""
        stats = [os.stat(path) for path in (self.path, *self.data)]
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


def load_model(path: Path) -> Model:
    """Read an exported file; raises `InputError` when it is missing, damaged or not ours."""
    read_start(path, "an exported .onnx file")
    try:
        proto = onnx.load(path, load_external_data=False)
        damaged = not proto.ir_version or not proto.graph.node
    except (DecodeError, ValueError, OSError):
        damaged = True
    if damaged:
        raise InputError(
            f"{path} is no ONNX file, or is cut off ({path.stat().st_size:,} bytes); export or download it again"
        )
    text = {entry.key: entry.value for entry in proto.metadata_props}.get(METADATA_KEY)
    if text is None:
        raise InputError(
            f"{path} is an ONNX file, but not one that keygraph exported; make one with: export-model CHECKPOINT"
        )
    data = _data_files(path, proto)
    return Model(
        path=path,
        proto=proto,
        manifest=from_json(text, str(path)),
        graph_sha256=_graph_digest(proto),
        weights_sha256=_weights_digest(proto, data),
        manifest_sha256=hashlib.sha256(text.encode()).hexdigest(),
        weights_bytes=sum(len(t.raw_data) or 4 * len(t.float_data) for t in proto.graph.initializer)
        + sum(file.stat().st_size for file in data),
        data=data,
    )


def _data_files(path: Path, proto: onnx.ModelProto) -> tuple[Path, ...]:
    names = {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"}
    files = tuple(path.parent / name for name in sorted(names))
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is missing: it holds weights of {path.name}; keep the two together")
    return files


def _graph_digest(proto: onnx.ModelProto) -> str:
    """Everything but the initializers' numbers and the metadata."""
    digest = hashlib.sha256()
    graph = proto.graph
    for part in (*proto.opset_import, *proto.functions, *graph.input, *graph.output, *graph.value_info, *graph.node):
        digest.update(part.SerializeToString(deterministic=True) + b"\0")
    for tensor in graph.initializer:
        digest.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode() + b"\0")
    return digest.hexdigest()


def _weights_digest(proto: onnx.ModelProto, data: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for tensor in proto.graph.initializer:
        # Where numbers are kept (raw_data, float_data, a place in a file) is theirs to say, so the whole tensor counts.
        digest.update(tensor.SerializeToString(deterministic=True) + b"\0")
    for file in data:
        digest.update(file_sha256(file).encode())
    return digest.hexdigest()
