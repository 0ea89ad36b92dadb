"""A TensorRT engine as a probe."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from ...runtime.device.spec import Device
from ...runtime.notices import warn
from ..metrics.blocks import BlockObserver
from .base import BlockInputs, Graphs, Images


class EngineProbe:
    """A TensorRT engine; see `Probe`. Its layers are fused, so neither key graphs nor blocks are available.

    Parameters
    ----------
    path, device, notice
        As for `TensorRtSession`.
    name
        For messages and reports; None for the file.
    """

    tells_graphs = tells_blocks = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: Device,
        name: str | None = None,
        notice: Callable[[str], None] = warn,
    ) -> None:
        from ...runtime.backends.tensorrt import TensorRtSession

        self.name = name or os.fspath(path)
        self.session = TensorRtSession(path, device, notice=notice)
        self.manifest = self.session.manifest
        self.description = self.session.description
        metadata = self.session.metadata
        self.integrity, self.notices = metadata.integrity, metadata.notices
        self.digests = {"engine": metadata.engine_sha256}

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """Restore a batch; see `Probe.run`."""
        return self.session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> NoReturn:
        """Raise NotImplementedError; see `tells_graphs`."""
        raise NotImplementedError(f"{self.name}: an engine exposes no key graphs")

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> NoReturn:
        """Raise NotImplementedError: `tells_graphs` is false; see `Probe.force`."""
        raise NotImplementedError(f"{self.name}: key graphs cannot be forced on an engine")

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, observe: BlockObserver, *extras: Images
    ) -> NoReturn:
        """Raise NotImplementedError: `tells_blocks` is false; see `Probe.trace`."""
        raise NotImplementedError(f"{self.name}: an engine exposes no block outputs")

    def retrace(
        self,
        images: Images,
        k: int | None,
        graphs: Graphs | None,
        inputs: BlockInputs,
        observe: BlockObserver,
        *extras: Images,
    ) -> NoReturn:
        """Raise NotImplementedError: `tells_blocks` is false; see `Probe.retrace`."""
        raise NotImplementedError(f"{self.name}: block inputs of an engine cannot be replaced")
