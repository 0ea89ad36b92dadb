"""Compare and force the selections of a file: top-k operators, comparisons with a threshold, and key graphs.

Two correct programs select different elements where scores nearly tie, and then differ by far more than rounding. So an
exported file's selections are read and forced on the module in PyTorch: each selection is compared by itself, and the
images with the same selections, as for networks with keygraph's operators (`plugins.torch.selection`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import KeygraphError
from ...instrumentation.exposed_session import ExposedSession
from ...parity.rounding.selections import COMPARING, RANKING, compares_scores, dim_of
from ...plugins.torch import unpack_graph
from ...plugins.torch.selection import Agreement, compare_selections, compare_top_k
from ...runtime.backends.base import Inputs
from ..functions import GRAPH_OPERATORS

_KEYGRAPH = torch.ops.keygraph

#: Comparisons of two tensors in ONNX.
COMPARISONS = ("GreaterOrEqual", "Greater", "LessOrEqual", "Less")


@dataclass(frozen=True)
class TopKSelection:
    """What one node selected.

    Attributes
    ----------
    graph
        Of a TopK node the indices, int64 of the shape of its result; of a comparison the mask, bool; of an
        operator of `functions.GRAPH_OPERATORS` the key graph, int32.
    """

    graph: NDArray[Any]


class TopKProbe:
    """An ONNX Runtime session of an exported file with the selections of its nodes exposed.

    Parameters
    ----------
    path, library, rounded
        As for `ExposedSession`.
    """

    def __init__(self, path: Path, library: Path | None, rounded: bool) -> None:
        self._session = ExposedSession(path, library, rounded)
        graph = self._session.model.graph
        constants = {weight.name for weight in graph.initializer}
        numbers = {node.output[0] for node in graph.node if _is_float(self._session, node.output[0])}
        self._selected = [n.output[1] for n in graph.node if n.op_type == "TopK" and n.output[1]]
        self._selected += [
            node.output[0]
            for node in graph.node
            if node.op_type in COMPARISONS and not constants & {*node.input} and numbers & {*node.input}
        ]
        self._selected += [node.output[0] for node in graph.node if node.op_type in GRAPH_OPERATORS]

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[TopKSelection]]:
        """Restore a batch and return every selection with the result; see `GraphProbe.record`."""
        restored, values = self._session.run(images, k, extras, self._selected)
        return restored, [TopKSelection(values[name]) for name in self._selected]


def _is_float(session: ExposedSession, name: str) -> bool:
    try:
        return bool(np.issubdtype(session.dtype(name), np.floating))
    except KeyError:
        return False


class TopKReference:
    """Runs a network of unknown architecture in PyTorch in float32; see `Reference`.

    Parameters
    ----------
    model
        The network.
    similarity
        Tolerance of scores, relative to the largest score of a row: a selected element may be further from the one that
        PyTorch selects by this.
    """

    def __init__(self, model: nn.Module, similarity: float) -> None:
        self._model, self._similarity = model, similarity

    def probe(self, path: Path, library: Path | None, rounded: bool) -> TopKProbe:
        """Open an exported file of the network, to run it and read what it selects; see `Reference.probe`."""
        return TopKProbe(path, library, rounded)

    def restore(
        self, inputs: Inputs, k: int | None, graphs: Iterable[NDArray[Any]] | None = None
    ) -> tuple[NDArray[np.float32], list[Agreement]]:
        """Restore a batch, with given selections or its own; see `Reference.restore`."""
        arguments: list[Any] = [*map(torch.from_numpy, inputs), *([] if k is None else [k])]
        # Not in inference mode, in which `argsort` is not seen as the `sort` that it is.
        with torch.no_grad():
            if graphs is None:
                return self._model(*arguments).numpy(), []
            selections = [torch.from_numpy(chosen) for chosen in graphs]
            try:
                with ForcedTopK(selections, self._similarity) as forced:
                    restored = self._model(*arguments).numpy()
                forced.check_complete()
            except UncomparableError:
                # The file selects in another way, for instance once where the module does twice. Without the file's
                # selections the images agree only where nothing ties, so nothing wrong can pass.
                return self._model(*arguments).numpy(), []
        return restored, forced.agreements


class UncomparableError(KeygraphError):
    """The selections of a file and of its module do not correspond one to one."""


class ForcedTopK(TorchDispatchMode):
    """A context in which operators select what is given; each is compared with its own choice.

    Parameters
    ----------
    selections
        For the i-th call of `topk` or `sort` the i-th tensor of int64 indices, for the i-th comparison of two tensors
        of floating point the i-th mask, for the i-th key graph or packed mask the i-th tensor of int32 words.
    tolerance
        As `similarity` of `TopKReference`.
    """

    def __init__(self, selections: Sequence[Tensor], tolerance: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        #: One comparison for each call so far.
        self.agreements: list[Agreement] = []
        self._tolerance = tolerance
        self._indices = [given for given in selections if given.dtype == torch.int64]
        self._masks = [given for given in selections if given.dtype == torch.bool]
        self._graphs = [given for given in selections if given.dtype == torch.int32]
        self._calls = {"topk or sort": 0, "comparison": 0, "key graph": 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and replace the result of a selection."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is _KEYGRAPH.key_graph.default:
            given = self._given("key graph", self._graphs, result)
            self.agreements.append(compare_selections(args[0], args[1], result, given, self._tolerance))
            return given
        if func is _KEYGRAPH.top_k_graph.default:
            given = self._given("key graph", self._graphs, result)
            self.agreements.append(compare_top_k(args[0], result, given, self._tolerance))
            return given
        if func is _KEYGRAPH.pack_graph.default:  # What it packs was compared where it was selected.
            given = self._given("key graph", self._graphs, result)
            ours, theirs = (unpack_graph(words, args[0].shape[-1]) for words in (result, given))
            self._compared(ours, theirs, int((ours != theirs).sum()))
            return given
        if func in RANKING:
            return self._forced(args[0], dim_of(func, args, kwargs), *result)
        if func in COMPARING and compares_scores(args):
            return self._forced_mask(args[0], args[1], result)
        return result

    def check_complete(self) -> None:
        """Check that every selection was used.

        Raises
        ------
        UncomparableError
            The module called the operators another number of times.
        """
        for (what, calls), given in zip(self._calls.items(), (self._indices, self._masks, self._graphs), strict=True):
            if calls != len(given):
                raise UncomparableError(
                    f"the module selects {calls} times by {what}, and the exported file {len(given)} times"
                )

    def _given(self, what: str, selections: Sequence[Tensor], own: Tensor) -> Tensor:
        """Return the selection for a call; its own after the last one, which `check_complete` reports."""
        call = self._calls[what]
        self._calls[what] += 1
        if call >= len(selections):
            return own
        if selections[call].shape != own.shape:
            raise UncomparableError(
                f"selection {call + 1} by {what} has shape {list(selections[call].shape)} in the exported file and "
                f"{list(own.shape)} in PyTorch"
            )
        return selections[call]

    def _forced(self, scores: Tensor, dim: int, values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        given = self._given("topk or sort", self._indices, indices)
        chosen = scores.gather(dim, given)
        ours, theirs = (torch.zeros_like(scores, dtype=torch.bool).scatter_(dim, i, True) for i in (indices, given))
        allowed = self._tolerance * scores.abs().amax(dim, keepdim=True)
        # Values in order, so that it does not matter in which order equal ones are.
        apart = (values.sort(dim).values - chosen.sort(dim).values).abs() > allowed
        repeated = ours.sum(dim) != theirs.sum(dim)
        self._compared(ours, theirs, int(apart.sum() + repeated.sum()))
        return chosen, given

    def _forced_mask(self, left: Tensor, right: Tensor, own: Tensor) -> Tensor:
        given = self._given("comparison", self._masks, own)
        allowed = self._tolerance * torch.maximum(left.abs(), right.abs()).amax(-1, keepdim=True)
        beyond = (own != given) & ((left - right).abs() > allowed)
        self._compared(own, given, int(beyond.sum()))
        return given

    def _compared(self, ours: Tensor, theirs: Tensor, beyond: int) -> None:
        either = int((ours | theirs).sum())
        both = int((ours & theirs).sum())
        selected = int(ours.sum())
        self.agreements.append(Agreement(both / either if either else 1.0, selected, selected - both, beyond))
