"""What a network selects by its scores, recorded and forced: top-k, sorting, argmax, comparisons and key graphs.

Two correct programs select different elements where scores nearly tie, and their results then differ by far more than
rounding. So runs are compared with the same selections, and what near ties do is measured by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...plugins.torch.operators import graph_observer

_ATEN, _KEYGRAPH = torch.ops.aten, torch.ops.keygraph
_KEY_GRAPH, _PACK_GRAPH = _KEYGRAPH.key_graph.default, _KEYGRAPH.pack_graph.default

#: Operators that return elements and their indices -> place of their argument `dim`.
RANKING = {_ATEN.topk.default: 2, _ATEN.sort.default: 1, _ATEN.sort.stable: 2}

#: The same for the largest or smallest element alone, whose dimension may be left out of the result.
_EXTREME = {_ATEN.max.dim: 1, _ATEN.min.dim: 1}

_INDEX = (_ATEN.argmax.default, _ATEN.argmin.default)

#: Comparisons of two tensors, such as of scores with their k-th largest; and those with a constant.
COMPARING = (_ATEN.ge.Tensor, _ATEN.gt.Tensor, _ATEN.le.Tensor, _ATEN.lt.Tensor)
_COMPARING_CONSTANT = (_ATEN.ge.Scalar, _ATEN.gt.Scalar, _ATEN.le.Scalar, _ATEN.lt.Scalar)

#: Operators that return a key graph -> how many of their first arguments are scores, or features of scores.
GRAPHS = {
    _KEY_GRAPH: 2,
    _PACK_GRAPH: 2,
    _KEYGRAPH.top_k_graph.default: 1,
}


@dataclass(frozen=True)
class Scores:
    """What one operator selects by.

    Attributes
    ----------
    values
        Its scores, or the features whose product they are; empty where they are no numbers of floating point, such as
        a mask, whose elements were selected before.
    select
        Returns what it selects by other values of the same shapes.
    """

    values: tuple[NDArray[Any], ...]
    select: Callable[[Sequence[NDArray[Any]]], NDArray[Any]]


#: Called with what each operator selects by, in the order of execution.
ScoresObserver = Callable[[Scores], None]


class Selections(TorchDispatchMode):
    """A context in which operators select what is given, or for themselves.

    Parameters
    ----------
    given
        In the order of execution for each kind: int64 indices, bool masks, int32 key graphs. At the end of a kind's
        selections, operators select for themselves.
    observe
        Called with what each selects by; None to leave that out.
    """

    def __init__(self, given: Sequence[Tensor] = (), observe: ScoresObserver | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        #: What was selected, in the form of `given`.
        self.chosen: list[Tensor] = []
        kinds = (torch.int64, torch.bool, torch.int32)
        self._given = {kind: iter([one for one in given if one.dtype == kind]) for kind in kinds}
        self._observe = observe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and replace the result of a selection by what is given."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = _scores_of(func, args)
        if count is None:
            return result
        own = chosen_of(func, result)
        given = next(self._given[own.dtype], own)
        if given.shape != own.shape:
            given = own
        # Copies, because a network may change what it selected in place.
        self.chosen.append(given.clone())
        if self._observe is not None:
            self._observe(_scores(func, args, kwargs, count, own.dtype))
        return result if given is own else forced_result(func, args, kwargs, given.clone())


def forced_result(func: Any, args: Any, kwargs: Any, given: Tensor) -> Any:
    """Return the result of an operator that selects what is given.

    Parameters
    ----------
    func, args, kwargs
        The operator and its arguments.
    given
        Indices, a mask or a key graph.
    """
    if func in RANKING:
        return args[0].gather(dim_of(func, args, kwargs), given), given
    if func in _EXTREME:
        dim = dim_of(func, args, kwargs)
        if given.dim() == args[0].dim():
            return args[0].gather(dim, given), given
        return args[0].gather(dim, given.unsqueeze(dim)).squeeze(dim), given
    return given


def dim_of(func: Any, args: Any, kwargs: Any) -> int:
    """Return the dimension along which an operator selects.

    Parameters
    ----------
    func, args, kwargs
        One that returns elements and their indices, and its arguments.
    """
    place = (RANKING | _EXTREME)[func]
    dim: int = args[place] if len(args) > place else kwargs.get("dim", -1)
    return dim


def compares_scores(arguments: Sequence[Tensor]) -> bool:
    """Return whether both sides of a comparison are scores, not a constant."""
    return all(one.is_floating_point() and one.numel() > 1 for one in arguments)


def _scores_of(func: Any, args: Any) -> int | None:
    """Return how many of an operator's first arguments are what it selects by; None if it selects nothing."""
    if func in RANKING or func in _EXTREME or func in _INDEX:
        return 1
    # A threshold that is one number selects as well, though files do not tell its mask (`compares_scores`).
    if func in COMPARING and all(one.is_floating_point() for one in args[:2]) and max(map(Tensor.numel, args[:2])) > 1:
        return 2
    if func in _COMPARING_CONSTANT and args[0].is_floating_point() and args[0].numel() > 1:
        return 1
    return GRAPHS.get(func)


def chosen_of(func: Any, result: Any) -> Tensor:
    """Return what an operator selected, given its result."""
    chosen: Tensor = result[1] if func in RANKING or func in _EXTREME else result
    return chosen


def _scores(func: Any, args: Any, kwargs: Any, count: int, kind: torch.dtype) -> Scores:
    """Return what a call selects by; `kind` is the type of what it selects."""
    scores, others = args[:count], args[count:]
    if not all(isinstance(one, Tensor) and one.is_floating_point() for one in scores):
        own = torch.empty(0, dtype=kind).numpy()  # Of another shape, so that it selects for itself.
        return Scores((), lambda _values: own)
    dtype = torch.float32 if func is _PACK_GRAPH else torch.float64  # All other operators take it.

    def select(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        given = [torch.from_numpy(np.asarray(one)).to(dtype) for one in values]
        found: NDArray[Any] = chosen_of(func, func(*given, *others, **kwargs)).numpy()
        return found

    numbers = (one if one.dtype in (torch.float32, torch.float64) else one.float() for one in scores)
    return Scores(tuple(one.detach().numpy() for one in numbers), select)


@contextmanager
def selecting(
    given: Sequence[NDArray[Any]] | None, used: list[NDArray[Any]], observe: ScoresObserver | None
) -> Iterator[None]:
    """Force what a network of any code selects inside the ``with`` block.

    Parameters
    ----------
    given
        As for `Selections`; None for the network's own.
    used
        Gains the selections.
    observe
        As for `Selections`.
    """
    with Selections([*map(torch.from_numpy, given or ())], observe) as selections:
        yield
    used += [one.numpy() for one in selections.chosen]


@contextmanager
def selecting_graphs(
    given: Sequence[NDArray[Any]] | None, used: list[NDArray[Any]], observe: ScoresObserver | None
) -> Iterator[None]:
    """Do what `selecting` does, for a network that selects by `key_graph` alone.

    Parameters
    ----------
    given, used, observe
        As for `selecting`.
    """

    def force(query: Tensor, key: Tensor, graph: Tensor) -> Tensor:
        used.append(graph.numpy() if given is None else given[len(used)])
        if observe is not None:
            kept = int(np.unpackbits(used[-1][0, 0, 0].view(np.uint8)).sum())
            outside = graph_observer.set(None)  # It selects again.
            observe(_scores(_KEY_GRAPH, (query, key, torch.tensor([kept])), {}, 2, graph.dtype))
            graph_observer.reset(outside)
        return torch.from_numpy(used[-1])

    token = graph_observer.set(force)
    try:
        yield
    finally:
        graph_observer.reset(token)
