"""The ONNX file that an engine is built from: its graph, its manifest, and digests of its parts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingDependencyError
from ..installation import install_line
from ..integrity import FileDigest, Integrity
from ..manifest import METADATA_KEY, Manifest
from ..runtime.backends.engine_metadata import file_sha256
from ..runtime.backends.onnx_file import read_onnx, read_onnx_file

try:
    # Exported again, so that only this module says what to install.
    import onnx as onnx
    import onnx_ir  # noqa: F401 - fp32_matmul_rewrite needs it
except ImportError as error:
    raise MissingDependencyError(
        f"building engines needs {error.name}; install it with: {install_line('rtx')}, or for TensorRT with: "
        f"{install_line('tensorrt')}"
    ) from error


@dataclass(frozen=True)
class Model:
    """An exported ONNX file.

    Attributes
    ----------
    path
        The file.
    proto
        Its content, without weights that are stored in separate files.
    manifest
        Its manifest.
    graph_sha256, weights_sha256, manifest_sha256
        SHA-256 of the graph, of the weights and of the manifest; together they cover everything in the file.
    weights_bytes
        Total size of the weights in bytes.
    data
        Separate files that store weights.
    digest
        Digest of its content, however it is stored.
    integrity
        Whether it is still the file that was exported.
    """

    path: Path
    proto: onnx.ModelProto
    manifest: Manifest
    graph_sha256: str
    weights_sha256: str
    manifest_sha256: str
    weights_bytes: int
    data: tuple[Path, ...]
    digest: FileDigest
    integrity: Integrity

    @property
    def has_operators(self) -> bool:
        """Whether the graph has nodes of keygraph's operators, which a plugin library can run."""
        return any(node.domain == "keygraph" for node in self.proto.graph.node)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Return size and modification time of each file, to detect a change while an engine is built."""
        stats = [os.stat(path) for path in (self.path, *self.data)]
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


def load_model(path: Path) -> Model:
    """Read an exported file.

    Raises
    ------
    InputError
        The file is missing, damaged or not exported by keygraph, or a file that stores its weights is missing.
    """
    proto = read_onnx(path)
    file = read_onnx_file(path)
    manifest, data = file.manifest, file.data
    file.require_valid()
    return Model(
        path=path,
        proto=proto,
        manifest=manifest,
        graph_sha256=_graph_digest(proto),
        weights_sha256=_weights_digest(proto, data),
        manifest_sha256=hashlib.sha256(file.metadata[METADATA_KEY].encode()).hexdigest(),
        weights_bytes=sum(len(t.raw_data) or 4 * len(t.float_data) for t in proto.graph.initializer)
        + sum(file.stat().st_size for file in data),
        data=data,
        digest=file.digest,
        integrity=file.integrity,
    )


def _graph_digest(proto: onnx.ModelProto) -> str:
    """Hash everything except the initializers' values and the metadata."""
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
        # The whole tensor, because its values may be in raw_data, in float_data or in a separate file.
        digest.update(tensor.SerializeToString(deterministic=True) + b"\0")
    for file in data:
        digest.update(file_sha256(file).encode())
    return digest.hexdigest()
