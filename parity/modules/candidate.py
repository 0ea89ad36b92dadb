"""A candidate of a module comparison: another module, a function or an ONNX file, and the precision that it has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import InputError, KeygraphError, MissingDependencyError, counted
from ...installation import onnx_runtime_remedy
from ..rounding.arithmetic import UNIT_ROUNDOFF
from ..sides.module_probe import check_evaluation_mode

Array = NDArray[Any]

_TORCH_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Candidate:
    """A candidate.

    Attributes
    ----------
    name
        For the report.
    precision
        ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    run
        Takes the inputs, float32, and returns the output, of floating point.
    module
        The candidate, if it is a module.
    """

    name: str
    precision: str
    run: Callable[[Sequence[Array]], Array]
    module: nn.Module | None = None


def open_candidate(candidate: Any, precision: str | None, as_tensors: bool) -> Candidate:
    """Open a candidate.

    Parameters
    ----------
    candidate
        A module, a function or the path of an ONNX file.
    precision
        As for `compare_modules`.
    as_tensors
        Whether a function is called with tensors; else with arrays.

    Raises
    ------
    InputError
        It is none of these, cannot be opened, or there is no such precision.
    """
    if precision not in (None, *UNIT_ROUNDOFF):
        raise InputError(f"there is no precision {precision!r}; choose from {', '.join(UNIT_ROUNDOFF)}")
    if isinstance(candidate, nn.Module):
        return _of_module(candidate, precision)
    if isinstance(candidate, (str, os.PathLike)):
        return _of_file(os.fspath(candidate), precision)
    if callable(candidate):
        return _of_function(candidate, precision, as_tensors)
    raise InputError(
        f"the candidate is of type {type(candidate).__name__}; give a torch.nn.Module, a function or the path of an "
        "ONNX file"
    )


def to_array(result: Any, side: str) -> Array:
    """Return a side's output as an array; bfloat16 becomes float32.

    Raises
    ------
    InputError
        It is not one floating-point array or tensor.
    """
    if isinstance(result, Tensor) and result.is_floating_point():
        detached = result.detach().cpu()
        array: Array = (detached.float() if result.dtype == torch.bfloat16 else detached).numpy()
        return _copied(array)
    if isinstance(result, np.ndarray) and np.issubdtype(result.dtype, np.floating):
        return _copied(result)
    kind = getattr(result, "dtype", type(result).__name__)
    raise InputError(f"the {side} returns {kind}, not one floating-point array or tensor; wrap it to return one")


def _copied(values: Array) -> Array:
    """Return a copy that is contiguous in memory."""
    return np.array(values, order="C")


def call(function: Callable[..., Any], arguments: Sequence[Any], side: str) -> Array:
    """Call a side and return its output.

    Parameters
    ----------
    function, arguments
        What to call.
    side
        For messages.

    Raises
    ------
    InputError
        The call fails, or does not return one floating-point array or tensor.
    """
    try:
        with torch.no_grad():
            result = function(*arguments)
    except KeygraphError:
        raise
    except Exception as error:  # Foreign code may raise anything.
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"the {side} fails on these inputs: {type(error).__name__}: {reason}") from error
    return to_array(result, side)


def _of_module(module: nn.Module, precision: str | None) -> Candidate:
    check_evaluation_mode(module, "candidate")
    parameters = [one for one in module.parameters() if one.is_floating_point()]
    first = parameters[0] if parameters else torch.empty(0)
    found = _lowest((one.ndim, _TORCH_PRECISIONS.get(one.dtype, "fp32")) for one in parameters)

    def run(inputs: Sequence[Array]) -> Array:
        tensors = [torch.from_numpy(one).to(first.device, first.dtype, copy=True) for one in inputs]
        return call(module, tensors, "candidate")

    return Candidate(type(module).__name__, precision or found, run, module)


def _of_function(function: Callable[..., Any], precision: str | None, as_tensors: bool) -> Candidate:
    def run(inputs: Sequence[Array]) -> Array:
        copies = [one.copy() for one in inputs]
        return call(function, [torch.from_numpy(one) for one in copies] if as_tensors else copies, "candidate")

    return Candidate(getattr(function, "__name__", type(function).__name__), precision or "fp32", run)


def _of_file(path: str, precision: str | None) -> Candidate:
    try:
        import onnxruntime  # Only here: other candidates do not need it.
    except ImportError as error:
        raise MissingDependencyError(f"ONNX Runtime cannot be imported ({error}); {onnx_runtime_remedy()}") from error

    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class.
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: ONNX Runtime cannot open it: {reason}") from error
    if len(session.get_outputs()) != 1:
        raise InputError(
            f"{path} has {counted(len(session.get_outputs()), 'output')}; only files with one can be compared"
        )
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    for one in session.get_inputs():
        if one.type not in types:
            raise InputError(f"{path}: input {one.name} is a {one.type}, not of float or float16")

    def run(inputs: Sequence[Array]) -> Array:
        wanted = session.get_inputs()
        if len(wanted) != len(inputs):
            raise InputError(f"{path} has {counted(len(wanted), 'input')}, not the {len(inputs)} that are given")
        fed = {one.name: values.astype(types[one.type]) for one, values in zip(wanted, inputs, strict=True)}
        return call(lambda: session.run(None, fed)[0], (), "candidate")

    return Candidate(path, precision or _precision_of_file(path), run)


def _precision_of_file(path: str) -> str:
    import onnx

    from ..sides.onnx_blocks import PRECISIONS

    graph = onnx.load(path, load_external_data=False).graph
    return _lowest(
        (len(one.dims), PRECISIONS[one.data_type]) for one in graph.initializer if one.data_type in PRECISIONS
    )


def _lowest(weights: Iterable[tuple[int, str]]) -> str:
    """Return the precision of the matrices and kernels, given as (dimensions, precision).

    If some are in FP32, it is FP32: a layer in half precision is then a fault. Biases and norms may be in any.
    """
    found = {precision for dimensions, precision in weights if dimensions > 1}
    return max(found, key=UNIT_ROUNDOFF.__getitem__) if found and "fp32" not in found else "fp32"
