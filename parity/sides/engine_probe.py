"""A TensorRT engine, or an ONNX file in OpenVINO, as a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..metrics.blocks import BlockObserver
from .base import BlockInputs, Graphs, Images

if TYPE_CHECKING:
    from ...runtime.backends.base import Session
    from ...runtime.backends.engine_metadata import EngineMetadata
    from ...runtime.backends.onnx_file import OnnxFile


class EngineProbe:
    """A model that an engine has compiled; see `Probe`. Layers are fused: neither key graphs nor blocks are available.

    Parameters
    ----------
    session
        The model.
    file
        What is known of its file.
    name
        For messages and reports.
    """

    tells_graphs = tells_blocks = False

    def __init__(self, session: Session, file: EngineMetadata | OnnxFile, name: str) -> None:
        self.name, self.session = name, session
        self.manifest = session.manifest
        self.description = session.description
        self.integrity, self.notices, self.digests = file.integrity, file.notices, file.digests

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
