"""The two sides of a comparison: a model that runs as it does for users, and that also tells and takes key graphs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..files import CHECKPOINT_SUFFIXES
from ..manifest import Manifest
from ..models import LoadedModel, load_checkpoint
from ..plugins.torch.operators import graph_observer
from ..runtime.graph_probe import GraphProbe, Selection
from ..runtime.notices import warn
from ..runtime.onnx_runtime import OnnxRuntimeSession
from ..runtime.pytorch import TorchSession

Images = NDArray[np.float32]
Graphs = Sequence[NDArray[np.int32]]


class Probe(Protocol):
    """One side of a comparison. A new kind of artifact needs one of these, and a line in `open_probe`."""

    @property
    def name(self) -> str:
        """The file, or what else a reader knows it by."""

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""

    @property
    def description(self) -> str:
        """What really runs."""

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """Restore a batch, as `Session.run` does."""

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore, and tell every choice of neighbours in the order of execution."""

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore with these graphs in place of the model's own choices, which are told but not used."""


class TorchProbe:
    """A checkpoint in PyTorch.

    Parameters
    ----------
    model
        From `models.load_checkpoint`.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.name = str(model.source)
        self.manifest = model.manifest()
        self._module = model.module
        self._session = TorchSession(model.module, self.manifest)
        self.description = self._session.description

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """See `Probe.run`."""
        return self._session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """See `Probe.record`."""
        return self._run((images, k, *extras), lambda _index, own: own)

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """See `Probe.force`."""
        return self._run((images, k, *extras), lambda index, own: torch.from_numpy(graphs[index]).to(own.device))

    def _run(
        self, arguments: tuple[Any, ...], choose: Callable[[int, Tensor], Tensor]
    ) -> tuple[Images, list[Selection]]:
        """Run and list every selection; `choose(index, own choice)` says which graph is used."""
        selections: list[Selection] = []

        def observe(query: Tensor, key: Tensor, graph: Tensor) -> Tensor:
            used = choose(len(selections), graph)
            values = (tensor.cpu().numpy() for tensor in (query, key, graph))
            selections.append(Selection(modules[-1], *values))
            return used

        with _entered(self._module) as modules:
            token = graph_observer.set(observe)
            try:
                return self.run(*arguments), selections
            finally:
                graph_observer.reset(token)


@contextmanager
def _entered(network: torch.nn.Module) -> Iterator[list[str]]:
    """Inside the block, the list holds the names of the modules that are being run, the innermost last."""
    names: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _module, _inputs, name=name: names.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: _leave(names), always_call=True))
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def _leave(names: list[str]) -> None:
    names.pop()


class OnnxProbe:
    """An exported file in ONNX Runtime.

    Parameters
    ----------
    path, library, notice
        As for `OnnxRuntimeSession`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        notice: Callable[[str], None] = warn,
    ) -> None:
        self.name = os.fspath(path)
        self._session = OnnxRuntimeSession(path, library, notice=notice)
        self.manifest = self._session.manifest
        self.description = self._session.description
        self._graphs = GraphProbe(path, library)
        if self.manifest.neighbours is not None and not self._graphs.names:
            raise InputError(f"{path} has no KeyGraph nodes left (functions inlined?); compare the file as exported")

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """See `Probe.run`."""
        return self._session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """See `Probe.record`."""
        return self._graphs.record(images, k, *extras)

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """See `Probe.force`."""
        return self._graphs.force(images, k, graphs, *extras)


def open_probe(
    model: str | os.PathLike[str], *, library: Any = "auto", notice: Callable[[str], None] = warn
) -> OnnxProbe | TorchProbe:
    """Open a checkpoint or an exported ONNX file for comparison.

    Raises
    ------
    InputError
        It is neither, or cannot be used.
    """
    suffix = Path(model).suffix.lower()
    if suffix == ".onnx":
        return OnnxProbe(model, library, notice)
    if suffix in CHECKPOINT_SUFFIXES:
        return TorchProbe(load_checkpoint(model))
    raise InputError(
        f"{model} is no model by its name; give one that ends with {', '.join(('.onnx', *CHECKPOINT_SUFFIXES))}"
    )
