"""An exported file as a network that runs again in other arithmetic: PyTorch runs its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, inliner, numpy_helper
from torch import Tensor, nn

from ...errors import InputError
from ...manifest import K_INPUT, Manifest
from ...models.onnx_graph.network import OnnxModule
from ...runtime.backends.onnx_file import load_onnx
from ..metrics.blocks import BlockObserver, BlockValues, block_pattern
from ..sides.base import BlockInputs, Graphs
from ..sides.onnx_blocks import OnnxBlock, onnx_blocks
from .network import EXACT, Network, NotMeasuredError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class OnnxNetwork(Network):
    """An exported file of which results in other arithmetic can be had, on the CPU.

    Its weights are those in the file: of a file in half precision the rounded ones.

    Parameters
    ----------
    path
        The file.
    manifest
        Its manifest.

    Raises
    ------
    NotMeasuredError
        The file has operators that cannot be run in float64.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._model = _without_functions(load_onnx(path))
        super().__init__(_module(self._model, TensorProto.FLOAT), manifest)
        self._takes_k = any(value.name == K_INPUT for value in self._model.graph.input)

    def exact_block(
        self,
        name: str,
        values: Sequence[NDArray[Any]],
        inputs: Sequence[NDArray[np.float32]],
        k: int | None,
        graphs: Graphs | None,
    ) -> Callable[[], Tensor]:
        """Return a function that runs one block alone, in float64; see `Network.exact_block`."""
        module = self._float64
        assert isinstance(module, _Module)
        block = next(one for one in self._blocks if one.name == name)
        wanted = module.reads(block.contains)
        taken: dict[str, Any] = {}

        def keep(value_name: str, value: Any) -> Any:
            if value_name in wanted:
                taken[value_name] = value
            return value

        with module.watched(keep), self._instrumented(module, {name: values}, None):
            self._compute(module, EXACT, inputs, k, graphs, [])

        def run() -> Tensor:
            result = module.run_nodes(block.contains, taken, block.output)
            assert isinstance(result, Tensor)
            return result

        return run

    @contextmanager
    def _instrumented(
        self, module: nn.Module, replaced: BlockInputs | None, observe: BlockObserver | None
    ) -> Iterator[None]:
        assert isinstance(module, _Module)
        if observe is None and replaced is None:
            yield
            return
        blocks = {block.name: block for block in self._blocks}
        ends: dict[str, list[OnnxBlock]] = {}
        for block in self._blocks:
            ends.setdefault(block.output, []).append(block)
        given = {
            copy: values
            for name, arrays in (replaced or {}).items()
            for copies, values in zip(blocks[name].inputs, arrays, strict=False)
            for copy in copies
        }

        def watch(name: str, value: Any) -> Any:
            for block in ends.get(name, ()) if observe is not None else ():
                assert observe is not None
                observe(BlockValues(block.name, value.detach().numpy(), (), block.precision))
            if name in given:
                return torch.from_numpy(np.ascontiguousarray(given[name])).to(value.dtype).reshape(value.shape)
            return value

        with module.watched(watch):
            yield

    @cached_property
    def _blocks(self) -> list[OnnxBlock]:
        assert self._manifest is not None
        return onnx_blocks(self._model, block_pattern(self._manifest))

    @cached_property
    def _float64(self) -> nn.Module:
        return _module(self._model, TensorProto.DOUBLE)


class _Module(OnnxModule):
    """The module; what is watched is a stack, of which each gets what the one before returns."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Restore an image batch."""
        return self.compute(*inputs)

    @contextmanager
    def watched(self, watch: Callable[[str, Any], Any]) -> Iterator[None]:
        """Watch all values inside the block."""
        before = self.watch
        self.watch = watch if before is None else lambda name, value: before(name, watch(name, value))
        try:
            yield
        finally:
            self.watch = before


def _module(model: ModelProto, kind: int) -> _Module:
    graph = model.graph
    stored = {weight.name for weight in graph.initializer}
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    inputs = sorted((one.name for one in graph.input if one.name not in stored), key=lambda name: name == K_INPUT)
    try:
        return _Module(_converted(model, kind), opset, inputs, graph.output[0].name)
    except InputError as error:
        raise NotMeasuredError(f"the file cannot be run in float64: {error}") from error


def _without_functions(model: ModelProto) -> ModelProto:
    """Inline functions that are not the operators' own."""
    others = [(one.domain, one.name) for one in model.functions if one.domain != "keygraph"]
    return inliner.inline_selected_functions(model, others) if others else model


def _converted(model: ModelProto, kind: int) -> ModelProto:
    """Return a copy of a model that computes in another floating-point type: weights, constants and casts."""
    copy = ModelProto()
    copy.CopyFrom(model)
    dtype = helper.tensor_dtype_to_np_dtype(kind)

    def convert(tensor: TensorProto) -> None:
        if tensor.data_type in _FLOATS:
            values = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for weight in copy.graph.initializer:
        convert(weight)
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                convert(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = kind
    return copy
