"""What is measured: a problem's sizes, and random tensors of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..plugins.torch import pack_graph
from ..plugins.torch.kernels import remember_share

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Problem:
    """A layer's sizes: `channels` are those of one head, `graph_channels` those that the graph is made from.

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
        """Bytes of a number."""
        return DTYPES[self.dtype].itemsize

    @property
    def graph_bytes(self) -> int:
        """Bytes of the graph."""
        return self.windows * self.nodes * -(-self.nodes // 32) * 4

    @property
    def attention_bytes(self) -> int:
        """Bytes of the attention's inputs and its output."""
        return 4 * self.windows * self.heads * self.nodes * self.channels * self.itemsize + self.graph_bytes


@dataclass(frozen=True)
class Inputs:
    """q, k, v: [B, H, N, D]; nodes: [B, 1, N, C]; graph: int32[B, 1, N, ceil(N/32)], made from the nodes by PyTorch."""

    q: Tensor
    k: Tensor
    v: Tensor
    nodes: Tensor
    graph: Tensor
    neighbours: int
    scale: float


def random_inputs(problem: Problem, device: torch.device, seed: int = 0) -> Inputs:
    """Normal random numbers, and their graph without any of our kernels: one that fails spoils no other's inputs."""
    generator = torch.Generator(device).manual_seed(seed)
    dtype = DTYPES[problem.dtype]

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device).to(dtype)

    q, k, v = (normal(problem.windows, problem.heads, problem.nodes, problem.channels) for _ in range(3))
    nodes = normal(problem.windows, 1, problem.nodes, problem.graph_channels)
    indices = (nodes.float() @ nodes.float().mT).topk(problem.k, dim=-1, sorted=False).indices
    selected = torch.zeros(*nodes.shape[:3], problem.nodes, dtype=torch.bool, device=device)
    graph = pack_graph(selected.scatter_(-1, indices, True))
    remember_share(graph, problem.k / problem.nodes)
    return Inputs(q, k, v, nodes, graph, problem.k, problem.channels**-0.5)
