"""The operators as `torch.library` operators of PyTorch, and the implementations of the attention."""

from .attention import ATTENTION_IMPLEMENTATIONS, use_attention
from .graph_bits import unpack_graph
from .operators import key_graph, key_graph_attention, pack_graph, top_k_graph
from .selection import Agreement, compare_selections, forced_graphs, recorded_graphs

__all__ = [
    "ATTENTION_IMPLEMENTATIONS",
    "Agreement",
    "compare_selections",
    "forced_graphs",
    "key_graph",
    "key_graph_attention",
    "pack_graph",
    "recorded_graphs",
    "top_k_graph",
    "unpack_graph",
    "use_attention",
]
