"""Verify fused attentions: each on the q, k and v of real runs, and the rewritten program against the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Interpreter, Node

from ...errors import KeygraphError
from ...instrumentation.metrics import TOLERANCES, psnr
from ...instrumentation.synthetic import synthetic_image
from ...plugins.torch import forced_graphs, unpack_graph
from ...plugins.torch.graph_bits import pack_bits
from ...runtime.preprocess.padding import round_up
from .nodes import VALUE, positional, tensor
from .recognize import Recognition, add_operators, annotated_graph, recognize
from .rewriting import Replacement
from .selections import Selection

_KEY_GRAPH = torch.ops.keygraph.key_graph.default
_TOP_K_GRAPH = torch.ops.keygraph.top_k_graph.default
_KEY_GRAPHS = (_KEY_GRAPH, _TOP_K_GRAPH, torch.ops.keygraph.pack_graph.default)

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


def recognize_verified(
    program: ExportedProgram,
    module: nn.Module,
    cases: Sequence[Case],
    value_range: tuple[float, float],
    progress: Callable[[str], None] = lambda _step: None,
    calls: Sequence[int] | None = None,
    exactly_k: bool = False,
) -> Recognition:
    """Recognise attentions as `recognize` does, and keep those that compute what the module computes.

    Parameters
    ----------
    program
        As for `recognize`.
    module
        What it was exported from, unmodified.
    cases
        Inputs to run, for instance `verification_cases`.
    value_range
        Smallest and largest value of the results, for the PSNR.
    progress
        Called with a line before each step.
    calls
        If the module calls the operators itself: for each call of `key_graph`, which of the program's key graphs it is
        (`by_hand`). Else None.
    exactly_k
        As for `recognize`.

    Returns
    -------
    Recognition
        An attention that failed is not fused, and its verdict says why.

    Raises
    ------
    KeygraphError
        The program given, with nothing fused, differs from the module.
    """
    checked: list[Checked] = []
    failures: dict[str, str] = {}
    for case in cases:
        progress(f"checking attentions on {case.name}")
        checked.append(check_attentions(program, case, exactly_k=exactly_k))
        for name, reason in checked[-1].failures.items():
            failures.setdefault(name, f"its verification failed on {case.name}: {reason}")
    recognition = recognize(program, failures, exactly_k)
    if not recognition.rewritten and calls is None:
        return recognition
    for case, found in zip(cases, checked, strict=True):
        progress(f"comparing with the module on {case.name}")
        if failures:
            found = check_attentions(program, case, failures, exactly_k)
        wrong = _difference(recognition.program, module, case, found, calls or (), value_range)
        if wrong is not None:
            if not recognition.rewritten:
                raise KeygraphError(f"the network as it was traced, on {case.name}, {wrong}; no file was written")
            names = [verdict.softmax for verdict in recognition.verdicts if verdict.fused or verdict.packed]
            reason = f"the network's result on {case.name} {wrong}"
            return recognize(program, failures | dict.fromkeys(names, reason), exactly_k)
    return recognition


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
    by_hand = {node for node in graph.nodes if node.target in _KEY_GRAPHS}
    _, replacements = add_operators(graph, exclude or {}, exactly_k)
    probe = _Probe(GraphModule(program.graph_module, graph), replacements, by_hand)
    with torch.no_grad():
        probe.run(*_placed(graph, case))
    return probe.checked


def _placed(graph: Graph, case: Case) -> list[Tensor]:
    """Return the values of a graph's placeholders: parameters, and a case's inputs."""
    inputs = iter(case.inputs)
    return [
        node.meta[VALUE] if VALUE in node.meta else next(inputs) for node in graph.nodes if node.op == "placeholder"
    ]


class _Probe(Interpreter):
    """Runs a program that has the operators beside the module's own attentions, and compares the two."""

    def __init__(self, module: GraphModule, replacements: Sequence[Replacement], by_hand: Set[Node]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.checked = Checked()
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
        precision = _PRECISIONS[tensor(selection.scores).dtype]
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
        return self.env[node]

    def _compare_results(self, replacement: Replacement, expected: Tensor) -> None:
        """Compare the operator's result with the module's, both with the module's selection."""
        computed: Tensor = self.env[replacement.result]
        finite = expected.isfinite()
        largest = float(expected[finite].abs().max()) if finite.any() else 0.0
        difference = float((computed - expected)[finite].abs().max()) if finite.any() else 0.0
        lowest = min((tensor(node).dtype for node in _operands(replacement)), key=lambda dtype: torch.finfo(dtype).bits)
        if not difference <= _ATTENTION_TOLERANCE[lowest] * largest:
            reason = f"its result differs by {difference:.1e}, of at most {largest:.1e}"
            self.checked.failures.setdefault(replacement.attention.softmax.name, reason)


_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


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


class _Forced(Interpreter):
    """Runs a program with given key graphs."""

    def __init__(self, module: GraphModule, graphs: Sequence[Tensor]) -> None:
        super().__init__(module)
        self._graphs = iter(graphs)

    def run_node(self, n: Node) -> Any:
        """Run a node as `Interpreter` does; a key graph gives the next one of those given."""
        return next(self._graphs) if n.target in _KEY_GRAPHS else super().run_node(n)


def _difference(
    program: ExportedProgram,
    module: nn.Module,
    case: Case,
    checked: Checked,
    calls: Sequence[int],
    value_range: tuple[float, float],
) -> str | None:
    """Compare a rewritten program with the module, with the module's selections; return what is wrong."""
    tolerance = TOLERANCES[_lowest_precision(program)]
    graph = annotated_graph(program)
    with torch.no_grad():
        with forced_graphs([checked.by_hand[call] for call in calls], tolerance.similarity):
            expected = module(*case.inputs)
        (computed,) = _Forced(GraphModule(program.graph_module, graph), checked.graphs).run(*_placed(graph, case))
    if not torch.isfinite(expected).all():
        return None if torch.equal(torch.isfinite(expected), torch.isfinite(computed)) else "is not finite"
    decibels = psnr(computed.float().numpy(), expected.float().numpy(), value_range)
    return None if decibels >= tolerance.psnr else f"is only {decibels:.1f} dB from the module's"


def _lowest_precision(program: ExportedProgram) -> str:
    """Return the lowest precision that a program computes in."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    types = {value.dtype for value in values if isinstance(value, Tensor)} & set(_PRECISIONS)
    return _PRECISIONS[min(types, key=lambda dtype: (torch.finfo(dtype).bits, dtype == torch.float16))]
