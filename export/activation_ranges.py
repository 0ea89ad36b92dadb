"""What every tensor of a file holds at most, and the first one that is not finite.

Each tensor is reduced to one number inside the graph, so one run tells all of them and holds no more memory than the
network itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ..runtime.backends.base import Inputs
from ..runtime.backends.emulated_half import rounding
from .calibration_data import CalibrationImage


def largest_values(
    path: Path, pictures: Iterable[CalibrationImage], k: int | None, library: Path | None
) -> dict[str, float]:
    """The largest absolute value of each floating-point tensor of an FP32 file over all pictures.

    Parameters
    ----------
    path
        The file.
    pictures
        What to run it on.
    k
        The input k, or None where the file has none.
    library
        ONNX Runtime library of our operators, or None.

    Returns
    -------
    Value's name -> largest absolute value, inf where one is not finite; in the order of execution.
    """
    model = onnx.load(path)
    names = _float_values(model)
    _add(model, names, ["Abs", "ReduceMax"])
    session = _session(model, library)
    found = dict.fromkeys(names, 0.0)
    for picture in pictures:
        for name, value in zip(names, _run(session, names, picture.inputs, k), strict=True):
            found[name] = max(found[name], float(value) if np.isfinite(value) else np.inf)
    return found


def first_not_finite(path: Path, inputs: Inputs, k: int | None, library: Path | None) -> str | None:
    """The first node of a file, in the order of execution, whose output is not finite; None when all are.

    A half-precision file is run in float32 with every stored tensor rounded, see `runtime.rounding`.
    """
    model = rounding(onnx.load(path))
    names = _float_values(model)
    # Zero times a finite number is zero; times any other, NaN.
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero/probe"))
    _add(model, names, ["Mul", "ReduceSum"])
    values = _run(_session(model, library), names, inputs, k)
    bad = next((name for name, value in zip(names, values, strict=True) if not np.isfinite(value)), None)
    return bad.removesuffix("/exact").removesuffix("/stored") if bad is not None else None


def _float_values(model: ModelProto) -> list[str]:
    """Outputs of the nodes, where inference says that they are float."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [name for node in model.graph.node for name in node.output if name in floats]


def _add(model: ModelProto, names: Sequence[str], operators: tuple[str, str] | list[str]) -> None:
    first, reduce = operators
    for name in names:
        inputs = [name, "zero/probe"] if first == "Mul" else [name]
        model.graph.node.append(helper.make_node(first, inputs, [f"{name}/probed"]))
        model.graph.node.append(helper.make_node(reduce, [f"{name}/probed"], [f"{name}/probe"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}/probe", TensorProto.FLOAT, []))


def _session(model: ModelProto, library: Path | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession, names: Sequence[str], inputs: Inputs, k: int | None
) -> list[np.ndarray]:
    given = [*inputs, *([] if k is None else [np.array([k], np.int64)])]
    feeds = dict(zip((value.name for value in session.get_inputs()), given, strict=True))
    return list(session.run([f"{name}/probe" for name in names], feeds))
