"""Compare and force the selections of top-k operators.

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
from ...plugins.torch.selection import Agreement
from ...runtime.backends.base import Inputs

_ATEN = torch.ops.aten

#: PyTorch's operators that ONNX has as TopK, with the place of their argument `dim`.
_OPERATORS = {_ATEN.topk.default: 2, _ATEN.sort.default: 1, _ATEN.sort.stable: 2}


@dataclass(frozen=True)
class TopKSelection:
    """The indices that one TopK node selected, int64 of the shape of its result."""

    graph: NDArray[Any]


class TopKProbe:
    """An ONNX Runtime session of an exported file with the indices of its TopK nodes exposed.

    Parameters
    ----------
    path, library, rounded
        As for `ExposedSession`.
    """

    def __init__(self, path: Path, library: Path | None, rounded: bool) -> None:
        self._session = ExposedSession(path, library, rounded)
        self._indices = [n.output[1] for n in self._session.model.graph.node if n.op_type == "TopK" and n.output[1]]

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[TopKSelection]]:
        """Restore a batch and return every selection with the result; see `GraphProbe.record`."""
        restored, values = self._session.run(images, k, extras, self._indices)
        return restored, [TopKSelection(values[name]) for name in self._indices]


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
        arguments = [torch.from_numpy(values) for values in inputs]
        with torch.inference_mode():
            if graphs is None:
                return self._model(*arguments).numpy(), []
            with ForcedTopK([torch.from_numpy(indices) for indices in graphs], self._similarity) as forced:
                restored = self._model(*arguments).numpy()
        forced.check_complete()
        return restored, forced.agreements


class ForcedTopK(TorchDispatchMode):
    """A context in which the i-th call of `topk` or `sort` selects what is given, and is compared with its own choice.

    Parameters
    ----------
    selections
        int64 indices, one tensor for each call.
    tolerance
        As `similarity` of `TopKReference`.
    """

    def __init__(self, selections: Sequence[Tensor], tolerance: float) -> None:
        super().__init__()
        #: One comparison for each call so far.
        self.agreements: list[Agreement] = []
        self._selections, self._tolerance = selections, tolerance
        self._calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and replace the result of a selection."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in _OPERATORS:
            return result
        place = _OPERATORS[func]
        dim = args[place] if len(args) > place else kwargs.get("dim", -1)
        return self._forced(args[0], dim, *result)

    def check_complete(self) -> None:
        """Check that every selection was used.

        Raises
        ------
        KeygraphError
            The module called the operators another number of times.
        """
        if self._calls != len(self._selections):
            raise KeygraphError(
                f"the module selects {self._calls} times with topk or sort, and the exported file "
                f"{len(self._selections)} times"
            )

    def _forced(self, scores: Tensor, dim: int, values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        self._calls += 1
        if self._calls > len(self._selections):
            return values, indices
        given = self._selections[self._calls - 1]
        if given.shape != indices.shape:
            raise KeygraphError(
                f"selection {self._calls} has shape {list(given.shape)} in the exported file and "
                f"{list(indices.shape)} in PyTorch"
            )
        chosen = scores.gather(dim, given)
        ours, theirs = (torch.zeros_like(scores, dtype=torch.bool).scatter_(dim, i, True) for i in (indices, given))
        allowed = self._tolerance * scores.abs().amax(dim, keepdim=True)
        # Values in order, so that it does not matter in which order equal ones are.
        apart = (values.sort(dim).values - chosen.sort(dim).values).abs() > allowed
        repeated = ours.sum(dim) != theirs.sum(dim)
        either = int((ours | theirs).sum())
        self.agreements.append(
            Agreement(
                jaccard=int((ours & theirs).sum()) / either if either else 1.0,
                selected=int(ours.sum()),
                different=int((ours & ~theirs).sum()),
                beyond_tolerance=int(apart.sum() + repeated.sum()),
            )
        )
        return chosen, given
