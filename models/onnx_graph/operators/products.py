"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call, Operator


def _gemm(call: Call) -> Tensor:
    first, second = call.tensor(), call.tensor(1)
    first = first.T if call.attribute("transA", 0) else first
    second = second.T if call.attribute("transB", 0) else second
    result = torch.matmul(first, second)
    if (alpha := call.attribute("alpha", 1.0)) != 1:
        result = result * alpha
    if call.given(2):
        beta = call.attribute("beta", 1.0)
        result = result + (call.tensor(2) if beta == 1 else call.tensor(2) * beta)
    return result


def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.attribute("equation"), *(call.tensor(place) for place in range(len(call.inputs))))


OPERATORS: dict[str, Operator] = {
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": lambda call: torch.matmul(call.tensor(), call.tensor(1)),
}
