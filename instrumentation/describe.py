"""What an ONNX file is: its inputs, outputs, operators, and the manifest of one that keygraph exported."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..manifest_summary import Description, summarize_export
from ..runtime.backends.onnx_file import read_onnx, read_onnx_file

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ValueInfoProto

    from ..runtime.backends.onnx_file import OnnxFile


def describe_onnx(path: Path) -> Description:
    """Describe an ONNX file, exported by keygraph or not.

    Raises
    ------
    InputError
        The file is not ONNX or is damaged, weights in separate files are missing, or its manifest cannot be read.
    MissingDependencyError
        The package onnx is not installed.
    """
    model = read_onnx(path)
    graph = model.graph
    file = read_onnx_file(path)
    external = [tensor for tensor in graph.initializer if tensor.external_data]
    return {
        "kind": "onnx",
        "file": str(path),
        "bytes": path.stat().st_size,
        "exported by keygraph": file.exported,
        **(summarize_export(file.manifest, file.integrity) if file.exported else {}),
        **({"shape": file.partly_fixed} if file.exported and file.partly_fixed else {}),
        **_faults(file),
        "inputs": [_value(value) for value in _real_inputs(graph)],
        "outputs": [_value(value) for value in graph.output],
        "producer": f"{model.producer_name} {model.producer_version}".strip() or "not said",
        "opset": {_domain(opset.domain): opset.version for opset in model.opset_import},
        "ir version": model.ir_version,
        "parameters": sum(math.prod(tensor.dims) for tensor in graph.initializer),
        "external data": sorted({e.value for t in external for e in t.external_data if e.key == "location"}),
        "functions": [f"{_domain(function.domain)}.{function.name}" for function in model.functions],
        **_integers(model.functions),
        "operators": dict(Counter(_operator(node.domain, node.op_type) for node in graph.node).most_common()),
    }


def _faults(file: OnnxFile) -> Description:
    """Return what keeps the file from running, or from running fast."""
    lines = [file.lost_operators] if file.exported and file.lost_operators else []
    try:
        file.require_valid()
    except InputError as error:
        lines.append(str(error))
    return {"faults": lines} if lines else {}


def _real_inputs(graph: GraphProto) -> Iterable[ValueInfoProto]:
    """Leave out the weights, which files of IR version 3 and older list among the inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    return (value for value in graph.input if value.name not in weights)


def _integers(functions: Iterable[FunctionProto]) -> Description:
    """Say which integers the operators' functions need: only those of earlier files have constants above 24 bits.

    Engines such as OpenVINO compute int32 in float32, which has 24 exact bits.
    """
    from onnx import numpy_helper

    ours = [function for function in functions if function.domain == "keygraph"]
    if not ours:
        return {}
    constants = [
        numpy_helper.to_array(a.t) for f in ours for node in f.node for a in node.attribute if a.name == "value"
    ]
    large = any(abs(int(x)) > 2**24 for c in constants if c.dtype.kind == "i" for x in c.flat)
    said = "all 32 bits of int32: wrong in OpenVINO; export the file again" if large else "24 bits of int32"
    return {"functions need": said}


def _value(value: ValueInfoProto) -> str:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    dims = [dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim]
    return f"{value.name}: {kind}[{', '.join(dims)}]"


def _domain(name: str) -> str:
    return name or "ai.onnx"


def _operator(domain: str, name: str) -> str:
    return f"{domain}.{name}" if domain not in ("", "ai.onnx") else name
