"""Problems: which sizes are refused, and inputs that need none of the kernels."""

from __future__ import annotations

import pytest
import torch
from keygraph.bench.problem import Problem, random_inputs
from keygraph.errors import InputError
from keygraph.plugins.torch import key_graph

CPU = torch.device("cpu")
TINY = Problem(2, 3, 40, 5, 7, "float32", 15)


def test_problems_that_cannot_be_are_errors() -> None:
    with pytest.raises(InputError, match="heads is 0; give at least 1"):
        Problem(1, 0, 8, 4, 2)
    with pytest.raises(InputError, match="k is 9; give at most the 8 nodes"):
        Problem(1, 1, 8, 4, 9)
    with pytest.raises(InputError, match="choose one of float32, float16, bfloat16"):
        Problem(1, 1, 8, 4, 2, "int8")


def test_inputs_need_no_kernel_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyGraph that fails or hangs must not take along what measures the attention alone."""
    inputs = random_inputs(TINY, CPU)
    assert torch.equal(inputs.graph, key_graph(inputs.nodes, inputs.nodes, torch.tensor([TINY.k])))
    monkeypatch.delattr("keygraph.plugins.torch.operators._largest")
    assert torch.equal(random_inputs(TINY, CPU).graph, inputs.graph)
