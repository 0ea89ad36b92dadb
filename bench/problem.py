"""The sizes of one operator call, and random inputs of these sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..plugins.torch.graph_bits import pack_bits
from ..plugins.torch.kernels import remember_share

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Problem:
    """Sizes of one layer.

    Attributes
    ----------
    windows, heads
        B and H.
    nodes
        N, the pixels of a window.
    channels
        D, the channels of one head.
    k
        Neighbours of each node, 1 to `nodes`.
    dtype
        A key of `DTYPES`.
    graph_channels
        C, the channels of the nodes that the graph is made from.

    Raises
    ------
    InputError
        A size is below 1, or there is no such type.
    """

    windows: int
    heads: int
    nodes: int
    channels: int
    k: int
    dtype: str = "float16"
    graph_channels: int = 180

    def __post_init__(self) -> None:
        for name in ("windows", "heads", "nodes", "channels", "k", "graph_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.k > self.nodes:
            raise InputError(f"k is {self.k}; give at most the {self.nodes} nodes there are")
        if self.dtype not in DTYPES:
            raise InputError(f"no type {self.dtype!r}; choose one of {', '.join(DTYPES)}")

    def __str__(self) -> str:
        sizes = " x ".join(map(str, (self.windows, self.heads, self.nodes, self.channels)))
        return f"{sizes}, k = {self.k}, {self.dtype}"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize

    @property
    def graph_bytes(self) -> int:
        """Bytes of the graph."""
        return self.windows * self.nodes * -(-self.nodes // 32) * 4

    @property
    def attention_bytes(self) -> int:
        """Bytes of the attention's inputs and its output."""
        return 4 * self.windows * self.heads * self.nodes * self.channels * self.itemsize + self.graph_bytes

    @property
    def peak_bytes(self) -> int:
        """Bytes that the largest implementation takes on a CPU, roughly: four matrices of all scores, and copies."""
        scores = self.windows * self.heads * self.nodes**2 * max(self.itemsize, 4)
        graph = self.windows * self.nodes**2 * 8
        return 4 * scores + 2 * graph + 2 * self.attention_bytes


@dataclass(frozen=True)
class Inputs:
    """Inputs of both operators.

    Attributes
    ----------
    q, k, v
        T[B, H, N, D].
    nodes
        T[B, 1, N, C], query and key of KeyGraph.
    graph
        int32[B, 1, N, ceil(N/32)], made from the nodes by PyTorch.
    neighbours
        Selected nodes in each row of the graph.
    scale
        Of the attention, D^-1/2.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    nodes: Tensor
    graph: Tensor
    neighbours: int
    scale: float


def random_inputs(problem: Problem, device: torch.device, seed: int = 0) -> Inputs:
    """Return normal random inputs and their graph.

    The graph is made without keygraph's kernels, so that a fault in KeyGraph does not affect the attention's inputs.

    Parameters
    ----------
    problem
        The sizes.
    device
        Where the tensors are.
    seed
        Of the random numbers.
    """
    generator = torch.Generator(device).manual_seed(seed)
    dtype = DTYPES[problem.dtype]

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device).to(dtype)

    q, k, v = (normal(problem.windows, problem.heads, problem.nodes, problem.channels) for _ in range(3))
    nodes = normal(problem.windows, 1, problem.nodes, problem.graph_channels)
    indices = (nodes.float() @ nodes.float().mT).topk(problem.k, dim=-1, sorted=False).indices
    selected = torch.zeros(*nodes.shape[:3], problem.nodes, dtype=torch.bool, device=device)
    graph = pack_bits(selected.scatter_(-1, indices, True))
    remember_share(graph, problem.k / problem.nodes)
    return Inputs(q, k, v, nodes, graph, problem.k, problem.channels**-0.5)
