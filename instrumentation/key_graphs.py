"""Run an exported ONNX file and record, or override, its key graphs.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.device.spec import Device
from .exposed_session import ExposedSession


@dataclass(frozen=True)
class Selection:
    """One key graph, with the query and key that it was computed from.

    Attributes
    ----------
    name
        Name of the module, for instance ``"body.2"``.
    query, key
        float32[B, G, M, C] and float32[B, G, N, C], converted from the file's dtype.
    graph
        int32[B, G, M, ceil(N/32)]; bit j mod 32 of word j div 32 is set if the row attends to node j.
    """

    name: str
    query: NDArray[Any]
    key: NDArray[Any]
    graph: NDArray[np.int32]


class GraphProbe:
    """An ONNX Runtime session of an exported file with the tensors of its KeyGraph nodes exposed.

    Parameters
    ----------
    path, library, rounded, device
        As for `ExposedSession`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        rounded: bool = False,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> None:
        #: The session.
        self.file = ExposedSession(path, library, rounded, device)
        nodes = self.file.model.graph.node
        self._nodes = [node for node in nodes if (node.domain, node.op_type) == ("keygraph", "KeyGraph")]
        self._own = [node.output[0] for node in self._nodes]
        others = {("keygraph", "PackGraph"), ("keygraph", "TopKGraph")}
        #: Whether no other operator makes a key graph: of a mask or scores, of which nothing is read here.
        self.complete = not any((node.domain, node.op_type) in others for node in nodes)

    @property
    def names(self) -> list[str]:
        """Names of the modules that compute key graphs, in order of execution."""
        return [node.name.rpartition("/")[0] or node.name or node.output[0] for node in self._nodes]

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[Selection]]:
        """Restore a batch, as `OnnxRuntimeSession.run` does, and return every key graph with the result."""
        restored, values = self.file.run(images, k, extras, self.observed)
        return restored, self.selections(values)

    def force(
        self,
        images: NDArray[np.float32],
        k: int | None,
        graphs: Sequence[NDArray[np.int32]],
        *extras: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], list[Selection]]:
        """Restore a batch with given key graphs.

        Parameters
        ----------
        images, k, extras
            As for `OnnxRuntimeSession.run`.
        graphs
            int32[B, G, M, ceil(N/32)] for each of `names`; they replace the graphs that the file computes.

        Returns
        -------
        restored : float32[B, out_channels, H * scale, W * scale]
            The result.
        selections : list of Selection
            The key graphs that the file computed, which were not used.
        """
        restored, values = self.file.run(images, k, extras, self.observed, self.overrides(graphs))
        return restored, self.selections(values)

    @property
    def observed(self) -> list[str]:
        """Names of the tensors that `selections` needs: queries and keys (one tensor in a KGT), and graphs."""
        return [*dict.fromkeys(name for node in self._nodes for name in node.input[:2]), *self._own]

    def overrides(self, graphs: Sequence[NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
        """Return the `overrides` of `ExposedSession.run` for these graphs."""
        return dict(zip(self._own, graphs, strict=True))

    def selections(self, values: dict[str, NDArray[Any]]) -> list[Selection]:
        """Return the key graphs from the values that `ExposedSession.run` returned for `observed`."""
        return [
            Selection(
                name,
                np.asarray(values[node.input[0]], np.float32),
                np.asarray(values[node.input[1]], np.float32),
                values[node.output[0]],
            )
            for name, node in zip(self.names, self._nodes, strict=True)
        ]
