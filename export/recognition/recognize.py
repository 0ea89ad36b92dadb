"""Recognise attentions to a top-k in a program, and put the operators there."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from .attentions import Other, find_attentions
from .key_graphs import KeyGraphs
from .nodes import VALUE, Refused, module_path, operator_name, positional, sizes
from .rewriting import Replacement, add_replacement

aten = torch.ops.aten


@dataclass(frozen=True)
class Verdict:
    """What became of one attention.

    Attributes
    ----------
    module
        Path of the module that computes it, for instance ``"layers.3.attn"``; empty for the model itself.
    softmax
        Name of its softmax in the program, which is unique.
    fused
        Whether KeyGraph and KeyGraphAttention compute it now.
    packed
        Whether KeyGraphAttention computes it now, on the module's own mask, packed by PackGraph.
    k
        How many nodes each row attends to, where that is fixed and the attention is fused or packed.
    keeps_ties
        Whether the module keeps all nodes that tie with the k-th, and the operators exactly k.
    reason
        Why it is not fused; empty if it is.
    by_hand
        Whether the module calls the operators itself.
    nodes
        Nodes that are selected from, where their number is fixed.
    heads, channels
        Heads, and channels of each head's queries, if it is fused or packed.
    fills_rows
        Whether a row that selects no node attends to all nodes, if it is packed.
    """

    module: str
    softmax: str
    fused: bool
    k: int | None = None
    keeps_ties: bool = False
    reason: str = ""
    by_hand: bool = False
    packed: bool = False
    nodes: int | None = None
    heads: int | None = None
    channels: int | None = None
    fills_rows: bool = False

    def __str__(self) -> str:
        """Return the line to print."""
        place = f"`{self.module}`" if self.module else "the model"
        ties = "; of nodes that tie with the k-th, the first are kept, not all" if self.keeps_ties else ""
        if self.packed:
            empty = "attends to all nodes" if self.fills_rows else "becomes zero"
            rows = "" if self.k else f"; a row that selects no node {empty}"
            return f"{place}: packed; {self.reason}{rows}{ties}"
        if not self.fused:
            return f"{place}: {self.reason}"
        how = "fused by hand" if self.by_hand else "fused"
        return f"{place}: {how}{'' if self.k is None else f', k = {self.k}'}{ties}"


@dataclass(frozen=True)
class Recognition:
    """A program with its attentions to selected nodes computed by the operators.

    Attributes
    ----------
    program
        The rewritten program; its `range_constraints`, parameters and signature are those of the one given.
    verdicts
        One for each attention, in order of execution.
    """

    program: ExportedProgram
    verdicts: tuple[Verdict, ...]

    @property
    def fused(self) -> int:
        """How many attentions are fused."""
        return sum(verdict.fused for verdict in self.verdicts)

    @property
    def packed(self) -> int:
        """How many attentions are packed."""
        return sum(verdict.packed for verdict in self.verdicts)

    @property
    def rewritten(self) -> int:
        """How many attentions are fused or packed."""
        return self.fused + self.packed


def recognize(
    program: ExportedProgram, exclude: Mapping[str, str] | None = None, exactly_k: bool = False
) -> Recognition:
    """Find every attention to selected nodes, and compute it by KeyGraphAttention on a key graph.

    The graph is KeyGraph's where the k largest products of two tensors are selected, and else the module's own mask.

    Parameters
    ----------
    program
        After ``run_decompositions({})``; sizes may be dynamic. It is not changed.
    exclude
        Attentions to leave as they are, by the names of their softmax (`Verdict.softmax`), and why.
    exactly_k
        Select exactly k nodes also where the module keeps all that tie with the k-th, and TopKGraph can select them.

    Returns
    -------
    Recognition
        The rewritten program, also where nothing was found, and a verdict for each attention.
    """
    graph = annotated_graph(program)
    verdicts, replacements = add_operators(graph, exclude or {}, exactly_k)
    for replacement in replacements:
        replacement.attention.result.replace_all_uses_with(replacement.result)
    return Recognition(rebuilt(program, graph, replacements), tuple(verdicts))


def annotated_graph(program: ExportedProgram) -> Graph:
    """Return a copy of a program's graph whose nodes know the values of parameters, buffers and constants."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    graph.output(graph.graph_copy(program.graph, copies)).meta.update(program.graph.output_node().meta)
    for node, original in zip(graph.nodes, program.graph.nodes, strict=True):
        node.name = original.name  # The signature has the names; copying changes some, such as `input`.
    signature = program.graph_signature
    stored = {**program.constants, **program.state_dict}
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    for node in graph.nodes:
        value = stored.get(targets.get(node.name, "")) if node.op == "placeholder" else None
        if isinstance(value, Tensor):
            node.meta[VALUE] = value.detach()
    return graph


def add_operators(
    graph: Graph, exclude: Mapping[str, str], exactly_k: bool = False
) -> tuple[list[Verdict], list[Replacement]]:
    """Add the operators beside every attention that they can compute; results keep their users.

    Parameters
    ----------
    graph
        From `annotated_graph`; changed in place.
    exclude, exactly_k
        As for `recognize`.

    Returns
    -------
    verdicts : list of Verdict
        One for each attention.
    replacements : list of Replacement
        One for each that is fused or packed.
    """
    verdicts: list[Verdict] = []
    replacements: list[Replacement] = []
    graphs = KeyGraphs(graph, exactly_k)
    for found in find_attentions(graph):
        module, name = module_path(found.softmax), found.softmax.name
        if isinstance(found, Other):
            verdicts.append(Verdict(module, name, False, reason=found.reason, nodes=_nodes(found.softmax)))
            continue
        if name in exclude:
            verdicts.append(Verdict(module, name, False, reason=exclude[name], nodes=_nodes(found.softmax)))
            continue
        try:
            replacements.append(add_replacement(graph, found, graphs))
        except Refused as reason:
            verdicts.append(Verdict(module, name, False, reason=str(reason), nodes=_nodes(found.softmax)))
            continue
        nodes, heads, channels = operator_sizes(replacements[-1].operator)
        k, keeps_ties = found.masks[0].selection.k, found.masks[0].selection.keeps_ties
        if found.ranking is not None:
            verdicts.append(Verdict(module, name, True, k, keeps_ties, nodes=nodes, heads=heads, channels=channels))
        else:
            fixed = k if len(found.masks) == 1 else None
            exact = fixed is not None and keeps_ties and found.masks[0].selection.is_top_k and exactly_k
            verdict = Verdict(
                module, name, False, fixed, exact, reason=found.reason, packed=True, fills_rows=found.fills_rows
            )
            verdicts.append(replace(verdict, nodes=nodes, heads=heads, channels=channels))
    return verdicts, replacements


def operator_sizes(operator: Node) -> tuple[int | None, int | None, int | None]:
    """Return the nodes, heads and channels of a KeyGraphAttention, as the attributes of `Verdict`."""
    q, k, _, _, _, _, heads_last = positional(operator)
    channels, nodes = sizes(q)[-1], sizes(k)[-2]
    heads = heads_last or sizes(q)[1]
    if heads_last and isinstance(channels, int):
        channels //= heads_last
    return _fixed(nodes), _fixed(heads), _fixed(channels)


def _fixed(size: Any) -> int | None:
    """Return a size; None where it depends on the image's size."""
    return size if isinstance(size, int) else None


def _nodes(softmax: Node) -> int | None:
    """Return the number of nodes that a softmax weighs, if it is fixed."""
    return _fixed(sizes(softmax)[-1]) if operator_name(softmax) == "softmax" else None


def rebuilt(
    program: ExportedProgram, graph: Graph, replacements: Collection[Replacement], added: Sequence[Node] = ()
) -> ExportedProgram:
    """Return a program with another graph of the same inputs and outputs.

    Parameters
    ----------
    program
        The program.
    graph
        From `annotated_graph`, changed.
    replacements
        Attentions whose results nothing uses any more.
    added
        Placeholders that were added after all others: more inputs.
    """
    signature = copy.deepcopy(program.graph_signature)
    calls, examples = program.module_call_graph, program.example_inputs
    if added:
        inputs = [TensorArgument(node.name) for node in added]
        signature.input_specs.extend(InputSpec(InputKind.USER_INPUT, each, None) for each in inputs)
        whole, *parts = calls
        call = whole.signature
        assert call is not None
        arguments, named = pytree.tree_unflatten([0] * call.in_spec.num_leaves, call.in_spec)
        call = replace(
            call,
            inputs=[*call.inputs, *inputs],
            in_spec=pytree.tree_structure(((*arguments, *[0] * len(added)), named)),
            forward_arg_names=None,
        )
        calls = [replace(whole, signature=call), *parts]
        given, named = examples
        more = (torch.ones(node.meta["val"].shape, dtype=node.meta["val"].dtype) for node in added)
        examples = (*given, *more), named
    for replacement in replacements:
        signature.replace_all_uses(replacement.attention.result.name, replacement.result.name)
    for node in list(graph.nodes):
        node.meta.pop(VALUE, None)
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)  # Types do not depend on the image; as a user it would keep unused masks.
            continue
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # The operators' results may have other strides than what they replace.
    for replacement in replacements:
        graph.erase_node(replacement.attention.result)  # PyTorch's own attention counts as random, and would stay.
    graph.eliminate_dead_code()
    module = GraphModule(program.graph_module, graph)
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=calls,
        example_inputs=examples,
        constants=program.constants,
        verifiers=program.verifiers,
    )
