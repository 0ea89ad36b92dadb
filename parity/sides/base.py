"""The sides of a comparison: a model that runs as it does for users, and that also tells and takes key graphs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError
from ...instrumentation.key_graphs import GraphProbe, Selection
from ...manifest import IMAGE_INPUT, Manifest
from ...models import LoadedModel, load_checkpoint
from ...plugins.torch.operators import graph_observer
from ...runtime.backends.base import Session
from ...runtime.backends.onnxruntime import OnnxRuntimeSession
from ...runtime.backends.pytorch import TorchSession
from ...runtime.device.spec import Device, parse_device
from ...runtime.notices import warn
from ..metrics.blocks import BlockValues, See, pattern
from . import torch_blocks
from .onnx_blocks import OnnxBlock, onnx_blocks
from .spec import ModelSpec, parse_spec

Images = NDArray[np.float32]
Graphs = Sequence[NDArray[np.int32]]

#: Block's name -> as `BlockValues.inputs`.
BlockInputs = Mapping[str, Sequence[NDArray[Any]]]


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

    @property
    def tells_blocks(self) -> bool:
        """Whether `trace` and `retrace` are possible."""

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """Restore a batch, as `Session.run` does."""

    def record(self, images: Images, k: int | None, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore, and tell every choice of neighbours in the order of execution."""

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """Restore with these graphs in place of the model's own choices, which are told but not used."""

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, see: See, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        """Restore as `record` does, or with graphs as `force` does, and tell every block."""

    def retrace(
        self, images: Images, k: int | None, graphs: Graphs | None, inputs: BlockInputs, see: See, *extras: Images
    ) -> None:
        """As `trace`, but with what these blocks take in put in place of their own inputs, all in one run."""


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

    tells_graphs = tells_blocks = True

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
        return self._run((images, k, *extras), None)

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> tuple[Images, list[Selection]]:
        """See `Probe.force`."""
        return self._run((images, k, *extras), graphs)

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, see: See, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        """See `Probe.trace`."""
        with torch_blocks.seen(self._module, pattern(self.manifest), see):
            return self._run((images, k, *extras), graphs)

    def retrace(
        self, images: Images, k: int | None, graphs: Graphs | None, inputs: BlockInputs, see: See, *extras: Images
    ) -> None:
        """See `Probe.retrace`."""
        with torch_blocks.given(self._module, inputs):
            self.trace(images, k, graphs, see, *extras)

    def _run(self, arguments: tuple[Any, ...], graphs: Graphs | None) -> tuple[Images, list[Selection]]:
        """Run and list every selection; None uses the network's own."""
        selections: list[Selection] = []

        def observe(query: Tensor, key: Tensor, graph: Tensor) -> Tensor:
            used = graph if graphs is None else torch.from_numpy(graphs[len(selections)]).to(graph.device)
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
        As for `OnnxRuntimeSession`. TensorRT fuses across the nodes that would tell their key graphs and blocks, so
        with that provider it tells none.
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
        self.tells_graphs = self.tells_blocks = provider != "tensorrt"
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

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, see: See, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        """See `Probe.trace`."""
        return self._trace(images, k, graphs, {}, see, *extras)

    def retrace(
        self, images: Images, k: int | None, graphs: Graphs | None, inputs: BlockInputs, see: See, *extras: Images
    ) -> None:
        """See `Probe.retrace`."""
        self._trace(images, k, graphs, inputs, see, *extras)

    @cached_property
    def _blocks(self) -> list[OnnxBlock]:
        return onnx_blocks(self._graphs.file.model, pattern(self.manifest))

    def _trace(
        self, images: Images, k: int | None, graphs: Graphs | None, inputs: BlockInputs, see: See, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        file = self._graphs.file
        given: dict[str, NDArray[Any]] = {
            copy: values.astype(file.dtype(copy))
            for block in self._blocks
            for copies, values in zip(block.inputs, inputs.get(block.name, ()), strict=False)
            for copy in copies
        }
        given |= self._graphs.overrides(graphs) if graphs is not None else {}
        names = (IMAGE_INPUT, *(extra.name for extra in self.manifest.extra_inputs))
        fed = dict(zip(names, (images, *extras), strict=True))
        wanted = {name: None for block in self._blocks for name in (block.output, *(one[0] for one in block.inputs))}
        read = [*self._graphs.observed, *(name for name in wanted if name not in fed)]
        restored, values = file.run(images, k, extras, read, given)
        values |= fed
        for block in self._blocks:
            taken = tuple(values[copies[0]] for copies in block.inputs)
            see(BlockValues(block.name, values[block.output], taken, block.precision))
        return restored, self._graphs.selections(values)


class EngineProbe:
    """An engine, which is a sealed box: it tells neither key graphs nor blocks.

    Parameters
    ----------
    path, device, notice
        As for `TensorRtSession`.
    name
        What a reader knows it by; None for the file.
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

    def run(self, images: Images, k: int | None, *extras: Images) -> Images:
        """See `Probe.run`."""
        return self.session.run(images, k, *extras)

    def record(self, images: Images, k: int | None, *extras: Images) -> NoReturn:
        """Refuse; see `tells_graphs`."""
        raise NotImplementedError(f"{self.name} tells no key graphs")

    def force(self, images: Images, k: int | None, graphs: Graphs, *extras: Images) -> NoReturn:
        """Refuse; see `tells_graphs`."""
        raise NotImplementedError(f"{self.name} takes no key graphs")

    def trace(self, images: Images, k: int | None, graphs: Graphs | None, see: See, *extras: Images) -> NoReturn:
        """Refuse; see `tells_blocks`."""
        raise NotImplementedError(f"{self.name} tells no blocks")

    def retrace(
        self, images: Images, k: int | None, graphs: Graphs | None, inputs: BlockInputs, see: See, *extras: Images
    ) -> NoReturn:
        """Refuse; see `tells_blocks`."""
        raise NotImplementedError(f"{self.name} takes no inputs of blocks")


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
