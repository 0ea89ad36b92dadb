"""Find what TensorRT would reject or misinterpret in an ONNX file before it is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import InputError
from .model import Model, onnx

ERROR, WARNING = "error", "warning"

#: Opsets that the parser supports; a newer one may still work.
MIN_OPSET, MAX_OPSET = 9, 24

#: Largest k of TopK.
MAX_TOP_K = 3840

#: Operators of ONNX's standard domain for which `OnnxParser.supports_operator` of TensorRT-RTX 1.7.1 returns False.
#: TensorRT's parser has the same source.
_NO_IMPORTER = """
    AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress
    ConcatFromSequence ConvInteger CumProd DFT DeformConv Det DynamicQuantizeLinear FlexAttention ImageDecoder
    MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional
    OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct
    SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence
    StringConcat StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique
"""
UNSUPPORTED = frozenset(_NO_IMPORTER.split())

_STANDARD = ("", "ai.onnx")
_ELEMENT = onnx.TensorProto
_NO_TYPES = frozenset(
    {_ELEMENT.STRING, _ELEMENT.COMPLEX64, _ELEMENT.COMPLEX128, _ELEMENT.INT16, _ELEMENT.UINT16}
    | {_ELEMENT.UINT32, _ELEMENT.UINT64}
)
_HALF = {"fp16": _ELEMENT.FLOAT16, "bf16": _ELEMENT.BFLOAT16}


@dataclass(frozen=True)
class Finding:
    """A problem in a file.

    Attributes
    ----------
    severity
        ``"error"``: the builder would fail or compute different values. ``"warning"``: it may.
    module
        The module that contains it; empty outside of modules.
    node
        Name of the node.
    message
        What is wrong, and what to do.
    """

    severity: str
    module: str
    node: str
    message: str

    def __str__(self) -> str:
        where = self.module or self.node
        return f"{where}: {self.message}" if where else self.message


def lint(model: Model, plugins: Iterable[str] = ()) -> list[Finding]:
    """Check every node that the builder will see.

    Parameters
    ----------
    model
        The file.
    plugins
        Operators that a plugin library implements, so that their functions in the file are not used.
    """
    return list(_findings(model, frozenset(plugins)))


def refuse(model: Model, findings: Iterable[Finding]) -> None:
    """Raise `InputError` with the first errors among the findings, if there are any."""
    errors = [str(finding) for finding in findings if finding.severity == ERROR]
    if errors:
        more = f", and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise InputError(f"{model.path} cannot become an engine: {'; '.join(errors[:3])}{more}")


def _findings(model: Model, plugins: frozenset[str]) -> Iterator[Finding]:
    proto = model.proto
    yield from _opset(proto)
    yield from _precision(model)
    yield from _values(proto.graph)
    functions = {(function.domain, function.name): function for function in proto.functions}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    yield from _nodes(proto.graph.node, constants, functions, plugins, set(), "")
    neighbours = model.manifest.neighbours
    if "KeyGraph" not in plugins and neighbours is not None and neighbours.maximum > MAX_TOP_K:
        yield Finding(
            ERROR,
            "",
            "",
            f"k goes up to {neighbours.maximum}, but without the plugin TensorRT selects at most {MAX_TOP_K}; "
            "export with a smaller window, or build with --plugin",
        )


def _opset(proto: onnx.ModelProto) -> Iterator[Finding]:
    version = next((opset.version for opset in proto.opset_import if opset.domain in _STANDARD), 0)
    if version < MIN_OPSET:
        yield Finding(ERROR, "", "", f"opset {version} is older than TensorRT reads ({MIN_OPSET}); export it again")
    elif version > MAX_OPSET:
        yield Finding(WARNING, "", "", f"opset {version} is newer than what is known to work ({MAX_OPSET})")


def _precision(model: Model) -> Iterator[Finding]:
    """Check that a half-precision file has half-precision weights: an engine's types are those of the file."""
    precision, types = model.manifest.precision, {tensor.data_type for tensor in model.proto.graph.initializer}
    if precision in _HALF and _HALF[precision] not in types:
        yield Finding(
            ERROR,
            "",
            "",
            f"the manifest says {precision}, but no weight is of that type: the engine would compute in float32; "
            f"export it again with --precision {precision}",
        )


def _values(graph: onnx.GraphProto) -> Iterator[Finding]:
    for value in (*graph.input, *graph.output):
        yield from _type(value.type.tensor_type.elem_type, "", value.name, f"the tensor {value.name}")
    for tensor in graph.initializer:
        yield from _type(tensor.data_type, tensor.name.rpartition(".")[0], tensor.name, f"the weight {tensor.name}")


def _type(element: int, module: str, node: str, what: str) -> Iterator[Finding]:
    if element in _NO_TYPES:
        yield Finding(ERROR, module, node, f"{what} is {_ELEMENT.DataType.Name(element).lower()}, which TensorRT lacks")
    elif element == _ELEMENT.DOUBLE:
        yield Finding(WARNING, module, node, f"{what} is double: TensorRT computes it in float32")


def _nodes(
    nodes: Iterable[onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
    plugins: frozenset[str],
    seen: set[tuple[str, str]],
    caller: str,
) -> Iterator[Finding]:
    """Check nodes, their subgraphs, and the functions that they call, each function once."""
    constants = dict(constants)
    for node in nodes:
        name = caller or node.name or node.op_type
        module = name.rpartition("/")[0]
        key = (node.domain, node.op_type)
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        if node.domain in _STANDARD:
            yield from (Finding(severity, module, name, text) for severity, text in _standard(node, constants))
        elif node.op_type not in plugins:
            yield from (Finding(ERROR, module, name, text) for text in _custom(node, functions))
            if key in functions and key not in seen:
                seen.add(key)
                yield from _nodes(functions[key].node, {}, functions, plugins, seen, name)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                inside = {**constants, **{tensor.name: tensor for tensor in attribute.g.initializer}}
                yield from _nodes(attribute.g.node, inside, functions, plugins, seen, caller)


def _standard(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Iterator[tuple[str, str]]:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in UNSUPPORTED:
        yield ERROR, f"TensorRT has no {node.op_type}; write it with other operators"
    elif node.op_type == "TopK":
        if "sorted" in attributes and attributes["sorted"].i != 1:
            yield ERROR, "TensorRT's TopK always sorts; set sorted to 1"
        if node.input[1] in constants:
            count = int(onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])
            if count > MAX_TOP_K:
                yield ERROR, f"TopK of {count}: TensorRT selects at most {MAX_TOP_K}"
    elif node.op_type in ("ScatterElements", "ScatterND"):
        if "reduction" in attributes and attributes["reduction"].s not in (b"", b"none"):
            yield ERROR, f"TensorRT's {node.op_type} has no reduction ({attributes['reduction'].s.decode()})"
    elif node.op_type == "Cast":
        for finding in _type(attributes["to"].i, "", "", "the type of the Cast"):
            yield finding.severity, finding.message


def _custom(node: onnx.NodeProto, functions: Mapping[tuple[str, str], onnx.FunctionProto]) -> Iterator[str]:
    full = f"{node.domain}::{node.op_type}"
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain in _STANDARD}
    if node.op_type in standard - UNSUPPORTED:
        # TensorRT's parser ignores the domain of an operator.
        yield f"TensorRT would confuse {full} with ONNX's {node.op_type}; rename it"
    elif (node.domain, node.op_type) not in functions:
        yield f"TensorRT has no {full}, and the file has no function for it; build with the plugin library that has it"
