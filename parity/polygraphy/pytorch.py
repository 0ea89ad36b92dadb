"""Loader and runner for checkpoints in PyTorch.

Polygraphy's own `PytRunner` does not serve: it calls ``.cuda()`` on every input, takes the rows of a batch for separate
outputs, returns its time among them, and stops the clock before the GPU has finished.
"""

from __future__ import annotations

import copy
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from polygraphy import util
from polygraphy.backend.base import BaseLoader, BaseRunner
from polygraphy.common import TensorMetadata

from ...errors import InputError
from ...manifest import IMAGE_OUTPUT, K_INPUT
from ...models import LoadedModel, load_checkpoint
from ...runtime.backends.full_fp32 import full_fp32
from ...runtime.backends.pytorch import require_device
from ...runtime.device.spec import parse_device
from .artifacts import tensors_of

#: Precisions in which a network can run.
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ModelFromCheckpoint(BaseLoader):
    """Loads a trained network; see `models.load_checkpoint`.

    Parameters
    ----------
    path
        ``.ckpt``, ``.pth``, ``.pt`` or ``.safetensors``.
    key_map, config
        As for `models.load_checkpoint`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key_map: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
    ) -> None:
        self._arguments = path, key_map, config

    def call_impl(self) -> LoadedModel:
        """Return the network.

        Raises
        ------
        InputError
            The file is not a checkpoint.
        """
        path, key_map, config = self._arguments
        return load_checkpoint(path, key_map=key_map, config=config)


class TorchRunner(BaseRunner):
    """Runs a checkpoint in PyTorch, with the tensors named as in the exported file.

    Inputs are float32 in every precision, so that all runners take the same data, and so is ``restored``, since NumPy
    has no bfloat16. TensorFloat-32 is off. `inference_time` covers the network alone: it starts when the inputs are on
    the device and ends when the GPU has finished.

    Parameters
    ----------
    model
        A network, or a callable that returns one: `ModelFromCheckpoint`.
    precision
        ``"fp32"``, ``"fp16"`` or ``"bf16"``: of weights and arithmetic.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    name
        Of the runner, for reports.

    Raises
    ------
    InputError
        The precision is unknown; when activated: PyTorch does not see the device.
    """

    def __init__(
        self,
        model: LoadedModel | Callable[[], LoadedModel],
        precision: str = "fp32",
        device: str = "cpu",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, prefix="torch-runner")
        if precision not in TYPES:
            raise InputError(f"the precision is {precision!r}; it must be one of {', '.join(TYPES)}")
        self._model = model
        self._type = TYPES[precision]
        self._where = parse_device(device)

    def activate_impl(self) -> None:
        """Load the network and move it to the device."""
        require_device(self._where)
        loaded, owned = util.invoke_if_callable(self._model)
        self._manifest = loaded.manifest()
        self._device = torch.device(str(self._where))
        module = loaded.module if owned else copy.deepcopy(loaded.module)
        self._module = module.to(self._device, self._type).eval()

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Return names, types and shapes, as in the exported file."""
        metadata = TensorMetadata()
        for name, (dtype, shape) in tensors_of(self._manifest).items():
            metadata.add(name, dtype, shape)
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
        """Restore a batch; return an array for arrays, a tensor on the CPU for tensors."""
        as_tensor = any(util.array.is_torch(values) for values in feed_dict.values())
        arguments: list[torch.Tensor | None] = []
        for name in tensors_of(self._manifest):
            values = util.array.to_torch(feed_dict[name])
            arguments.append(values.to(self._device, torch.int64 if name == K_INPUT else self._type))
        if self._manifest.neighbours is not None and not self._manifest.neighbours.runtime:
            arguments.append(None)
        with torch.inference_mode(), full_fp32():
            self._wait()
            start = time.perf_counter()
            result = self._module(*arguments)
            self._wait()
            self.inference_time = time.perf_counter() - start
        restored = result.float().cpu()
        return OrderedDict([(IMAGE_OUTPUT, restored if as_tensor else restored.numpy())])

    def deactivate_impl(self) -> None:
        """Release the network."""
        del self._module, self._manifest, self._device

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
