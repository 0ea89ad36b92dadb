"""Verify fused attentions, each on the q, k and v of real runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Interpreter, Node

from ...instrumentation.metrics import TOLERANCES
from ...instrumentation.synthetic import synthetic_image
from ...plugins.torch import unpack_graph
from ...plugins.torch.graph_bits import pack_bits
from ...runtime.preprocess.padding import round_up
from .nodes import VALUE, positional, tensor
from .recognize import add_operators, annotated_graph
from .rewriting import Replacement
from .selections import Selection

_KEY_GRAPH = torch.ops.keygraph.key_graph.default
_TOP_K_GRAPH = torch.ops.keygraph.top_k_graph.default
#: The operators that make key graphs.
KEY_GRAPHS = (_KEY_GRAPH, _TOP_K_GRAPH, torch.ops.keygraph.pack_graph.default)

#: Largest difference of an attention's results with the same selection, relative to the largest of them.
_ATTENTION_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

#: Smallest side of a verification image, where the network accepts any size.
_SMALLEST_SIDE = 24


@dataclass(frozen=True)
class Case:
    """Inputs of one run.

    Attributes
    ----------
    name
        What they are, for messages.
    inputs
        The module's arguments.
    """

    name: str
    inputs: tuple[Tensor, ...]


def verification_cases(channels: int, size_multiple: int, value_range: tuple[float, float]) -> list[Case]:
    """Return images like a photograph, flat ones (where everything ties) and noise: batches of 1 and 2, three sizes.

    Parameters
    ----------
    channels
        Of the images.
    size_multiple
        Heights and widths are multiples of it.
    value_range
        Smallest and largest value of a pixel.
    """
    low, high = value_range
    side = round_up(_SMALLEST_SIDE, size_multiple)
    square, wide, tall = (side, side), (side, 2 * side), (2 * side + size_multiple, side)
    random = torch.Generator().manual_seed(0)
    cases = []
    for kind in ("photograph", "flat", "noise"):
        for batch, (height, width) in ((1, wide), (2, square), (1, tall)):
            shape = (batch, channels, height, width)
            if kind == "photograph":
                image = torch.from_numpy(synthetic_image(shape, value_range))
            elif kind == "flat":
                image = torch.full(shape, (low + high) / 2)
            else:
                image = torch.rand(shape, generator=random) * (high - low) + low
            cases.append(Case(f"{kind} {batch}x{height}x{width}", (image,)))
    return cases


@dataclass
class Checked:
    """Result of `check_attentions`.

    Attributes
    ----------
    failures
        Softmax of each attention that failed, and why.
    graphs
        The module's own selection, int32[B, G, M, ceil(N/32)], for each key graph in order of execution.
    by_hand
        Those of `graphs` that the module computes by `key_graph` itself.
    """

    failures: dict[str, str] = field(default_factory=dict)
    graphs: list[Tensor] = field(default_factory=list)
    by_hand: list[Tensor] = field(default_factory=list)


def check_attentions(
    program: ExportedProgram, case: Case, exclude: Mapping[str, str] | None = None, exactly_k: bool = False
) -> Checked:
    """Run a program, and on the q, k and v of each attention the operators as well.

    The selections are compared as sets: nodes that only one side selects must be within rounding of the k-th. Then the
    operators attend to what the module selected, so that only arithmetic is left to differ.

    Parameters
    ----------
    program
        As for `recognize`.
    case
        What to run it on.
    exclude
        Attentions that are not checked, as for `recognize`.
    exactly_k
        As for `recognize`.
    """
    graph = annotated_graph(program)
    by_hand = {node for node in graph.nodes if node.target in KEY_GRAPHS}
    _, replacements = add_operators(graph, exclude or {}, exactly_k)
    probe = _Probe(GraphModule(program.graph_module, graph), replacements, by_hand)
    with torch.no_grad():
        probe.run(*placed(graph, case))
    return probe.checked


def placed(graph: Graph, case: Case) -> list[Tensor]:
    """Return the values of a graph's placeholders: parameters, and a case's inputs."""
    inputs = iter(case.inputs)
    return [
        node.meta[VALUE] if VALUE in node.meta else next(inputs) for node in graph.nodes if node.op == "placeholder"
    ]


class _Probe(Interpreter):
    """Runs a program that has the operators beside the module's own attentions, and compares the two."""

    def __init__(self, module: GraphModule, replacements: Sequence[Replacement], by_hand: Set[Node]) -> None:
        super().__init__(module)
        self.checked = Checked()
        self._ahead: list[Node] = []
        self._by_hand = by_hand
        self._by_graph: dict[Node, list[Replacement]] = {}
        self._by_result: dict[Node, Replacement] = {}
        for replacement in replacements:
            self._by_graph.setdefault(replacement.key_graph, []).append(replacement)
            self._by_result[replacement.attention.result] = replacement

    def run_node(self, n: Node) -> Any:
        """Run a node as `Interpreter` does; a key graph gives the module's own selection."""
        result = super().run_node(n)
        if n in self._by_hand:
            self.checked.graphs.append(result)
            if n.target is _KEY_GRAPH:
                self.checked.by_hand.append(result)
        if n in self._by_graph:
            if n.target in (_KEY_GRAPH, _TOP_K_GRAPH):
                result = self._own_selection(n, result)
            self.checked.graphs.append(result)
            return result
        if n in self._by_result:
            self._compare_results(self._by_result[n], result)
        return result

    def _own_selection(self, key_graph: Node, bits: Tensor) -> Tensor:
        """Compare a key graph with the module's own selection, and return that."""
        users = self._by_graph[key_graph]
        selection = users[0].attention.masks[0].selection
        first, second = (self.env[node] for node in positional(key_graph)[:2])
        ranked = first @ second.mT if key_graph.target is _KEY_GRAPH else first.float()
        nodes = ranked.shape[3]
        own = self._selected(selection).reshape(*bits.shape[:3], nodes)
        for node in self._ahead:  # They are computed again in their place, and let go when they were used.
            del self.env[node]
        self._ahead.clear()
        precision = PRECISIONS[tensor(selection.scores).dtype]
        wrong = _beyond_ties(ranked, own, unpack_graph(bits, nodes), TOLERANCES[precision].similarity)
        if wrong:
            for user in users:
                self.checked.failures[user.attention.softmax.name] = f"{wrong} links are selected by one side only"
        return pack_bits(own)

    def _selected(self, selection: Selection) -> Tensor:
        """Return what the module selects, bool[..., M, N]."""
        if selection.others is not None:
            return ~self._selected(selection.others)
        scores: Tensor = self._value(selection.scores)
        if selection.origin is None:
            assert selection.k is not None
            best = scores.topk(selection.k, dim=-1, largest=selection.largest).values
            return scores >= best[..., -1:] if selection.largest else scores <= best[..., -1:]
        origin: Tensor = self._value(selection.origin)
        if selection.marks is not None:
            return origin == selection.marks
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, origin, True)

    def _value(self, node: Node) -> Any:
        """Return a node's value, of one that is still to come, too."""
        if node not in self.env:
            for argument in node.all_input_nodes:
                self.env[argument] = self._value(argument)
            self.env[node] = super().run_node(node)
            self._ahead.append(node)
        return self.env[node]

    def _compare_results(self, replacement: Replacement, expected: Tensor) -> None:
        """Compare the operator's result with the module's, both with the module's selection."""
        computed: Tensor = self.env.pop(replacement.result)  # Nothing uses it, so that it would stay.
        finite = expected.isfinite()
        largest = float(expected[finite].abs().max()) if finite.any() else 0.0
        difference = float((computed - expected)[finite].abs().max()) if finite.any() else 0.0
        lowest = min((tensor(node).dtype for node in _operands(replacement)), key=lambda dtype: torch.finfo(dtype).bits)
        if not difference <= _ATTENTION_TOLERANCE[lowest] * largest:
            reason = f"its result differs by {difference:.1e}, of at most {largest:.1e}"
            self.checked.failures.setdefault(replacement.attention.softmax.name, reason)


#: Precision of each type that a program may compute in.
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def _operands(replacement: Replacement) -> Iterator[Node]:
    attention = replacement.attention
    yield from (attention.scores.left.node, attention.scores.right.node, attention.values.node, attention.result)


def _beyond_ties(similarity: Tensor, own: Tensor, other: Tensor, tolerance: float) -> int:
    """Count the nodes that one selection alone has, and whose similarity is not within rounding of the k-th.

    Parameters
    ----------
    similarity
        float32[..., M, N].
    own, other
        bool[..., M, N].
    tolerance
        Relative to the largest similarity of a row.
    """
    kth = similarity.masked_fill(~other, torch.inf).amin(-1, keepdim=True)
    allowed = tolerance * similarity.abs().amax(-1, keepdim=True)
    return int(((own != other) & ((similarity - kth).abs() > allowed)).sum())
