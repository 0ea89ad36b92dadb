"""A network that the user's own Python file builds as a probe: what an exported file of it must compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ...files import is_regular
from ...instrumentation.key_graphs import Selection
from ...manifest import Manifest
from ...models.architecture import CUSTOM
from ...models.checkpoint import weights_sha256
from ...models.own_weights import tensors_of
from ...models.source_file import parse_entry_point
from ...models.source_network import load_network
from ...runtime.backends.pytorch import TorchSession
from ...runtime.device.spec import Device
from ..metrics.blocks import EVERY_MODULE, BlockObserver
from . import torch_blocks
from .base import Graphs, Images
from .spec import ModelSpec
from .torch_probe import TorchProbe


class ModuleProbe(TorchProbe):
    """A module of any code in PyTorch, as its author wrote it; see `Probe`.

    It selects by its own code, so that its key graphs can be neither read nor forced.

    Parameters
    ----------
    module
        Maps float32[B, C, H, W] to float32[B, C', sH, sW]; float32, in evaluation mode.
    like
        Manifest of a file that was exported from such a module; None if there is none, which is an error. It says what
        a module does not: the range of values, scale and sizes.
    name
        For messages and reports.
    device
        Where it runs; None for the CPU.
    notices
        Lines for the reader of a comparison.

    Raises
    ------
    InputError
        There is no such file, its architecture is one that keygraph knows, or the module is in training mode or in
        half precision.
    """

    tells_graphs = False

    def __init__(
        self,
        module: nn.Module,
        like: Manifest | None,
        name: str,
        device: Device | None = None,
        notices: tuple[str, ...] = (),
    ) -> None:
        like = _of_own_module(like, name)
        check_evaluation_mode(module, "module")
        if any(one.dtype in (torch.float16, torch.bfloat16) for one in module.parameters()):
            raise InputError(f"{name} is in half precision; give the module in float32")
        neighbours = None if like.neighbours is None else replace(like.neighbours, runtime=False)
        self.name = name
        self.notices = notices
        self.manifest = replace(
            like,
            precision="fp32",
            half=None,
            shape=None,
            profiles=(),
            digest=None,
            verification=None,
            neighbours=neighbours,
            weights_sha256=weights_sha256(tensors_of(module, name)),
        )
        self.digests = {"weights": self.manifest.weights_sha256}
        self._stored = self._module = module
        # The module takes no k.
        self.session = TorchSession(module, replace(self.manifest, neighbours=None), device=device)
        self.description = self.session.description

    def trace(
        self, images: Images, k: int | None, graphs: Graphs | None, observe: BlockObserver, *extras: Images
    ) -> tuple[Images, list[Selection]]:
        """Restore a batch and observe every block; see `Probe.trace`."""
        with torch_blocks.observed(self._module, EVERY_MODULE, observe, copies=True):
            return self.run(images, k, *extras), []


def open_module(spec: ModelSpec, like: Manifest | None, device: Device, notice: Callable[[str], None]) -> ModuleProbe:
    """Build the network of a Python file for comparison with a file that was exported from it.

    Parameters
    ----------
    spec
        The Python file, its function, weights and arguments.
    like
        As for `ModuleProbe`.
    device
        Where it runs.
    notice
        Called with lines for the user: that the file is run, before it is, and what was chosen.

    Raises
    ------
    InputError
        The file does not build a network, or the weights do not fit; and as `ModuleProbe`.
    """
    like = _of_own_module(like, str(spec))
    for path in spec.files:
        if not is_regular(path):
            raise InputError(f"{path} does not exist; give the file of {spec}")
    point = parse_entry_point(f"{spec.path}:{spec.entry_point}")
    network = load_network(point, config=spec.arguments, weights=spec.weights, notice=notice)
    for line in network.notes:
        notice(f"{spec.path}: {line}")
    return ModuleProbe(network.module, like, str(spec), device, _changes(spec, network.provenance, like.configuration))


def check_evaluation_mode(module: nn.Module, side: str) -> None:
    """Raise an error if a module, or one inside it, is in training mode.

    Raises
    ------
    InputError
        It is.
    """
    name = next((name for name, one in module.named_modules() if one.training), None)
    if name is not None:
        where = f": its module {name} is" if name else " is"
        raise InputError(f"the {side}{where} in training mode; call eval() first")


def _of_own_module(like: Manifest | None, name: str) -> Manifest:
    """Check that a manifest can say what a module takes."""
    if like is None:
        raise InputError(
            f"{name}: a module does not say what values and sizes it takes; compare it with a file that was exported "
            "from it (export-model my_model.py:build -o FILE.onnx)"
        )
    if like.architecture != CUSTOM:
        raise InputError(
            f"{name} is compared with files that were exported from a module of your own, and the other model is a "
            f"{like.architecture}; compare that with its checkpoint"
        )
    return like


def _changes(spec: ModelSpec, now: Mapping[str, Any], exported: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line for each thing that is another one than when the file was exported."""
    if exported.get("entry_point") != now["entry_point"]:
        return ()  # It was exported from Python, or from another file.
    kinds = {"source": "code is not what it was", "arguments": "arguments are not what they were"}
    return tuple(
        f"{spec.path}: its {words} when the file was exported"
        for key, words in kinds.items()
        if exported.get(key) != now[key]
    )
