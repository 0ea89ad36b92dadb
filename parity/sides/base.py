"""The protocol of a probe: a model that runs as it does for users, and whose inner values can be read and replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...instrumentation.key_graphs import Selection
from ...integrity import Integrity
from ...manifest import Manifest
from ...runtime.backends.base import Session
from ..metrics.blocks import BlockObserver

Images = NDArray[np.float32]
Graphs = Sequence[NDArray[np.int32]]

#: Name of a block -> its inputs, as `BlockValues.inputs`.
BlockInputs = Mapping[str, Sequence[NDArray[Any]]]


class Probe(Protocol):
    """A model opened for comparison.

    A new kind of artifact needs a class with these members and a line in `open_probe`.
    """

    @property
    def name(self) -> str:
        """The name for messages and reports, usually the file."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""

    @property
    def description(self) -> str:
        """What runs: engine, version and device."""

    @property
    def integrity(self) -> Integrity | None:
        """Whether the file is still as it was exported; None for checkpoints, which are not exported."""

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of what runs, computed from the file: of ``"graph"`` and ``"weights"``, or of the ``"engine"``."""

    @property
    def notices(self) -> Sequence[str]:
        """Lines about the file for the reader of a comparison."""

    @property
    def session(self) -> Session:
        """The session behind `run`, for the tiled pipeline."""

    @property
    def tells_graphs(self) -> bool:
        """Whether `record` and `force` are supported, and their key graphs are all that the model selects."""

    @property
    def tells_blocks(self) -> bool:
        """Whether `trace` and `retrace` are supported."""

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """Restore a batch, as `Session.run` does.

        Parameters
        ----------
        images
            float32[B, C, H, W], normalised.
        k
            Neighbours of each node; None for networks without key graphs and files with a fixed k.
        extras
            The model's extra inputs, in the order of the manifest.

        Returns
        -------
        float32[B, C', H', W']
        """

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore a batch and return every selection of neighbours in the order of execution.

        Parameters
        ----------
        images, k, extras
            As for `run`.
        """

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore a batch with given key graphs; the model's own selections are returned but not used.

        Parameters
        ----------
        images, k, extras
            As for `run`.
        graphs
            One int32[B, G, M, ceil(N/32)] for each key graph, in the order of execution.
        """

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, observe: BlockObserver, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        """Restore a batch and pass every block's inputs and output to an observer.

        Parameters
        ----------
        images, k, extras
            As for `run`.
        graphs
            As for `force`; None for the model's own selections, as `record`.
        observe
            Called with each block.
        """

    def retrace(
        self,
        images: Images,
        k: int | None,
        graphs: Graphs | None,
        inputs: BlockInputs,
        observe: BlockObserver,
        *extras: Images,
    ) -> None:
        """Run as `trace` does, with the inputs of some blocks replaced, all in one run.

        Parameters
        ----------
        images, k, graphs, observe, extras
            As for `trace`.
        inputs
            What the blocks compute on in place of their own inputs.
        """
