"""The sides of a comparison: a model that runs as it does for users, and that also tells and takes key graphs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..manifest import Manifest
from ..models import LoadedModel, load_checkpoint
from ..plugins.torch.operators import graph_observer
from ..runtime.device import Device, parse_device
from ..runtime.graph_probe import GraphProbe, Selection
from ..runtime.notices import warn
from ..runtime.onnx_runtime import OnnxRuntimeSession
from ..runtime.pytorch import TorchSession
from ..runtime.session import Session
from .specs import ModelSpec, parse_spec

Images = NDArray[np.float32]
Graphs = Sequence[NDArray[np.int32]]


_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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

    @property
    def session(self) -> Session:
        """What `run` runs, for the tiled pipeline."""

    @property
    def tells_graphs(self) -> bool:
        """Whether `record` and `force` are possible."""

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
        From `models.load_checkpoint`; with another precision, its module is converted.
    precision
        ``"fp32"``, ``"fp16"`` or ``"bf16"``: of all weights and features.
    device
        Where it runs.
    name
        What a reader knows it by; None for the file.
    """

    tells_graphs = True

    def __init__(
        self,
        model: LoadedModel,
        precision: str = "fp32",
        device: Device | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or str(model.source)
        self.manifest = dataclasses.replace(model.manifest(), precision=precision)
        self._module = model.module.to(_DTYPES[precision])
        self.session = TorchSession(self._module, self.manifest, device=device)
        self.description = self.session.description

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """See `Probe.run`."""
        return self.session.run(images, k, *extras)

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
            features = [tensor.float().cpu().numpy() for tensor in (query, key)]
            selections.append(Selection(modules[-1], features[0], features[1], graph.cpu().numpy()))
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
    path, library, device, provider, notice
        As for `OnnxRuntimeSession`. TensorRT fuses across the nodes that would tell their key graphs, so with that
        provider it tells none.
    name
        What a reader knows it by; None for the file.
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
        self.tells_graphs = provider != "tensorrt"
        self._graphs = GraphProbe(path, library, device=device)
        if self.manifest.neighbours is not None and not self._graphs.names:
            raise InputError(f"{path} has no KeyGraph nodes left (functions inlined?); compare the file as exported")

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """See `Probe.run`."""
        return self.session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """See `Probe.record`."""
        return self._graphs.record(images, k, *extras)

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """See `Probe.force`."""
        return self._graphs.force(images, k, graphs, *extras)


class EngineProbe:
    """An engine, which is a sealed box: it tells no key graphs.

    Parameters
    ----------
    path, device, notice
        As for `TensorRtSession`.
    name
        What a reader knows it by; None for the file.
    """

    tells_graphs = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: Device,
        name: str | None = None,
        notice: Callable[[str], None] = warn,
    ) -> None:
        from ..runtime.tensorrt import TensorRtSession

        self.name = name or os.fspath(path)
        self.session = TensorRtSession(path, device, notice=notice)
        self.manifest = self.session.manifest
        self.description = self.session.description

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """See `Probe.run`."""
        return self.session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> NoReturn:
        """Refuse; see `tells_graphs`."""
        raise NotImplementedError(f"{self.name} tells no key graphs")

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> NoReturn:
        """Refuse; see `tells_graphs`."""
        raise NotImplementedError(f"{self.name} takes no key graphs")


def open_probe(
    model: str | os.PathLike[str] | ModelSpec, *, library: Any = "auto", notice: Callable[[str], None] = warn
) -> Probe:
    """Open a checkpoint, an exported ONNX file or an engine for comparison.

    Parameters
    ----------
    model
        As `specs.parse_spec` reads it, or what that returned.
    library, notice
        As for `OnnxRuntimeSession`.

    Raises
    ------
    InputError
        It is none of these, or cannot be used.
    """
    spec = model if isinstance(model, ModelSpec) else parse_spec(model)
    suffix, name = spec.path.suffix.lower(), str(spec)
    on_gpu = suffix == ".plan" or spec.provider not in (None, "cpu")
    device = parse_device(spec.device or ("cuda" if on_gpu else "cpu"))
    if suffix == ".onnx":
        return OnnxProbe(spec.path, None if spec.functions else library, device, spec.provider, name, notice)
    if suffix == ".plan":
        return EngineProbe(spec.path, device, name, notice)
    return TorchProbe(load_checkpoint(spec.path), spec.precision or "fp32", device, name)
