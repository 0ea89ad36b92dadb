"""From a PyTorch module to an ONNX graph: `torch.export`, then ONNX nodes with our two operators among them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, Manifest
from .functions import OPSET
from .schemas import translation_table

#: Largest height and width, in units of the size multiple, and largest batch, that a dynamic file promises.
_DIMENSION_LIMIT = 1 << 16


class _Entry(nn.Module):
    """What is traced: the network with k as an input, or held as a constant."""

    def __init__(self, model: nn.Module, k: int | None) -> None:
        super().__init__()
        self.model = model
        if k is not None:
            self.register_buffer("k", torch.tensor([k], dtype=torch.int64), persistent=False)

    def forward(self, image: Tensor, k: Tensor | None = None) -> Tensor:
        if k is None:
            k = dict(self.named_buffers(recurse=False)).get("k")
        restored: Tensor = self.model(image) if k is None else self.model(image, k)
        return restored


def trace(model: nn.Module, manifest: Manifest) -> ir.Model:
    """Trace `model` as the manifest describes it.

    Parameters
    ----------
    model
        Maps float32[B, C, H, W] (and int64[1]) to float32[B, C', sH, sW].
    manifest
        Gives channels, size multiple, the fixed shape or None, and whether k is an input.

    Returns
    -------
    ir.Model
        Inputs ``image`` and perhaps ``k``, output ``restored``; node metadata still holds the modules' names.
    """
    neighbours = manifest.neighbours
    runtime_k = neighbours is not None and neighbours.runtime
    entry = _Entry(model, None if neighbours is None or runtime_k else neighbours.default).eval()
    multiple = manifest.size_multiple
    if manifest.shape is not None:
        batch, height, width = manifest.shape
        dynamic: dict | None = None
    else:
        # Distinct sizes above 1, so that the tracer cannot take one dimension for another or for a constant.
        batch, height, width = 2, 2 * multiple, 3 * multiple
        dynamic = {
            IMAGE_INPUT: {
                0: torch.export.Dim("batch", min=1, max=_DIMENSION_LIMIT),
                2: multiple * torch.export.Dim("rows", min=1, max=_DIMENSION_LIMIT),
                3: multiple * torch.export.Dim("columns", min=1, max=_DIMENSION_LIMIT),
            }
        }
    arguments: dict[str, Tensor] = {IMAGE_INPUT: torch.zeros(batch, manifest.in_channels, height, width)}
    if runtime_k:
        assert neighbours is not None
        arguments[K_INPUT] = torch.tensor([neighbours.default], dtype=torch.int64)
        if dynamic is not None:
            dynamic[K_INPUT] = {}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            entry,
            kwargs=arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(arguments),
            output_names=[IMAGE_OUTPUT],
            dynamic_shapes=dynamic,
            custom_translation_table=translation_table(),
            verbose=False,
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices (an absent torchvision, its own deprecations) away from our users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
