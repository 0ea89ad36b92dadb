"""An exported file with its inner values laid open: they can be read, and others put in their place.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..errors import KeygraphError
from ..manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT
from ..runtime.backends.emulated_half import rounding
from ..runtime.backends.onnx_providers import PROVIDERS, cuda_provider, reason
from ..runtime.backends.onnxruntime import register_operators
from ..runtime.device.spec import Device

if TYPE_CHECKING:
    from onnx import ModelProto

#: Where a session that is made from bytes looks for external data.
_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"


class LaidOpen:
    """An exported file in ONNX Runtime, with a session for each choice of values that are read or replaced.

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
            self._providers.insert(0, cuda_provider(device))
        #: The file; its weights may be elsewhere.
        self.model = onnx.load(path, load_external_data=False)
        self._runs = self.model
        bf16 = any(weight.data_type == onnx.TensorProto.BFLOAT16 for weight in self.model.graph.initializer)
        self._rounded = rounded or bf16
        if self._rounded:
            self._runs = rounding(onnx.load(path))
        (image,) = (value for value in self._runs.graph.input if value.name == IMAGE_INPUT)
        self._inputs = [value.name for value in self._runs.graph.input if value.name != K_INPUT]
        self._type = onnx.helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
        self._sessions: dict[tuple[tuple[str, ...], tuple[tuple[str, np.dtype[Any]], ...]], Any] = {}

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type of a floating-point value in what runs."""
        from onnx import helper

        if self._rounded:
            return np.dtype(np.float32)
        return np.dtype(helper.tensor_dtype_to_np_dtype(self._types[name]))

    @cached_property
    def _types(self) -> dict[str, int]:
        graph = self.model.graph
        return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}

    def run(
        self,
        images: NDArray[np.float32],
        k: int | None,
        extras: Sequence[NDArray[np.float32]],
        read: Sequence[str] = (),
        given: Mapping[str, NDArray[Any]] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Restore a batch, as `OnnxRuntimeSession.run` does.

        Parameters
        ----------
        images, k, extras
            As for `OnnxRuntimeSession.run`.
        read
            Values to return.
        given
            What takes the place of values, in the type that they have there (`dtype`), for every node that reads them;
            `read` tells the file's own nevertheless.

        Returns
        -------
        restored, values
            `values` by name.

        Raises
        ------
        KeygraphError
            ONNX Runtime fails.
        """
        given = given or {}
        forced = {name: f"{name}/forced" for name in given}
        form = tuple(read), tuple((name, values.dtype) for name, values in given.items())
        feeds: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(values, dtype=self._type)
            for name, values in zip(self._inputs, (images, *extras), strict=True)
        }
        feeds |= {forced[name]: np.ascontiguousarray(values) for name, values in given.items()}
        if k is not None:
            feeds[K_INPUT] = np.array([k], np.int64)
        wanted = list(dict.fromkeys([IMAGE_OUTPUT, *read]))
        try:
            if form not in self._sessions:
                self._sessions[form] = self._session(wanted[1:], given, forced)
            values = dict(zip(wanted, self._sessions[form].run(wanted, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
            raise KeygraphError(f"ONNX Runtime failed with values inside of it laid open: {reason(error)}") from error
        return np.asarray(values[IMAGE_OUTPUT], np.float32), values

    def _session(
        self, read: Sequence[str], given: Mapping[str, NDArray[Any]], forced: Mapping[str, str]
    ) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, str(self._folder))
        register_operators(options, self._library, lambda _message: None)
        model = _with_outputs(self._runs, read)
        _replace(model, given, forced)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=self._providers)


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy whose graph also returns these values."""
    from onnx import ModelProto, ValueInfoProto

    copy = ModelProto()
    copy.CopyFrom(model)
    # Without a type: ONNX Runtime infers it.
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return copy


def _replace(model: ModelProto, given: Mapping[str, NDArray[Any]], forced: Mapping[str, str]) -> None:
    """Let everything that reads one of these values read a new input of the graph in its place."""
    from onnx import helper

    for node in model.graph.node:
        node.input[:] = [forced.get(name, name) for name in node.input]
    model.graph.input.extend(
        helper.make_tensor_value_info(forced[name], helper.np_dtype_to_tensor_dtype(values.dtype), [None] * values.ndim)
        for name, values in given.items()
    )
