"""The network in PyTorch, which an exported file is verified against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..instrumentation.exposed_session import ExposedSession
from ..instrumentation.metrics import TOLERANCES, psnr
from ..plugins.torch import forced_graphs, use_attention
from ..plugins.torch.selection import Agreement, TooFewGraphsError
from ..runtime.backends.base import Inputs
from .functions import DOMAIN, GRAPH_OPERATORS

#: PSNR in dB by which the fused attention must agree with the definition to be used: 10 times less error in amplitude
#: than the strictest tolerance of a file allows.
_FUSED_DB = TOLERANCES["fp32"].psnr + 20


class Selected(Protocol):
    """What one selection of a file chose: `Graph`, or `custom.top_k.TopKSelection`."""

    @property
    def graph(self) -> NDArray[Any]:
        """The choice, in the form that `AnyReference.restore` takes."""


@dataclass(frozen=True)
class Graph:
    """A graph that a file computed.

    Attributes
    ----------
    graph
        int32[B, G, M, ceil(N/32)].
    """

    graph: NDArray[np.int32]


class FileProbe(Protocol):
    """An exported file that runs with its selections exposed: `OperatorProbe`, or `custom.top_k.TopKProbe`."""

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Sequence[Selected]]:
        """Restore a batch and return every selection with the result; see `GraphProbe.record`."""


class OperatorProbe:
    """An ONNX Runtime session of an exported file with the key graphs of its nodes exposed.

    Parameters
    ----------
    path, library, rounded
        As for `ExposedSession`.
    """

    def __init__(self, path: Path, library: Path | None, rounded: bool) -> None:
        self._session = ExposedSession(path, library, rounded)
        self._graphs = [
            node.output[0]
            for node in self._session.model.graph.node
            if node.domain == DOMAIN and node.op_type in GRAPH_OPERATORS
        ]

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[Graph]]:
        """Restore a batch and return every graph, in order of execution; see `GraphProbe.record`."""
        restored, values = self._session.run(images, k, extras, self._graphs)
        return restored, [Graph(values[name]) for name in self._graphs]


class AnyReference(Protocol):
    """A network in PyTorch that files are verified against: `Reference`, or `custom.top_k.TopKReference`."""

    def probe(self, path: Path, library: Path | None, rounded: bool) -> FileProbe:
        """Open an exported file of the network, to run it and read what it selects; see `Reference.probe`."""

    def restore(
        self, inputs: Inputs, k: int | None, graphs: Iterable[NDArray[Any]] | None = None
    ) -> tuple[NDArray[np.float32], list[Agreement]]:
        """Restore a batch, with given selections or its own; see `Reference.restore`."""


class Reference:
    """Runs a network in PyTorch in float32. Each result is computed once, for every configuration that is verified.

    Attention is computed as it is defined (`mask`) for the first inputs, and with PyTorch's fused attention from then
    on, if both agreed by `_FUSED_DB`: in large windows the definition takes 4 times as long.

    Parameters
    ----------
    model
        The network.
    value_range
        Range of its images.
    similarity
        Tolerance of similarities: key graphs may differ in nodes that are closer to the k-th than this.
    """

    def __init__(self, model: nn.Module, value_range: tuple[float, float], similarity: float) -> None:
        self._model, self._value_range, self._similarity = model, value_range, similarity
        self._attention: str | None = None
        self._results: dict[bytes, tuple[NDArray[np.float32], list[Agreement]]] = {}

    def probe(self, path: Path, library: Path | None, rounded: bool) -> OperatorProbe:
        """Open an exported file of the network, to run it and read what it selects.

        Parameters
        ----------
        path
            The file.
        library
            ONNX Runtime library of keygraph's operators, or None to run the file's own functions.
        rounded
            Emulate half precision instead of using ONNX Runtime's own.
        """
        return OperatorProbe(path, library, rounded)

    def restore(
        self, inputs: Inputs, k: int | None, graphs: Iterable[NDArray[Any]] | None = None
    ) -> tuple[NDArray[np.float32], list[Agreement]]:
        """Restore a batch.

        Parameters
        ----------
        inputs
            The images and the extra inputs, as `Session.run` takes them.
        k
            Neighbours of each node; None for a network without key graphs.
        graphs
            Key graphs in place of the network's own, in order; None for its own.

        Returns
        -------
        restored : float32[B, C, H, W]
            The result.
        agreements : list of Agreement
            How each given graph agrees with the network's choice on the same features; empty for None.
        """
        forced = None if graphs is None else list(graphs)
        digest = hashlib.sha256(repr((k, forced is None)).encode())
        for values in (*inputs, *(forced or ())):
            digest.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        key = digest.digest()
        if key not in self._results:
            self._results[key] = self._computed(inputs, k, forced)
        return self._results[key]

    def _computed(
        self, inputs: Inputs, k: int | None, graphs: list[NDArray[np.int32]] | None
    ) -> tuple[NDArray[np.float32], list[Agreement]]:
        if self._attention is not None:
            return self._run(self._attention, inputs, k, graphs)
        defined = self._run("mask", inputs, k, graphs)
        self._attention = "mask"
        if k is not None:
            fused, _ = self._run("sdpa", inputs, k, graphs)
            if psnr(fused, defined[0], self._value_range) >= _FUSED_DB:
                self._attention = "sdpa"
        return defined

    def _run(
        self, attention: str, inputs: Inputs, k: int | None, graphs: list[NDArray[np.int32]] | None
    ) -> tuple[NDArray[np.float32], list[Agreement]]:
        arguments = [*map(torch.from_numpy, inputs), *([k] if k is not None else [])]
        with torch.inference_mode(), use_attention(attention):
            if graphs is None:
                return self._model(*arguments).numpy(), []
            given = [torch.from_numpy(graph) for graph in graphs]
            try:
                with forced_graphs(given, self._similarity, packed=True) as agreements:
                    restored = self._model(*arguments).numpy()
            except TooFewGraphsError:
                # A module of unknown architecture makes a graph twice, and the file once. Without the file's graphs the
                # images agree only where nothing ties, so nothing wrong can pass.
                return self._model(*arguments).numpy(), []
            return restored, list(agreements)
