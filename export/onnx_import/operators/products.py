"""Products of matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def _attention(call: Call) -> Tensor:
    """Compute the form that stands for PyTorch's own attention: four dimensions, nothing kept of earlier calls."""
    query = call.tensor()
    if query.ndim != 4 or call.outputs > 1 or call.given(4) or call.attribute("softcap", 0.0):
        raise call.refuse("with three dimensions, keys of earlier calls, or softcap,")
    return F.scaled_dot_product_attention(
        query,
        call.tensor(1),
        call.tensor(2),
        attn_mask=call.optional(3),
        is_causal=bool(call.attribute("is_causal", 0)),
        scale=call.attribute("scale"),
    )


OPERATORS: dict[str, Operator] = {
    "Attention": _attention,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": lambda call: torch.matmul(call.tensor(), call.tensor(1)),
}
