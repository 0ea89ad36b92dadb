"""An exported ONNX file in ONNX Runtime as a probe."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto

from ...errors import InputError
from ...instrumentation.key_graphs import GraphProbe, Selection
from ...manifest import IMAGE_INPUT
from ...runtime.backends.onnxruntime import OnnxRuntimeSession
from ...runtime.device.spec import Device
from ...runtime.notices import warn
from ..metrics.blocks import BlockObserver, BlockValues, block_pattern
from .base import BlockInputs, Graphs, Images
from .onnx_blocks import OnnxBlock, onnx_blocks


class OnnxProbe:
    """An exported file in ONNX Runtime; see `Probe`.

    Parameters
    ----------
    path, library, device, provider, notice
        As for `OnnxRuntimeSession`. TensorRT fuses across the nodes whose values would be read, so with that provider
        neither key graphs nor blocks are available.
    name
        For messages and reports; None for the file.

    Raises
    ------
    InputError
        The file cannot be used, or its KeyGraph nodes are gone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        device: Device = Device(),  # noqa: B008 - frozen
        provider: str | None = None,
        name: str | None = None,
        notice: Callable[[str], None] = warn,
    ) -> None:
        self.name = name or os.fspath(path)
        self.session = OnnxRuntimeSession(path, library, device=device, provider=provider, notice=notice)
        self.manifest = self.session.manifest
        self.description = self.session.description
        file = self.session.file
        self.integrity, self.notices, self.digests = file.integrity, file.notices, file.digests
        self.tells_blocks = provider != "tensorrt"
        self._graphs = GraphProbe(path, library, device=device)
        self.tells_graphs = self.tells_blocks and self._graphs.complete
        if file.lost_operators:
            raise InputError(f"{path} has no KeyGraph nodes left (functions inlined?); compare the file as exported")

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """Restore a batch; see `Probe.run`."""
        return self.session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore a batch and return the selections; see `Probe.record`."""
        return self._graphs.record(images, k, *extras)

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore a batch with given key graphs; see `Probe.force`."""
        return self._graphs.force(images, k, graphs, *extras)

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, observe: BlockObserver, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        """Restore a batch and observe every block; see `Probe.trace`."""
        return self._trace(images, k, graphs, {}, observe, *extras)

    def retrace(
        self,
        images: Images,
        k: int | None,
        graphs: Graphs | None,
        inputs: BlockInputs,
        observe: BlockObserver,
        *extras: Images,
    ) -> None:
        """Observe every block with the inputs of some replaced; see `Probe.retrace`."""
        self._trace(images, k, graphs, inputs, observe, *extras)

    @property
    def model(self) -> ModelProto:
        """The file's model, with the type of every value in `value_info`; without weights in separate files."""
        return self._graphs.file.model

    @cached_property
    def _blocks(self) -> list[OnnxBlock]:
        return onnx_blocks(self._graphs.file.model, block_pattern(self.manifest))

    def _trace(
        self,
        images: Images,
        k: int | None,
        graphs: Graphs | None,
        inputs: BlockInputs,
        observe: BlockObserver,
        *extras: Images,
    ) -> tuple[Images, list[Selection]]:
        file = self._graphs.file
        replaced: dict[str, NDArray[Any]] = {
            copy: values.astype(file.dtype(copy))
            for block in self._blocks
            for copies, values in zip(block.inputs, inputs.get(block.name, ()), strict=False)
            for copy in copies
        }
        replaced |= self._graphs.overrides(graphs) if graphs is not None else {}
        names = (IMAGE_INPUT, *(extra.name for extra in self.manifest.extra_inputs))
        fed = dict(zip(names, (images, *extras), strict=True))
        wanted = {name: None for block in self._blocks for name in (block.output, *(one[0] for one in block.inputs))}
        read = [*self._graphs.observed, *(name for name in wanted if name not in fed)]
        restored, values = file.run(images, k, extras, read, replaced)
        values |= fed
        for block in self._blocks:
            block_inputs = tuple(values[copies[0]] for copies in block.inputs)
            observe(BlockValues(block.name, values[block.output], block_inputs, block.precision))
        return restored, self._graphs.selections(values)
