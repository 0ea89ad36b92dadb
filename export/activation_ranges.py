"""The largest value of every tensor of a file, and the first tensor with a value that is not finite.

Each tensor is reduced to one number inside the graph, so one run measures all of them and needs no more memory than the
network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from ..runtime.backends.base import Inputs
from ..runtime.backends.emulated_half import emulate_half
from ..runtime.backends.onnx_providers import session_options
from .calibration_data import CalibrationImage

#: Suffix of the graph outputs that hold the reduced values.
_REDUCED = "/reduced"


def largest_values(
    path: Path, images: Iterable[CalibrationImage], k: int | None, library: Path | None
) -> dict[str, float]:
    """Measure the largest absolute value of each floating-point tensor of an FP32 file.

    Parameters
    ----------
    path
        The file.
    images
        The images to run it on.
    k
        Value of the input k; None where the file has no such input.
    library
        ONNX Runtime library of keygraph's operators, or None to run the file's own functions.

    Returns
    -------
    dict
        Tensor name -> largest absolute value over all images, inf where one is not finite; in the order of execution.
    """
    model = ir.load(path)
    names = _reduce_floats(model, _add_maximum)
    session = _session(model, library)
    largest = dict.fromkeys(names, 0.0)
    for image in images:
        for name, value in _run(session, names, image.inputs, k).items():
            largest[name] = max(largest[name], float(value) if np.isfinite(value) else np.inf)
    return largest


def first_nonfinite(path: Path, inputs: Inputs, k: int | None, library: Path | None) -> str | None:
    """Find the first node, in the order of execution, whose output holds a value that is not finite.

    A half-precision file runs in float32 with every stored tensor rounded, see `runtime.backends.emulated_half`.

    Parameters
    ----------
    path
        The file.
    inputs
        The image and the extra inputs.
    k, library
        As for `largest_values`.

    Returns
    -------
    str or None
        The node's name; None when all values are finite.
    """
    model = ir.from_proto(emulate_half(onnx.load(path)))
    names = _reduce_floats(model, _add_finiteness(model.graph))
    values = _run(_session(model, library), names, inputs, k)
    first = next((name for name, value in values.items() if not np.isfinite(value)), None)
    return first.removesuffix("/exact").removesuffix("/stored") if first is not None else None


def _reduce_floats(model: ir.Model, add: Callable[[ir.Value], list[ir.Node]]) -> list[str]:
    """Add a scalar graph output for each float32 tensor that a node computes; return the tensors' names."""
    ShapeInferencePass()(model)
    graph, names = model.graph, []
    for node in list(graph):
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT and value.name is not None:
                names.append(value.name)
                nodes = add(value)
                graph.extend(nodes)
                (scalar,) = nodes[-1].outputs
                scalar.name, scalar.dtype, scalar.shape = value.name + _REDUCED, ir.DataType.FLOAT, ir.Shape([])
                graph.outputs.append(scalar)
    return names


def _add_maximum(value: ir.Value) -> list[ir.Node]:
    """Return nodes that reduce a tensor to its largest absolute value."""
    magnitude = ir.node("Abs", [value])
    return [magnitude, ir.node("ReduceMax", magnitude.outputs, {"keepdims": 0})]


def _add_finiteness(graph: ir.Graph) -> Callable[[ir.Value], list[ir.Node]]:
    """Return what makes the nodes that reduce a tensor to 0 when all its values are finite, else to NaN."""
    zero = ir.Value(name="zero" + _REDUCED, const_value=ir.tensor(np.zeros(1, np.float32), name="zero" + _REDUCED))
    graph.register_initializer(zero)

    def add(value: ir.Value) -> list[ir.Node]:
        product = ir.node("Mul", [value, zero])  # Zero times a finite number is zero, times any other NaN.
        return [product, ir.node("ReduceSum", product.outputs, {"keepdims": 0})]

    return add


def _session(model: ir.Model, library: Path | None) -> onnxruntime.InferenceSession:
    options = session_options()
    if library is not None:
        options.register_custom_ops_library(str(library))
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession, names: list[str], inputs: Inputs, k: int | None
) -> Mapping[str, NDArray[Any]]:
    """Run once; return the reduced value of each tensor."""
    given = [*inputs, *([] if k is None else [np.array([k], np.int64)])]
    feeds = dict(zip((value.name for value in session.get_inputs()), given, strict=True))
    return dict(zip(names, session.run([name + _REDUCED for name in names], feeds), strict=True))
