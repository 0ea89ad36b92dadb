"""An exported file that also tells which neighbours it chose and from what, and that can be made to use others.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import KeygraphError
from ..manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT
from .device import Device
from .onnx_providers import PROVIDERS, reason
from .onnx_runtime import register_operators
from .rounding import rounding

if TYPE_CHECKING:
    from onnx import ModelProto

#: Where a session that is made from bytes looks for external data.
_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class Selection:
    """One choice of neighbours, with what it was made from.

    Attributes
    ----------
    name
        The module that it happens in, for instance ``"body.2"``.
    query, key
        float32[B, G, M, C] and [B, G, N, C], whatever the file holds them in.
    graph
        int32[B, G, M, ceil(N/32)]; bit j mod 32 of word j div 32 says that the row attends to node j.
    """

    name: str
    query: NDArray[Any]
    key: NDArray[Any]
    graph: NDArray[np.int32]


class GraphProbe:
    """An ONNX Runtime session of an exported file, with its KeyGraph nodes laid open.

    Parameters
    ----------
    path
        A file that `OnnxRuntimeSession` opens.
    library
        As for `OnnxRuntimeSession`.
    rounded
        Run a half-precision file in float32 with every stored tensor rounded (`rounding`), as a GPU computes; a bf16
        file always is, since the CPU has no kernels for it.
    device
        The CPU, or a GPU through ONNX Runtime's CUDA provider.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        rounded: bool = False,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> None:
        import onnx

        self._folder = Path(path).resolve().parent
        self._library = library
        self._providers: list[Any] = [PROVIDERS["cpu"]]
        if device.kind == "cuda":
            self._providers.insert(0, (PROVIDERS["cuda"], {"device_id": str(device.index)}))
        self._model = onnx.load(path, load_external_data=False)
        if rounded or any(weight.data_type == onnx.TensorProto.BFLOAT16 for weight in self._model.graph.initializer):
            self._model = rounding(onnx.load(path))
        self._nodes = [n for n in self._model.graph.node if (n.domain, n.op_type) == ("keygraph", "KeyGraph")]
        self._own = [node.output[0] for node in self._nodes]
        (image,) = (value for value in self._model.graph.input if value.name == IMAGE_INPUT)
        self._inputs = [value.name for value in self._model.graph.input if value.name != K_INPUT]
        self._type = onnx.helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
        self._recording: onnxruntime.InferenceSession | None = None
        self._forcing: onnxruntime.InferenceSession | None = None

    @property
    def names(self) -> list[str]:
        """The modules in which neighbours are chosen, in the order of execution."""
        return [node.name.rpartition("/")[0] or node.name or node.output[0] for node in self._nodes]

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[Selection]]:
        """Restore a batch, as `OnnxRuntimeSession.run` does, and tell every choice of neighbours."""
        if self._recording is None:
            self._recording = self._session(_with_outputs(self._model, self._features + self._own))
        return self._run(self._recording, self._feeds(images, k, extras))

    def force(
        self,
        images: NDArray[np.float32],
        k: int | None,
        graphs: Sequence[NDArray[np.int32]],
        *extras: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], list[Selection]]:
        """Restore a batch with these graphs in place of the file's own, which are told but not used."""
        forced = [f"{name}/forced" for name in self._own]
        if self._forcing is None:
            model = _with_outputs(self._model, self._features + self._own)
            _replace_graphs(model, dict(zip(self._own, forced, strict=True)))
            self._forcing = self._session(model)
        return self._run(self._forcing, self._feeds(images, k, extras) | dict(zip(forced, graphs, strict=True)))

    @property
    def _features(self) -> list[str]:
        """What the neighbours are chosen from; a KGT's query and key are one tensor."""
        return list(dict.fromkeys(name for node in self._nodes for name in node.input[:2]))

    def _session(self, model: ModelProto) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, str(self._folder))
        register_operators(options, self._library, lambda _message: None)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=self._providers)

    def _feeds(
        self, images: NDArray[np.float32], k: int | None, extras: Sequence[NDArray[np.float32]]
    ) -> dict[str, NDArray[Any]]:
        named = zip(self._inputs, (images, *extras), strict=True)
        feeds: dict[str, NDArray[Any]] = {name: values.astype(self._type) for name, values in named}
        return feeds if k is None else feeds | {K_INPUT: np.array([k], np.int64)}

    def _run(
        self, session: onnxruntime.InferenceSession, feeds: dict[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float32], list[Selection]]:
        wanted = [IMAGE_OUTPUT, *self._features, *self._own]
        try:
            values = dict(zip(wanted, session.run(wanted, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
            raise KeygraphError(f"ONNX Runtime failed with its key graphs laid open: {reason(error)}") from error
        selections = [
            Selection(
                name,
                np.asarray(values[node.input[0]], np.float32),
                np.asarray(values[node.input[1]], np.float32),
                values[node.output[0]],
            )
            for name, node in zip(self.names, self._nodes, strict=True)
        ]
        return np.asarray(values[IMAGE_OUTPUT], np.float32), selections


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy whose graph also returns these values."""
    from onnx import ModelProto, ValueInfoProto

    copy = ModelProto()
    copy.CopyFrom(model)
    # Without a type: ONNX Runtime infers it.
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return copy


def _replace_graphs(model: ModelProto, replacements: dict[str, str]) -> None:
    """Let everything that reads a KeyGraph's output read a new input of the graph in its place."""
    from onnx import TensorProto, helper

    for node in model.graph.node:
        node.input[:] = [replacements.get(name, name) for name in node.input]
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT32, [None] * 4) for name in replacements.values()
    )
