"""Read an ONNX file without running it: its structure, its manifest, and whether it is still as it was exported.

`read_onnx_file` needs no package and copies no weights. `read_onnx` and `load_onnx` return the protobuf message, and
need the package onnx to be called, not to be imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import InputError, MissingDependencyError
from ....files import read_start
from ....installation import install_line
from ....integrity import CHANGED, FileDigest, Integrity, compare_digests
from ....manifest import IMAGE_INPUT, METADATA_KEY, Manifest, from_metadata, manifest_sha256
from .digest import read_content
from .fixed_sizes import partly_fixed, with_fixed_sizes
from .tensors import ExternalData, map_file, read_tensor
from .wire import Buffer, WireError, fields, message_of, number_of, text

if TYPE_CHECKING:
    from onnx import ModelProto

#: Size of an axis: a number, the name of a dynamic one, or None.
Axis = int | str | None

#: Fields of ModelProto, GraphProto and ValueInfoProto.
_IR_VERSION, _GRAPH, _METADATA, _FUNCTIONS = 1, 7, 14, 25
_INITIALIZER, _INPUT, _TENSOR_NAME = 5, 11, 8
_TYPE, _TENSOR_TYPE, _SHAPE, _DIMENSION, _SIZE, _SIZE_NAME = 2, 1, 2, 1, 1, 2


@dataclass(frozen=True)
class OnnxFile:
    """The structure of an ONNX file.

    Attributes
    ----------
    path
        The file.
    metadata
        Its `metadata_props`.
    inputs
        Sizes of the graph's inputs by name; weights that are listed as inputs are left out.
    operators
        Number of nodes by (domain, operator), in the graph and its subgraphs, not inside of functions.
    functions
        Whether the file has functions.
    repeated_names
        Names that several nodes of the graph have.
    data
        Files that store weights.
    digest
        SHA-256 of the content as it is, and of the manifest.
    """

    path: Path
    metadata: Mapping[str, str]
    inputs: Mapping[str, tuple[Axis, ...]]
    operators: Counter[tuple[str, str]]
    functions: bool
    repeated_names: tuple[str, ...]
    data: tuple[Path, ...]
    digest: FileDigest

    @property
    def exported(self) -> bool:
        """Whether keygraph exported the file, so that it has a manifest."""
        return METADATA_KEY in self.metadata

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest; sizes that a tool fixed after export are in it as if they had been fixed at export.

        Raises
        ------
        InputError
            There is no manifest, it cannot be read, or the model cannot run with the sizes that were fixed.
        """
        manifest = from_metadata(self.metadata, self.path)
        return with_fixed_sizes(manifest, self.inputs.get(IMAGE_INPUT, ()), self.path)

    @property
    def partly_fixed(self) -> str:
        """Which sizes a tool fixed after export, in words; empty unless others are still free."""
        return partly_fixed(from_metadata(self.metadata, self.path), self.inputs.get(IMAGE_INPUT, ()))

    @property
    def integrity(self) -> Integrity:
        """Whether the file is still the one that was exported."""
        return compare_digests(self.manifest.digest, self.digest)

    @property
    def digests(self) -> dict[str, str]:
        """The digest's parts by name."""
        return {name: value for name, value in asdict(self.digest).items() if value}

    def count(self, domain: str, operator: str | None = None) -> int:
        """Return the number of nodes of a domain, or of one operator in it."""
        return sum(
            number for (one, kind), number in self.operators.items() if one == domain and operator in (None, kind)
        )

    @property
    def lost_operators(self) -> str:
        """What to know where the manifest promises key graphs and no node makes one; empty otherwise."""
        makers = ("KeyGraph", "PackGraph", "TopKGraph")
        if self.manifest.neighbours is None or any(self.count("keygraph", op) for op in makers):
            return ""
        return (
            f"{self.path} has no KeyGraph node left (a tool has inlined its functions?): it runs standard operators, "
            "which are several times slower; use the file as exported"
        )

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines for the user of a model: that the file was changed, or has lost its operators."""
        changed = [f"{self.path}: {self.integrity.words}"] if self.integrity.state == CHANGED else []
        return (*changed, *([self.lost_operators] if self.lost_operators else []))

    def require_valid(self) -> None:
        """Raise `InputError` for faults that make every engine refuse the file with a message of its own."""
        if self.repeated_names:
            names = ", ".join(self.repeated_names[:3])
            raise InputError(
                f"{self.path} is not a valid ONNX file: several nodes have the same name ({names}), as a tool that "
                "changed it has left them; use the file as exported, or give its nodes different names"
            )


def read_onnx_file(path: Path) -> OnnxFile:
    """Read the structure of an ONNX file, and compute the digest of its content.

    Parameters
    ----------
    path
        The file, exported by keygraph or not.

    Raises
    ------
    InputError
        The file is missing, or not a complete ONNX file; or a file that stores its weights is missing or cut off.
    """
    read_start(path, "an exported .onnx file")
    external = ExternalData(path)
    data = map_file(path)
    try:
        parts = list(fields(data))
        graph = next((message_of(value) for number, value in parts if number == _GRAPH), b"")
        content = read_content(data, external)
        if not content.operators or not any(number == _IR_VERSION for number, _ in parts):
            # Protobuf accepts a truncated file whose last field is complete.
            raise WireError("no node")
        inputs = _inputs(graph)
    except (ValueError, RecursionError) as error:  # WireError is a ValueError.
        raise _not_onnx(path) from error
    metadata = dict(_metadata(parts))
    own = manifest_sha256(metadata[METADATA_KEY]) if METADATA_KEY in metadata else ""
    return OnnxFile(
        path=path,
        metadata=metadata,
        inputs=inputs,
        operators=content.operators,
        functions=any(number == _FUNCTIONS for number, _ in parts),
        repeated_names=tuple(name for name, count in content.names.items() if count > 1),
        data=tuple(external.files[name] for name in sorted(external.files)),
        digest=replace(content.digest, manifest=own),
    )


def read_onnx(path: Path) -> ModelProto:
    """Read an ONNX file without the weights that it stores in separate files.

    Parameters
    ----------
    path
        The file, exported by keygraph or not.

    Raises
    ------
    MissingDependencyError
        The package onnx is not installed.
    InputError
        The file is missing, or is not a complete ONNX file.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"reading ONNX files needs {error.name}; install it with: {install_line('export')}"
        ) from error
    read_start(path, "an exported .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise _not_onnx(path) from error
    # Protobuf accepts a truncated file whose last field is complete.
    if not model.ir_version or not model.graph.node:
        raise _not_onnx(path)
    return model


def load_onnx(path: Path) -> ModelProto:
    """Read an ONNX file with all its weights, also those in separate files, which may be links.

    Raises
    ------
    MissingDependencyError
        The package onnx is not installed.
    InputError
        The file, or a file that stores its weights, is missing or incomplete.
    """
    model, external = read_onnx(path), ExternalData(path)
    for weight in model.graph.initializer:
        if weight.external_data:
            weight.raw_data = bytes(external.read(read_tensor(weight.SerializeToString())))
            weight.ClearField("external_data")
            weight.ClearField("data_location")
    return model


def _not_onnx(path: Path) -> InputError:
    return InputError(
        f"{path} is not an ONNX file, or is truncated ({path.stat().st_size:,} bytes); export or download it again"
    )


def _metadata(parts: list[tuple[int, int | Buffer]]) -> Iterator[tuple[str, str]]:
    for number, value in parts:
        if number == _METADATA:
            entry = {field: text(part) for field, part in fields(message_of(value))}
            yield entry.get(1, ""), entry.get(2, "")


def _inputs(graph: Buffer) -> dict[str, tuple[Axis, ...]]:
    """Return the sizes of the inputs; files of IR version 3 and older list the weights among them."""
    inputs, weights = {}, set()
    for number, value in fields(graph):
        if number == _INPUT:
            name, sizes = _value(message_of(value))
            inputs[name] = sizes
        elif number == _INITIALIZER:
            weights |= {text(part) for field, part in fields(message_of(value)) if field == _TENSOR_NAME}
    return {name: sizes for name, sizes in inputs.items() if name not in weights}


def _value(message: Buffer) -> tuple[str, tuple[Axis, ...]]:
    """Read a ValueInfoProto."""
    name = next((text(part) for field, part in fields(message) if field == 1), "")
    shape = message
    for wanted in (_TYPE, _TENSOR_TYPE, _SHAPE):
        shape = next((message_of(part) for field, part in fields(shape) if field == wanted), b"")
    return name, tuple(_axis(message_of(part)) for field, part in fields(shape) if field == _DIMENSION)


def _axis(message: Buffer) -> Axis:
    size: Axis = None
    for field, value in fields(message):
        if field == _SIZE:
            size = number_of(value)
        elif field == _SIZE_NAME:
            size = text(value)
    return size
