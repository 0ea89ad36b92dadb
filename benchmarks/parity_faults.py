"""Faults for `parity_rates.py`: kinds that happen in exports, each of any size, planted in one module of a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


@dataclass(frozen=True)
class Places:
    """Where faults are planted in a network: names of modules.

    Attributes
    ----------
    square
        Of a square matrix.
    kernel
        Of a 3x3 convolution with padding.
    matrix
        Of any matrix.
    biased
        Of a layer with a bias; empty where the network has none.
    norm
        Of a norm over channels.
    gated
        Of what contains a GELU.
    qkv
        Of the matrix that makes queries, keys and values.
    heads
        Heads of that attention.
    """

    square: str
    kernel: str
    matrix: str
    biased: str
    norm: str
    gated: str
    qkv: str
    heads: int


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes
    ----------
    name
        For the reader.
    place
        Field of `Places` with the module in which it is planted.
    plant
        (module, size, heads): changes the module; a size of 1 is the whole fault.
    """

    name: str
    place: str
    plant: Callable[[nn.Module, float, int], None]


def _weight(change: Callable[[Tensor, int], Tensor], name: str = "weight") -> Callable[[nn.Module, float, int], None]:
    """Return the fault that moves a parameter towards a wrong one."""

    def plant(module: nn.Module, size: float, heads: int) -> None:
        parameter = module.get_parameter(name)
        with torch.no_grad():
            parameter.lerp_(change(parameter.detach().clone(), heads), size)

    return plant


class Decomposed(TorchDispatchMode):
    """Take operators apart that consist of others, which inference mode leaves whole, for the modes entered before."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        with self:
            result = operator.decompose(*args, **(kwargs or {}))
        return operator(*args, **(kwargs or {})) if result is NotImplemented else result


class _Wrong(TorchDispatchMode):
    """Move an operator's result towards a wrong one."""

    def __init__(self, operator: Any, wrong: Callable[[Any, list[Any]], Any], size: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operator, self._wrong, self._size = operator, wrong, size

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        result = operator(*args, **(kwargs or {}))
        if operator is not self._operator:
            return result
        wrong = self._wrong(operator, [*args, *(kwargs or {}).values()])
        if isinstance(result, tuple):  # A norm returns its statistics as well.
            return (result[0] + self._size * (wrong[0] - result[0]), *result[1:])
        return result + self._size * (wrong - result)


def _operator(operator: Any, wrong: Callable[[Any, list[Any]], Any]) -> Callable[[nn.Module, float, int], None]:
    """Return the fault in an operator, wherever the module calls it."""

    def plant(module: nn.Module, size: float, _heads: int) -> None:
        entered: list[ExitStack] = []

        def enter(*_: Any) -> None:
            entered.append(ExitStack())
            entered[-1].enter_context(_Wrong(operator, wrong, size))
            entered[-1].enter_context(Decomposed())  # type: ignore[no-untyped-call]

        def leave(*_: Any) -> None:
            entered.pop().close()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    return plant


def _padding(mode: str) -> Callable[[nn.Module, float, int], None]:
    def wrong(operator: Any, args: list[Any]) -> Tensor:
        sides = [amount for side in reversed(args[4]) for amount in (side, side)]
        image = functional.pad(args[0], sides, mode=mode)
        result: Tensor = operator(image, *args[1:4], [0, 0], *args[5:])
        return result

    return _operator(_aten.convolution.default, wrong)


def _permuted_heads(weight: Tensor, heads: int) -> Tensor:
    """Exchange the heads' inputs of the matrix after an attention."""
    if heads == 1:
        return weight.flip(1)
    permuted: Tensor = weight.unflatten(1, (heads, -1)).roll(1, 1).flatten(1, 2)
    return permuted


def _exchanged(weight: Tensor, _heads: int) -> Tensor:
    q, k, v = weight.chunk(3)
    return torch.cat([k, q, v])


def _scaled_values(weight: Tensor, _heads: int) -> Tensor:
    q, k, v = weight.chunk(3)
    return torch.cat([q, k, 1.25 * v])


def _ten_bits(weight: Tensor, _heads: int) -> Tensor:
    bits = weight.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def _eight_bit_integers(weight: Tensor, _heads: int) -> Tensor:
    step = weight.abs().max() / 127
    return (weight / step).round() * step


def _one_weight(weight: Tensor, _heads: int) -> Tensor:
    weight.view(-1)[weight.abs().argmax()] *= 2
    return weight


def _noise(weight: Tensor, _heads: int) -> Tensor:
    return weight * (1 + torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))


def _dead(weight: Tensor, _heads: int) -> Tensor:
    weight[0] = 0
    return weight


def _norm_parameter(name: str, value: float) -> Callable[[nn.Module, float, int], None]:
    def plant(module: nn.Module, size: float, _heads: int) -> None:
        for key, parameter in module.named_parameters():
            if key.rpartition(".")[2] == name:
                with torch.no_grad():
                    parameter.lerp_(torch.full_like(parameter, value), size)

    return plant


FAULTS = (
    Fault("weight transposed", "square", _weight(lambda w, _: w.transpose(0, 1))),
    Fault("kernel moved by a pixel", "kernel", _weight(lambda w, _: w.roll(1, -1))),
    Fault("kernel rotated by 180 degrees", "kernel", _weight(lambda w, _: w.flip(-2, -1))),
    Fault("kernel mirrored", "kernel", _weight(lambda w, _: w.flip(-1))),
    Fault("padding by reflection", "kernel", _padding("reflect")),
    Fault("padding by replication", "kernel", _padding("replicate")),
    Fault("padding by wrapping", "kernel", _padding("circular")),
    Fault("bias dropped", "biased", _weight(lambda b, _: torch.zeros_like(b), "bias")),
    Fault("output channels in another order", "matrix", _weight(lambda w, _: w.roll(1, 0))),
    Fault("input channels in another order", "matrix", _weight(lambda w, _: w.roll(1, 1))),
    Fault("heads permuted", "square", _weight(_permuted_heads)),
    Fault("q and k exchanged", "qkv", _weight(_exchanged)),
    Fault("values scaled by 1.25", "qkv", _weight(_scaled_values)),
    Fault("weights in fp16", "matrix", _weight(lambda w, _: w.half().float())),
    Fault("weights in bf16", "matrix", _weight(lambda w, _: w.bfloat16().float())),
    Fault("weights in TF32", "matrix", _weight(_ten_bits)),
    Fault("weights in int8", "matrix", _weight(_eight_bit_integers)),
    Fault("one weight doubled", "matrix", _weight(_one_weight)),
    Fault("every weight changed at random", "matrix", _weight(_noise)),
    Fault("one channel dead", "matrix", _weight(_dead)),
    Fault(
        "epsilon of 1e-3",
        "norm",
        _operator(_aten.native_layer_norm.default, lambda operator, args: operator(*args[:4], 1e-3)),
    ),
    Fault("norm's weight left out", "norm", _norm_parameter("weight", 1.0)),
    Fault("norm's bias left out", "norm", _norm_parameter("bias", 0.0)),
    Fault("GELU by its tanh form", "gated", _operator(_aten.gelu.default, lambda op, a: op(a[0], approximate="tanh"))),
    Fault("ReLU for GELU", "gated", _operator(_aten.gelu.default, lambda op, a: a[0].relu())),
)
