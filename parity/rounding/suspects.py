"""The usual suspects: faults that are tried on the reference's block, to name the one that a candidate's block has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ..metrics.blocks import BlockValues
from .arithmetic import ten_bits
from .network import Network, rms_error

_aten = torch.ops.aten
_ATTENTION = torch.ops.keygraph.key_graph_attention.default

#: A suspect explains a block's error if it leaves less than this fraction of it.
LEFT = 0.05

#: Of several suspects, the first is named that leaves at most twice what the best one does, or this fraction of what
#: rounding explains: no scale is also another scale.
NO_WORSE = 0.01

#: Calls of an operator in one block that are suspected one by one.
CALLS = 8

#: Steps of the search for another scale.
SCALE_STEPS = 6

#: (operator, its arguments) -> its result with the fault; None where the fault does not apply.
Fault = Callable[[Any, list[Any]], Any]


@dataclass(frozen=True)
class Suspect:
    """A fault.

    Attributes
    ----------
    name
        What it is, for the reader.
    operators
        The operators of PyTorch that it changes.
    fault
        The operator with the fault.
    """

    name: str
    operators: tuple[Any, ...]
    fault: Fault


def _replace(index: int, change: Callable[[Any], Any]) -> Fault:
    """Return the fault that changes one argument; `change` returns None where it does not apply."""

    def fault(operator: Any, args: list[Any]) -> Any:
        changed = change(args[index]) if index < len(args) and args[index] is not None else None
        return None if changed is None else operator(*args[:index], changed, *args[index + 1 :])

    return fault


def _epsilon(value: float, index: int) -> Fault:
    return _replace(index, lambda own: None if abs(own - value) < 1e-3 * value else value)


def _without_bias(operator: Any, args: list[Any]) -> Any:
    if operator is _aten.addmm.default:
        return _aten.mm.default(*args[1:3])
    return None if args[2] is None else operator(*args[:2], None, *args[3:])


def _without_addend(_operator: Any, args: list[Any]) -> Any:
    """Leave out the smaller operand of a sum: a bias that is added by itself."""
    first, second, *others = args
    if others or not isinstance(second, Tensor) or first.shape == second.shape:
        return None
    return max((first, second), key=Tensor.numel).clone()


def _transposed(weight: Tensor) -> Tensor | None:
    return weight.mT if weight.shape[-1] == weight.shape[-2] else None


def _padded(mode: str) -> Fault:
    def fault(operator: Any, args: list[Any]) -> Any:
        padding = args[4]
        if args[6] or not any(padding):
            return None
        sides = [amount for side in reversed(padding) for amount in (side, side)]
        image = functional.pad(args[0], sides, mode=mode)
        return operator(image, *args[1:4], [0] * len(padding), *args[5:])

    return fault


def _heads(arrange: Callable[[Tensor], Tensor]) -> Fault:
    """Return the fault that rearranges the result's heads, [..., H, D]."""

    def fault(operator: Any, args: list[Any]) -> Any:
        if args[6] < 2:
            return None
        result = operator(*args)
        return arrange(result.unflatten(-1, (args[6], -1))).flatten(-2)

    return fault


def _moved(by: tuple[int, int]) -> Callable[[Tensor], Tensor | None]:
    return lambda weight: weight.roll(by, (-2, -1)) if weight.shape[-1] > 1 else None


def _rounded(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda values: values.to(dtype).to(values.dtype)


def _factors(change: Callable[[Tensor], Tensor], both: bool) -> Fault:
    """Return the fault that changes the weight of a product or convolution, or both factors."""

    def fault(operator: Any, args: list[Any]) -> Any:
        first = 1 if operator is _aten.addmm.default else 0
        for place in (first, first + 1) if both else (first + 1,):
            args[place] = change(args[place])
        return operator(*args)

    return fault


def _other_gelu(operator: Any, args: list[Any]) -> Any:
    exact = len(args) < 2 or args[1] == "none"
    return operator(args[0], approximate="tanh" if exact else "none")


_PRODUCTS = (_aten.addmm.default, _aten.mm.default, _aten.convolution.default)
_CONVOLUTION = (_aten.convolution.default,)
_SHIFTS = {"down": (1, 0), "up": (-1, 0), "to the right": (0, 1), "to the left": (0, -1)}

#: Normalisation -> place of its epsilon among the arguments.
_NORMS = {
    _aten.native_layer_norm.default: 4,
    _aten.native_batch_norm.default: 7,
    _aten.native_group_norm.default: 7,
}

SUSPECTS = (
    Suspect("the other form of GELU (erf for tanh, or tanh for erf)", (_aten.gelu.default,), _other_gelu),
    *(
        Suspect(f"an epsilon of {value:g}", (operator,), _epsilon(value, index))
        for operator, index in _NORMS.items()
        for value in (1e-6, 1e-5, 1e-3)
    ),
    Suspect("q and k exchanged", (_ATTENTION,), lambda operator, args: operator(args[1], args[0], *args[2:])),
    Suspect("no scale of the scores", (_ATTENTION,), _replace(5, lambda _scale: 1.0)),
    Suspect("heads in another order", (_ATTENTION,), _heads(lambda heads: heads.roll(1, -2))),
    Suspect("heads in reverse order", (_ATTENTION,), _heads(lambda heads: heads.flip(-2))),
    Suspect("heads and their channels exchanged", (_ATTENTION,), _heads(lambda heads: heads.mT)),
    Suspect("no bias", (_aten.addmm.default, _aten.convolution.default), _without_bias),
    Suspect("no bias", (_aten.add.Tensor,), _without_addend),
    Suspect("a transposed weight", (_aten.addmm.default,), _replace(2, _transposed)),
    Suspect("a transposed weight", (_aten.mm.default,), _replace(1, _transposed)),
    *(
        Suspect(f"a kernel moved by a pixel {way}", _CONVOLUTION, _replace(1, _moved(by)))
        for way, by in _SHIFTS.items()
    ),
    Suspect(
        "a kernel rotated by 180 degrees",
        _CONVOLUTION,
        _replace(1, lambda weight: weight.flip(-2, -1) if weight.shape[-1] > 1 else None),
    ),
    *(Suspect(f"padding of mode {mode}", _CONVOLUTION, _padded(mode)) for mode in ("reflect", "replicate", "circular")),
    Suspect("weights in fp16 or TF32", _PRODUCTS, _factors(_rounded(torch.float16), False)),
    Suspect("weights in bf16", _PRODUCTS, _factors(_rounded(torch.bfloat16), False)),
    Suspect("products in TF32", _PRODUCTS, _factors(ten_bits, True)),
    Suspect("products in bf16", _PRODUCTS, _factors(_rounded(torch.bfloat16), True)),
)


class _Planted(TorchDispatchMode):
    """Run one suspect's operators with the fault: every call, or the one of a number."""

    def __init__(self, suspect: Suspect, call: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._suspect, self._call = suspect, call
        self.calls = self.planted = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, with the fault where it belongs."""
        kwargs = kwargs or {}
        if operator in self._suspect.operators:
            self.calls += 1
            if self._call in (None, self.calls):
                given = [*args, *kwargs.values()] if operator is _aten.gelu.default else list(args)
                result = self._suspect.fault(operator, given)
                if result is not None:
                    self.planted += 1
                    return result
        return operator(*args, **kwargs)


def find_suspect(
    network: Network,
    candidate: BlockValues,
    inputs: Sequence[NDArray[np.float32]],
    k: int | None,
    graphs: Sequence[NDArray[np.int32]] | None,
    explained: float,
) -> str | None:
    """Name the fault with which the reference's block computes what the candidate's does.

    Parameters
    ----------
    network
        The reference's.
    candidate
        The candidate's block, with its inputs.
    inputs, k, graphs
        As for `Network.run`.
    explained
        RMS error that rounding explains. A suspect is named if it leaves less than that, or than `LEFT` of the error.

    Returns
    -------
    str or None
        The suspect that leaves the least, or as good as the least; None if none explains the error.
    """
    block = network.exact_block(candidate.name, candidate.inputs, inputs, k, graphs)
    own = _error(block, candidate, None)
    if not own > 0:
        return None
    found: list[tuple[float, str]] = []
    for suspect in (*SUSPECTS, *_fitted_scale(block, candidate)):
        for mode in _plantings(suspect):
            left = _error(block, candidate, mode)
            if mode.planted and left <= max(explained, LEFT * own):
                found.append((left, suspect.name))
    if not found:
        return None
    enough = max(2 * min(found)[0], NO_WORSE * explained)
    return next(name for left, name in found if left <= enough)


def _fitted_scale(block: Callable[[], Tensor], candidate: BlockValues) -> Iterator[Suspect]:
    """Yield the suspect of another scale of the scores: the one that fits best, by the Gauss-Newton method."""

    def scaled(factor: float) -> Suspect:
        name = f"the scale of the scores multiplied by {factor:.4g}"
        return Suspect(name, (_ATTENTION,), _replace(5, lambda scale: scale * factor))

    target, factor, step = torch.from_numpy(candidate.output).double(), 1.0, 1e-4
    for _ in range(SCALE_STEPS):
        mode = _Planted(scaled(factor), None)
        result = _run(block, mode)
        if not mode.planted or result.shape != target.shape:
            return
        slope = (_run(block, _Planted(scaled(factor * (1 + step)), None)) - result) / step
        change = float(((target - result) * slope).sum() / slope.square().sum().clamp_min(1e-300))
        factor *= 1 + min(max(change, -0.5), 1.0)
    yield scaled(factor)


def _plantings(suspect: Suspect) -> Iterator[_Planted]:
    """Yield the suspect in every call of its operators, which is run before the next, then in each call alone."""
    every = _Planted(suspect, None)
    yield every
    if every.calls > 1:
        yield from (_Planted(suspect, call) for call in range(1, min(every.calls, CALLS) + 1))


def _error(block: Callable[[], Tensor], candidate: BlockValues, mode: _Planted | None) -> float:
    result = _run(block, mode)
    if result.shape != candidate.output.shape:
        return float("inf")
    return rms_error(candidate.output, result.numpy())


def _run(block: Callable[[], Tensor], mode: _Planted | None) -> Tensor:
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if mode is not None:
            stack.enter_context(mode)
        return block()
