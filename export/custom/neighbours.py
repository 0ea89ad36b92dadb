"""k as an input of the file, where all attentions of a network of unknown architecture attend to the same number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from ...errors import InputError
from ...manifest import Neighbours
from ..recognition import Verdict, annotated_graph, k_of, rebuilt

#: Operator of key graphs -> the place of its argument k, and which argument has the nodes, in which dimension.
_MAKERS = {torch.ops.keygraph.key_graph.default: (1, -2), torch.ops.keygraph.top_k_graph.default: (0, -1)}
#: What selects, or finds a k-th value, by a k of its own.
_SELECTING = ("topk", "sort", "kthvalue")

#: What to do with nodes that tie with the k-th, where a network keeps them all; see `offered_k`.
TIES = ("keep", "k")


def check_tie(tie: str) -> None:
    """Check the option.

    Raises
    ------
    InputError
        It is none of `TIES`.
    """
    if tie not in TIES:
        raise InputError(
            f"--tie is {tie!r:.40}; give keep, or k: exactly k nodes are selected, also where more tie with the k-th"
        )


def offered_k(
    program: ExportedProgram, verdicts: Sequence[Verdict], tie: str, global_statistics: bool = False
) -> tuple[Neighbours | None, list[str]]:
    """Return the choice of k that a file of a program can offer, and a line that says so, or why it offers none.

    Parameters
    ----------
    program
        From `recognition`, with the attentions computed by the operators.
    verdicts
        On its attentions.
    tie
        ``"keep"``: a network that keeps the nodes that tie with the k-th keeps its k; ``"k"``: k becomes an input all
        the same.
    global_statistics
        Whether the network has some; its exact tiles need a file that takes the image alone.

    Returns
    -------
    neighbours : Neighbours or None
        None where k stays what it is.
    lines : list of str
        Empty where no attention is to k nodes.
    """
    makers = [node for node in program.graph.nodes if node.target in _MAKERS]
    if not makers:
        return None, []
    counts = {k_of(node) for node in makers}
    numbers = sorted(count for count in counts if count is not None)
    fixed = "k stays fixed: "
    if None in counts:
        return None, [f"{fixed}the network computes it"]
    if len(numbers) > 1:
        return None, [f"{fixed}its attentions are to different numbers of nodes, {', '.join(map(str, numbers))}"]
    tied = [verdict.module for verdict in verdicts if verdict.keeps_ties]
    if tied and tie == "keep":
        return None, [
            f"{fixed}`{tied[0]}` keeps all nodes that tie with the k-th; --tie k makes it an input all the same"
        ]
    if any(_selects(node) for node in program.graph.nodes):
        ties = "; where that is a threshold, --tie k makes exactly k of it" if tie == "keep" else ""
        return None, [f"{fixed}the network also selects in a way that the operators do not compute{ties}"]
    sizes = [size for size in map(_nodes, makers) if size is not None]
    if len(sizes) < len(makers):
        return None, [f"{fixed}how many nodes there are to choose from depends on the image's size"]
    most, k = min(sizes), numbers[0]
    if global_statistics:
        return None, [f"{fixed}the network has statistics over the whole image, and exact tiles take the image alone"]
    if k > most:
        return None, [f"{fixed}it is {k}, more than there are nodes"]
    lines = [f"k is an input of the file: 1 to {most}, {k} by default (restore --k); the network itself has k = {k}"]
    if tied:
        lines.append("of nodes that tie with the k-th, exactly k are kept, not all as in the network: --tie k")
    return Neighbours(default=k, maximum=most, trained=(k,)), lines


def _selects(node: Node) -> bool:
    return node.op == "call_function" and str(node.target).removeprefix("aten.").partition(".")[0] in _SELECTING


def _nodes(maker: Node) -> int | None:
    """Return from how many nodes a row selects; None where that depends on the image."""
    place, dim = _MAKERS[maker.target]  # type: ignore[index]
    source = maker.args[place]
    assert isinstance(source, Node)
    size = source.meta["val"].shape[dim]
    return size if isinstance(size, int) else None


def with_k(program: ExportedProgram, neighbours: Neighbours | None) -> ExportedProgram:
    """Return a program that takes k as its last input, or that has the k of a file with a fixed one.

    Parameters
    ----------
    program
        One for which `offered_k` offers a choice; any other one is returned as it is.
    neighbours
        Those of the file's manifest.
    """
    if neighbours is None:
        return program
    graph = annotated_graph(program)
    makers = [node for node in graph.nodes if node.target in _MAKERS]
    first = next(node for node in graph.nodes if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor))
    mode = first.meta["val"].fake_mode
    if not neighbours.runtime:
        for maker in makers:
            with graph.inserting_before(maker):
                k = graph.call_function(torch.ops.aten.full.default, ([1], neighbours.default), {"dtype": torch.int64})
            with mode:
                k.meta["val"] = torch.full([1], neighbours.default, dtype=torch.int64)
            maker.args = (*maker.args[:-1], k)
        return rebuilt(program, graph, ())
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        chosen = graph.placeholder("k")
    with mode:
        chosen.meta["val"] = torch.full([1], neighbours.default, dtype=torch.int64)
    for maker in makers:
        maker.args = (*maker.args[:-1], chosen)
    return rebuilt(program, graph, (), added=(chosen,))


class WithK(nn.Module):
    """A network of unknown architecture as `verify` calls all networks with key graphs: with the images and k.

    Parameters
    ----------
    program
        From `with_k`.
    neighbours
        Those of the file's manifest.
    """

    def __init__(self, program: ExportedProgram, neighbours: Neighbours) -> None:
        super().__init__()
        self._network = program.module(check_guards=False)
        self._runtime = neighbours.runtime

    def forward(self, images: Tensor, k: int) -> Tensor:
        """Restore a batch."""
        restored: Tensor = self._network(images, torch.tensor([k])) if self._runtime else self._network(images)
        return restored
