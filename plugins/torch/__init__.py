"""PyTorch host: the operators as `torch.library` operators, and the ways of computing the attention."""

from .attention import ATTENTION_IMPLEMENTATIONS, use_attention
from .graph_bits import pack_graph, unpack_graph
from .operators import key_graph, key_graph_attention

__all__ = [
    "ATTENTION_IMPLEMENTATIONS",
    "key_graph",
    "key_graph_attention",
    "pack_graph",
    "unpack_graph",
    "use_attention",
]
