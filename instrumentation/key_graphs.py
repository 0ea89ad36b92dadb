"""An exported file that also tells which neighbours it chose and from what, and that can be made to use others.

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
from .exposed_session import LaidOpen


@dataclass(frozen=True)
class Selection:
    """One choice of neighbours, with what it was made from.

    Attributes
    ----------
    name
        The module that it happens in, for instance ``"body.2"``.
    query, key
        float32[B, G, M, C] and [B, G, N, C], whatever the file holds them in.
    graph
        int32[B, G, M, ceil(N/32)]; bit j mod 32 of word j div 32 says that the row attends to node j.
    """

    name: str
    query: NDArray[Any]
    key: NDArray[Any]
    graph: NDArray[np.int32]


class GraphProbe:
    """An ONNX Runtime session of an exported file, with its KeyGraph nodes laid open.

    Parameters
    ----------
    path, library, rounded, device
        As for `LaidOpen`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        rounded: bool = False,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> None:
        #: The file.
        self.file = LaidOpen(path, library, rounded, device)
        nodes = self.file.model.graph.node
        self._nodes = [node for node in nodes if (node.domain, node.op_type) == ("keygraph", "KeyGraph")]
        self._own = [node.output[0] for node in self._nodes]

    @property
    def names(self) -> list[str]:
        """The modules in which neighbours are chosen, in the order of execution."""
        return [node.name.rpartition("/")[0] or node.name or node.output[0] for node in self._nodes]

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[Selection]]:
        """Restore a batch, as `OnnxRuntimeSession.run` does, and tell every choice of neighbours."""
        restored, values = self.file.run(images, k, extras, self.told)
        return restored, self.selections(values)

    def force(
        self,
        images: NDArray[np.float32],
        k: int | None,
        graphs: Sequence[NDArray[np.int32]],
        *extras: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], list[Selection]]:
        """Restore a batch with these graphs in place of the file's own, which are told but not used."""
        restored, values = self.file.run(images, k, extras, self.told, self.replaced(graphs))
        return restored, self.selections(values)

    @property
    def told(self) -> list[str]:
        """The values that tell the choices: what they are made from (a KGT's query and key are one), and the graphs."""
        return [*dict.fromkeys(name for node in self._nodes for name in node.input[:2]), *self._own]

    def replaced(self, graphs: Sequence[NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
        """What `LaidOpen.run` is given to use these graphs."""
        return dict(zip(self._own, graphs, strict=True))

    def selections(self, values: dict[str, NDArray[Any]]) -> list[Selection]:
        """The choices, from the values that `LaidOpen.run` read."""
        return [
            Selection(
                name,
                np.asarray(values[node.input[0]], np.float32),
                np.asarray(values[node.input[1]], np.float32),
                values[node.output[0]],
            )
            for name, node in zip(self.names, self._nodes, strict=True)
        ]
