"""A model's configuration in the text form that the server reads, `config.pbtxt`: the part of it that is used here."""

from __future__ import annotations

import json
from dataclasses import dataclass

#: NumPy's name of a type -> the server's.
DATA_TYPES = {
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "int64": "TYPE_INT64",
    "bytes": "TYPE_STRING",
}


@dataclass(frozen=True)
class TensorConfig:
    """An input or an output.

    Attributes
    ----------
    name
        Its name.
    dtype
        A key of `DATA_TYPES`.
    dims
        Sizes, -1 for any; without the batch where the model has one.
    optional
        Whether a request may leave it out.
    shape_tensor
        Whether TensorRT reads its values to compute shapes.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False
    shape_tensor: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of one model.

    Attributes
    ----------
    name
        Name of the model, and of its folder.
    backend, platform
        What runs it, and the platform that the server expects with that backend; empty where it expects none.
    filename
        Its file in the folder of its version.
    max_batch_size
        Most items in a batch; 0 where the first axis of its tensors is no batch. Above 1, the server joins requests.
    inputs, outputs
        Its tensors.
    kind, instances
        ``"KIND_CPU"`` or ``"KIND_GPU"``, and how many run at a time, on each GPU.
    profiles
        Optimization profiles of a TensorRT engine that may be used.
    libraries
        Operator libraries that ONNX Runtime loads, as paths on the server.
    """

    name: str
    backend: str
    platform: str
    filename: str
    max_batch_size: int
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    kind: str
    instances: int
    profiles: tuple[int, ...] = ()
    libraries: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return the content of `config.pbtxt`."""
        lines = [f"name: {_text(self.name)}", f"backend: {_text(self.backend)}"]
        if self.platform:
            lines.append(f"platform: {_text(self.platform)}")
        lines += [f"default_model_filename: {_text(self.filename)}", f"max_batch_size: {self.max_batch_size}"]
        for word, tensors in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"{word} [\n" + ",\n".join(map(_tensor, tensors)) + "\n]"]
        group = [f"kind: {self.kind}", f"count: {self.instances}"]
        if len(self.profiles) > 1:
            group.append(f"profile: [ {', '.join(_text(str(number)) for number in self.profiles)} ]")
        lines.append("instance_group [\n" + _message(group) + "\n]")
        if self.max_batch_size > 1:
            # What waits when an instance is free runs together. No request waits for others to come.
            lines.append("dynamic_batching { }")
        if self.libraries:
            lines.append(f"model_operations {{ op_library_filename: [ {', '.join(map(_text, self.libraries))} ] }}")
        return "\n".join(lines) + "\n"


def _tensor(tensor: TensorConfig) -> str:
    lines = [
        f"name: {_text(tensor.name)}",
        f"data_type: {DATA_TYPES[tensor.dtype]}",
        f"dims: [ {', '.join(map(str, tensor.dims))} ]",
    ]
    if tensor.optional:
        lines.append("optional: true")
    if tensor.shape_tensor:
        lines.append("is_shape_tensor: true")
    return _message(lines)


def _message(fields: list[str]) -> str:
    return "  {\n" + "".join(f"    {line}\n" for line in fields) + "  }"


def _text(value: str) -> str:
    # JSON escapes quotes, backslashes and control characters as protobuf's text format does.
    return json.dumps(value, ensure_ascii=False)
