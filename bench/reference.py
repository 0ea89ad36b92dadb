"""The operators in float64, which results are checked against: on the inputs' device, for the first and last window."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plugins.torch import unpack_graph
from .problem import Inputs


def attention_error(inputs: Inputs, output: Tensor) -> float:
    """Return the largest norm-wise relative error of the attention in a window: ||output - expected|| / ||expected||.

    Parameters
    ----------
    inputs
        What it was computed from.
    output
        T[B, H, N, D].
    """
    windows = _checked_windows(output)
    q, k, v = (tensor[windows].double() for tensor in (inputs.q, inputs.k, inputs.v))
    selected = unpack_graph(inputs.graph[windows], k.shape[2])
    scores = (q @ k.mT * inputs.scale).masked_fill(~selected, -torch.inf)
    expected = scores.softmax(-1) @ v
    error = (output[windows].double() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    return float(error.max())


def graph_agreement(inputs: Inputs, selected: Tensor) -> float:
    """Return the share of float64's links that a selection contains, in the window where it is smallest.

    Parameters
    ----------
    inputs
        What it was computed from.
    selected
        bool[B, 1, N, N].
    """
    windows = _checked_windows(selected)
    nodes = inputs.nodes[windows].double()
    expected = (nodes @ nodes.mT).topk(inputs.neighbours, dim=-1).indices
    return float(selected[windows].gather(-1, expected).double().flatten(1).mean(1).min())


def _checked_windows(tensor: Tensor) -> list[int]:
    return sorted({0, tensor.shape[0] - 1})
