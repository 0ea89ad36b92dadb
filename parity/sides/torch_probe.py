"""A checkpoint in PyTorch as a probe."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...instrumentation.key_graphs import Selection
from ...models import LoadedModel
from ...plugins.torch.operators import graph_observer
from ...runtime.backends.pytorch import TorchSession
from ...runtime.device.spec import Device
from ..metrics.blocks import BlockObserver, block_pattern
from . import torch_blocks
from .base import BlockInputs, Graphs, Images

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchProbe:
    """A checkpoint in PyTorch; see `Probe`.

    Parameters
    ----------
    model
        From `models.load_checkpoint`; for a precision other than fp32 its module is converted in place.
    precision
        ``"fp32"``, ``"fp16"`` or ``"bf16"``: of all weights and features.
    device
        Where it runs; None for the CPU.
    name
        For messages and reports; None for the file.
    """

    tells_graphs = tells_blocks = True
    integrity = None
    notices: Sequence[str] = ()

    def __init__(
        self,
        model: LoadedModel,
        precision: str = "fp32",
        device: Device | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or str(model.source)
        self.manifest = dataclasses.replace(model.manifest(), precision=precision)
        self.digests = {"weights": self.manifest.weights_sha256}
        self._stored = copy.deepcopy(model.module) if precision != "fp32" else model.module
        self._module = model.module.to(_DTYPES[precision])
        self.session = TorchSession(self._module, self.manifest, device=device)
        self.description = self.session.description

    def float32_module(self) -> torch.nn.Module:
        """Return the network with its weights as they were loaded, float32 on the CPU."""
        own = next(self._stored.parameters(), torch.empty(0))
        return self._stored if own.device.type == "cpu" else copy.deepcopy(self._stored).cpu()

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """Restore a batch; see `Probe.run`."""
        return self.session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore a batch and return the selections; see `Probe.record`."""
        return self._run((images, k, *extras), None)

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore a batch with given key graphs; see `Probe.force`."""
        return self._run((images, k, *extras), graphs)

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, observe: BlockObserver, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        """Restore a batch and observe every block; see `Probe.trace`."""
        with torch_blocks.observed(self._module, block_pattern(self.manifest), observe):
            return self._run((images, k, *extras), graphs)

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
        with torch_blocks.replaced_inputs(self._module, inputs):
            self.trace(images, k, graphs, observe, *extras)

    def _run(self, arguments: tuple[Any, ...], graphs: Graphs | None) -> tuple[Images, list[Selection]]:
        """Run and return every selection; with `graphs` None the network's own are used."""
        selections: list[Selection] = []

        def observe(query: Tensor, key: Tensor, graph: Tensor) -> Tensor:
            used = graph if graphs is None else torch.from_numpy(graphs[len(selections)]).to(graph.device)
            features = [tensor.float().cpu().numpy() for tensor in (query, key)]
            selections.append(Selection(modules[-1], features[0], features[1], graph.cpu().numpy()))
            return used

        with torch_blocks.running_modules(self._module) as modules:
            token = graph_observer.set(observe)
            try:
                return self.run(*arguments), selections
            finally:
                graph_observer.reset(token)
