"""Run an exported ONNX file and expose intermediate tensors for reading and overriding.

The packages onnx and onnx_ir are needed to use this module, not to import it.
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
from ..runtime.backends.emulated_half import emulate_half
from ..runtime.backends.onnx_file import load_onnx, read_onnx
from ..runtime.backends.onnx_providers import PROVIDERS, cuda_provider, reason, session_options
from ..runtime.backends.onnxruntime import register_operators
from ..runtime.device.spec import Device

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx import ModelProto

#: Key of the folder where a session that is created from bytes looks for external data.
_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"


class ExposedSession:
    """Runs an exported file in ONNX Runtime, with one session for each set of tensors that are read or overridden.

    Parameters
    ----------
    path
        A file that `OnnxRuntimeSession` opens.
    library
        As for `OnnxRuntimeSession`.
    rounded
        Emulate the half precision of the file in float32, as a GPU computes it (see `emulate_half`). A bf16 file is
        always emulated, because the CPU has no kernels for it.
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

        file = Path(path)
        self._folder = file.absolute().parent
        self._library = library
        self._providers: list[Any] = [PROVIDERS["cpu"]]
        if device.kind == "cuda":
            self._providers.insert(0, cuda_provider(device))
        #: The file's model, without weights that are stored in separate files.
        self.model = read_onnx(file)
        self._runs = self.model
        bf16 = any(weight.data_type == onnx.TensorProto.BFLOAT16 for weight in self.model.graph.initializer)
        self._rounded = rounded or bf16
        if self._rounded:
            self._runs = emulate_half(load_onnx(file))
        elif any((self._folder / location).is_symlink() for location in _data_files(self.model)):
            # ONNX Runtime follows such a link only if the model is a link as well, and this one is in memory.
            self._runs = load_onnx(file)
        (image,) = (value for value in self._runs.graph.input if value.name == IMAGE_INPUT)
        self._inputs = [value.name for value in self._runs.graph.input if value.name != K_INPUT]
        self._type = onnx.helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
        self._sessions: dict[tuple[tuple[str, ...], tuple[tuple[str, np.dtype[Any]], ...]], Any] = {}

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the dtype that a floating-point tensor has when the file runs."""
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
        overrides: Mapping[str, NDArray[Any]] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Restore a batch, as `OnnxRuntimeSession.run` does, with intermediate tensors exposed.

        Parameters
        ----------
        images
            float32[B, in_channels, H, W].
        k
            None for a file without this input.
        extras
            float32[B, channels, H, W] for each of the manifest's `extra_inputs`.
        read
            Names of the tensors to return.
        overrides
            Values that replace tensors, by name, for every node that reads them. Their dtype is that of `dtype`. A
            tensor in `read` is returned as the file computes it, even if it is overridden.

        Returns
        -------
        restored : float32[B, out_channels, H * scale, W * scale]
            The result.
        values : dict
            The result and the tensors in `read`, by name.

        Raises
        ------
        KeygraphError
            ONNX Runtime fails.
        """
        overrides = overrides or {}
        renamed = {name: f"{name}/override" for name in overrides}
        key = tuple(read), tuple((name, values.dtype) for name, values in overrides.items())
        feeds: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(values, dtype=self._type)
            for name, values in zip(self._inputs, (images, *extras), strict=True)
        }
        feeds |= {renamed[name]: np.ascontiguousarray(values) for name, values in overrides.items()}
        if k is not None:
            feeds[K_INPUT] = np.array([k], np.int64)
        wanted = list(dict.fromkeys([IMAGE_OUTPUT, *read]))
        try:
            if key not in self._sessions:
                self._sessions[key] = self._session(wanted[1:], overrides, renamed)
            values = dict(zip(wanted, self._sessions[key].run(wanted, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
            raise KeygraphError(f"ONNX Runtime failed while tensors were exposed: {reason(error)}") from error
        return np.asarray(values[IMAGE_OUTPUT], np.float32), values

    def _session(
        self, read: Sequence[str], overrides: Mapping[str, NDArray[Any]], renamed: Mapping[str, str]
    ) -> onnxruntime.InferenceSession:
        import onnx_ir as ir

        options = session_options()
        options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, str(self._folder))
        register_operators(options, self._library, lambda _message: None)
        model = ir.from_proto(self._runs)
        _expose(model.graph, read, overrides, renamed)
        return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=self._providers)


def _data_files(model: ModelProto) -> set[str]:
    """Return the locations of the files that store the weights of a model."""
    entries = (entry for weight in model.graph.initializer for entry in weight.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _expose(
    graph: ir.Graph, read: Sequence[str], overrides: Mapping[str, NDArray[Any]], renamed: Mapping[str, str]
) -> None:
    """Make a graph output the tensors in `read`, and read new graph inputs in place of the tensors in `overrides`."""
    import onnx_ir as ir

    tensors = ir.convenience.create_value_mapping(graph)
    for name, values in overrides.items():
        dtype = ir.TensorType(ir.DataType.from_numpy(values.dtype))
        override = ir.Value(name=renamed[name], type=dtype, shape=ir.Shape([None] * values.ndim))
        for node, index in tuple(tensors[name].uses()):
            node.replace_input_with(index, override)
        graph.inputs.append(override)
    graph.outputs.extend(tensors[name] for name in read)
