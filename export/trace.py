"""Trace a PyTorch module to an ONNX graph with the two operators as nodes, by `torch.export`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..manifest import IMAGE_OUTPUT, K_INPUT, Manifest
from ..runtime.backends.base import image_inputs
from .functions import OPSET
from .schemas import translation_table

#: Largest batch, and largest height and width in units of the size multiple, of a file with dynamic shape.
_DIMENSION_LIMIT = 1 << 16


class _Entry(nn.Module):
    """The module that is traced: the network, with a fixed k as a constant where it is no input."""

    def __init__(self, model: nn.Module, k: int | None) -> None:
        super().__init__()
        self.model = model
        if k is not None:
            self.register_buffer("k", torch.tensor([k], dtype=torch.int64), persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        restored: Tensor = self.model(*inputs, *(k for _, k in self.named_buffers(recurse=False)))
        return restored


def trace(model: nn.Module, manifest: Manifest) -> ir.Model:
    """Trace a network to the inputs and outputs that its manifest describes.

    Parameters
    ----------
    model
        Maps float32[B, C, H, W], the manifest's extra inputs (and int64[1], for architectures with a key graph) to
        float32[B, C', sH, sW].
    manifest
        Manifest of the file: channels, margins, size multiple, fixed shape, and whether k is an input.

    Returns
    -------
    ir.Model
        Inputs ``image``, the extra ones and, where it is an input, ``k``; output ``restored``. Node metadata holds the
        modules' names, which `canonicalize` needs.
    """
    neighbours = manifest.neighbours
    runtime_k = neighbours is not None and neighbours.runtime
    entry = _Entry(model, None if neighbours is None or runtime_k else neighbours.default).eval()
    multiple = manifest.size_multiple
    # Distinct sizes above 1, so that the tracer cannot take one dimension for another or for a constant.
    shape = manifest.shape or (2, 2 * multiple, 3 * multiple)
    batch = torch.export.Dim("batch", min=1, max=_DIMENSION_LIMIT)
    rows, columns = (torch.export.Dim(name, min=1, max=_DIMENSION_LIMIT) for name in ("rows", "columns"))
    arguments: dict[str, Tensor] = {}
    dynamic: list[dict[int, Any]] = []
    for given in image_inputs(manifest):
        name, channels, (down, across) = given.name, given.channels, given.margin
        arguments[name] = torch.zeros(shape[0], channels, shape[1] + down, shape[2] + across)
        dynamic.append({0: batch, 2: _sized(rows, multiple, down), 3: _sized(columns, multiple, across)})
    if runtime_k:
        assert neighbours is not None
        arguments[K_INPUT] = torch.tensor([neighbours.default], dtype=torch.int64)
        dynamic.append({})
    # Without the cache, whose look-ups of symbolic shapes take longer than inferring them, tracing takes half the time.
    with _quiet(), torch.no_grad(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        program = torch.onnx.export(
            entry,
            tuple(arguments.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(arguments),
            output_names=[IMAGE_OUTPUT],
            dynamic_shapes=None if manifest.shape is not None else (tuple(dynamic),),
            custom_translation_table=translation_table(),
            verbose=False,
        )
    assert program is not None
    return program.model


def _sized(count: Any, multiple: int, margin: int) -> Any:
    """Return a side of `count` units plus its margin; the tracer does not accept the addition of zero."""
    return multiple * count + margin if margin else multiple * count


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own warnings (absent torchvision, deprecations), which do not concern keygraph's users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
