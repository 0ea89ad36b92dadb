"""Compare any PyTorch module with another form of it, by what rounding explains."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import InputError
from ..metrics.blocks import BlockValues
from ..metrics.rounding import RoundingError, median_error
from ..pass_criteria import FACTOR, beyond, describe_blocks, describe_error, innermost_beyond
from ..rounding.expected import PieceRounding
from ..rounding.network import Arithmetic, Network, NotMeasuredError, rms_error
from ..rounding.suspects import find_suspect
from ..sides.module_probe import check_evaluation_mode
from .blocks import BlockRecorder, Blocks, common_blocks, measure, trace_candidate
from .candidate import Array, Candidate, call, open_candidate
from .result import ModuleComparison

#: An input, or several.
ModuleInputs = NDArray[Any] | Tensor | Sequence[NDArray[Any] | Tensor]

_FP32 = Arithmetic("fp32")


def compare_modules(
    module: nn.Module,
    candidate: nn.Module | Callable[..., Any] | str | os.PathLike[str],
    inputs: ModuleInputs,
    precision: str | None = None,
) -> ModuleComparison:
    """Compare a module with another form of it, and judge whether rounding explains the difference.

    The rule is that of `compare`: the candidate passes if the RMS error is at most `pass_criteria.FACTOR` times what
    rounding explains, which is measured with the module in float64 and in the candidate's precision. If the candidate
    is a module too, every module inside it that has the same name and shapes in both is compared as well, each alone on
    the candidate's input of it. Modules that are called more than once, or do not return one floating-point tensor
    among other values, are judged as a part of those that contain them. Of functions and files, the output is compared.

    Parameters
    ----------
    module
        The reference: in float32 on the CPU, in evaluation mode. It takes floating-point tensors and returns one; it is
        not changed.
    candidate
        Another module in evaluation mode, of any floating-point type, which gets the inputs in the type of its first
        parameter; a function that returns an array or tensor, called with arrays if all inputs are arrays and with
        tensors otherwise; or the path of an ONNX file, which runs in ONNX Runtime on the CPU.
    inputs
        An array or tensor, or a tuple or list of them, of any shapes and of floating point; they are converted to
        float32.
    precision
        Of the candidate: ``"fp32"``, ``"fp16"`` or ``"bf16"``. None for that of its weights, if it is a module or a
        file: half precision if all matrices and kernels are; and ``"fp32"`` for functions. For half precision, every
        tensor is expected to be rounded.

    Returns
    -------
    ModuleComparison
        Its `passed` is the verdict, its `str` the report.

    Raises
    ------
    InputError
        Something that was given cannot be used, such as inputs of integers, outputs of different shapes, a module in
        training mode, or one whose output changes from run to run or which does not run in float64.
    """
    arrays, as_tensors = _converted(inputs)
    expected = _run_reference(module, arrays)
    side = open_candidate(candidate, precision, as_tensors)
    found = side.run(arrays)
    if found.shape != expected.shape:
        raise InputError(f"the candidate's output has shape {found.shape}, the module's {expected.shape}")
    network, arithmetic = Network(module, None), Arithmetic(side.precision)
    recorder, notes = BlockRecorder(), list[str]()
    try:
        with _separate_operators():
            traced, _ = network.run(_FP32, arrays, None, observe=recorder.observe)
            again, _ = network.run(_FP32, arrays, None)
            if not np.array_equal(traced, again):
                raise InputError("the module gives different outputs in two runs; make it deterministic first")
            piece = PieceRounding(network, arrays, None)
            error = piece.explained(
                rms_error(found, expected),
                arithmetic,
                _FP32,
                own_graphs=True,
                median=median_error(found, expected),
            )
        ours: Blocks = {}
        if side.module is not None:
            traced, ours = trace_candidate(side, arrays)
            if beyond(RoundingError(side.precision, rms_error(traced, found), error.expected)):
                notes.append(
                    "the candidate's output is another one while its blocks are read (PyTorch runs encoder layers in "
                    "one fused operator otherwise): blocks at fault need not be in it"
                )
            ours = common_blocks(ours, recorder.blocks)
            if not ours:
                notes.append("only the outputs were compared: no module has the same name and shapes in both")
        del recorder
        with _separate_operators():
            blocks = measure(network, arithmetic, arrays, ours)
            faulty = innermost_beyond(blocks)
            if faulty:
                suspect = _suspect(network, arrays, ours[faulty[0].name], faulty[0].error)
                faulty = (replace(faulty[0], suspect=suspect), *faulty[1:])
            reasons = _reasons(side, found, error)
            if reasons and not faulty and np.isfinite(found).all():
                suspect = _suspect(network, arrays, BlockValues("", found, tuple(arrays), side.precision), error)
                if suspect is not None:
                    reasons.append(f"the candidate computes as the module with {suspect}")
                if blocks:
                    reasons.append("rounding explains the error of every block: the fault is outside of them")
    except NotMeasuredError as failure:
        raise InputError(f"rounding cannot be measured: {failure}") from failure
    if faulty:
        reasons.append(describe_blocks(faulty))
    return ModuleComparison(
        side.name, type(module).__name__, error, tuple(blocks), faulty, tuple(reasons), tuple(notes)
    )


def _converted(inputs: ModuleInputs) -> tuple[list[Array], bool]:
    """Return the inputs as float32 arrays, and whether some are tensors."""
    given = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    if not given:
        raise InputError("there are no inputs")
    arrays = []
    for number, one in enumerate(given):
        values = one.detach().cpu() if isinstance(one, Tensor) else one
        if isinstance(values, Tensor) and values.is_floating_point():
            values = values.float().numpy()
        if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.floating):
            kind = getattr(one, "dtype", type(one).__name__)
            raise InputError(f"input {number} is {kind}, not a floating-point array or tensor")
        if not values.size:
            raise InputError(f"input {number} is empty: its shape is {values.shape}")
        arrays.append(np.array(values, np.float32, order="C"))
    return arrays, any(isinstance(one, Tensor) for one in given)


def _run_reference(module: nn.Module, arrays: Sequence[Array]) -> Array:
    """Check the reference and return its output."""
    if not isinstance(module, nn.Module):
        raise InputError(f"the reference is of type {type(module).__name__}, not a torch.nn.Module")
    check_evaluation_mode(module, "module")
    for name, values in (*module.named_parameters(), *module.named_buffers()):
        if values.is_floating_point() and (values.dtype != torch.float32 or values.device.type != "cpu"):
            kind = str(values.dtype).removeprefix("torch.")
            raise InputError(f"the module's {name} is {kind} on {values.device}; it must be float32 on the CPU")
    with _separate_operators():
        output = call(module, [torch.from_numpy(one.copy()) for one in arrays], "module")
    if not np.isfinite(output).all():
        raise InputError("the module's output has NaN or infinite values on these inputs")
    return output


def _reasons(side: Candidate, found: Array, error: RoundingError) -> list[str]:
    """Apply the rule to the output."""
    count = found.size - np.count_nonzero(np.isfinite(found))
    if count:
        return [f"the candidate gives {count} NaN or infinite values"]
    if not math.isfinite(error.expected):
        return [f"{side.precision} overflows in the module itself, so that rounding explains no output"]
    return [describe_error(error)] if beyond(error) else []


def _suspect(network: Network, arrays: Sequence[Array], values: BlockValues, error: RoundingError) -> str | None:
    return find_suspect(network, values, arrays, None, None, FACTOR * error.expected)


@contextmanager
def _separate_operators() -> Iterator[None]:
    """Compute attention and encoder layers in PyTorch by their products, norms and softmax.

    So each can sum in another order and round its result, as a candidate may do.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, before)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
