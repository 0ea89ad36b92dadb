"""Read an ONNX file of a network that maps images to images, and check that it can be imported."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, inliner

from ...errors import InputError, counted, printable
from ...manifest import METADATA_KEY
from ...models.onnx_graph.operators import OPERATORS
from ...runtime.backends.onnx_file import load_onnx
from ...runtime.companion_files import read_with

#: Opsets whose operators are imported.
OPSETS = (11, 22)

#: Operators whose results are quantised numbers, or that take them.
_QUANTISED = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
}


@dataclass(frozen=True)
class ForeignOnnx:
    """An ONNX file that keygraph did not write.

    Attributes
    ----------
    path
        The file.
    model
        Its content, without functions: their nodes are in the graph.
    opset
        Version of the standard operators.
    image, restored
        Names of its input and output.
    shape
        (B, C, H, W) of the input; None for dynamic sizes.
    """

    path: Path
    model: ModelProto
    opset: int
    image: str
    restored: str
    shape: tuple[int | None, int | None, int | None, int | None]

    @property
    def sources(self) -> tuple[Path, ...]:
        """The file, and those with its weights."""
        return tuple(read_with(self.path))

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each of `sources`, by name."""
        return {file.name: _sha256(file) for file in self.sources}


def is_onnx(path: Path) -> bool:
    """Tell by its name whether a file is an ONNX file."""
    return path.suffix.lower() == ".onnx"


def read_foreign(path: Path) -> ForeignOnnx:
    """Read an ONNX file that keygraph did not write.

    Parameters
    ----------
    path
        The file; its weights may be in files beside it.

    Returns
    -------
    ForeignOnnx

    Raises
    ------
    InputError
        It is no ONNX file, keygraph exported it, it has other inputs or outputs than one image batch each, it is
        quantised, or an operator is not imported; the message names the node.
    """
    model = load_onnx(path)
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise InputError(
            f"{path} is a file that keygraph exported: it runs as it is (keygraph inspect {path.name}); to export with "
            "other options, give its checkpoint or its source"
        )
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if not OPSETS[0] <= opset:
        raise InputError(
            f"{path} is of opset {opset}; opsets from {OPSETS[0]} to {OPSETS[1]} are imported: export it again with "
            "opset_version=17, or convert it with onnx.version_converter"
        )
    if opset > OPSETS[1]:
        raise InputError(
            f"{path} is of opset {opset}; opsets from {OPSETS[0]} to {OPSETS[1]} are imported: export it again with "
            f"opset_version={OPSETS[1]}"
        )
    if model.functions:
        model = inliner.inline_local_functions(model)
    _check_operators(model, path)
    stored = {weight.name for weight in model.graph.initializer}
    image = _only([value for value in model.graph.input if value.name not in stored], path, "inputs")
    restored = _only(list(model.graph.output), path, "outputs")
    return ForeignOnnx(path, model, opset, image.name, restored.name, _image_shape(image, path))


def _only(values: list[ValueInfoProto], path: Path, what: str) -> ValueInfoProto:
    if len(values) != 1:
        names = printable(", ".join(value.name for value in values[:5])) or "none"
        raise InputError(
            f"{path} has {len(values)} {what} ({names}); a network with one image batch as its input and one as its "
            "output can be exported: set the others inside of it, and export it again"
        )
    return values[0]


def _image_shape(value: ValueInfoProto, path: Path) -> tuple[int | None, int | None, int | None, int | None]:
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "no tensor"
        raise InputError(
            f"{path}: its input {value.name} is {name}; it must be float: give the file in FP32, and choose the "
            "precision of the new one with --precision"
        )
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    if len(sizes) != 4:
        raise InputError(
            f"{path}: its input {value.name} has {counted(len(sizes), 'dimension')}; an image batch has four: "
            "[batch, channels, height, width]"
        )
    batch, channels, height, width = sizes
    if width in (1, 3, 4) and channels not in (1, 3, 4):
        raise InputError(
            f"{path}: its input {value.name} has its channels last, [batch, height, width, {width}]; export it with "
            "[batch, channels, height, width]"
        )
    return batch, channels, height, width


def _check_operators(model: ModelProto, path: Path) -> None:
    """Check that all operators are imported."""
    unknown = [node for node in model.graph.node if _unsupported(node)]
    if not unknown:
        return
    node = unknown[0]
    others = sorted({other.op_type for other in unknown} - {node.op_type})
    more = f", and neither are {', '.join(others[:5])}" if others else ""
    named = f"operator {node.op_type} of node {printable(node.name or node.output[0])}"
    if any(node.op_type in _QUANTISED for node in unknown):
        raise InputError(f"{path} is quantised ({named}): give the file from before it was quantised")
    if node.domain not in ("", "ai.onnx"):
        raise InputError(
            f"{path}: {named} is of domain {printable(node.domain)}, which is not standard ONNX{more}; give the file "
            "from before such nodes were put in"
        )
    if _has_branches(node):
        raise InputError(
            f"{path}: {named} is control flow, which is not supported{more}; export the network with "
            "torch.onnx.export(..., dynamo=True), which has none, or simplify the file (onnxsim)"
        )
    raise InputError(
        f"{path}: {named} is not supported{more}; export the network from its PyTorch code: my_model.py:build"
    )


def _unsupported(node: NodeProto) -> bool:
    return node.domain not in ("", "ai.onnx") or (node.op_type not in OPERATORS and node.op_type != "Constant")


def _has_branches(node: NodeProto) -> bool:
    return any(one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for one in node.attribute)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()
