"""How a model is named: a file, and after @ how it is to run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import CHECKPOINT_SUFFIXES

#: What a checkpoint may be run in.
PRECISIONS = ("fp32", "fp16", "bf16")

#: An ONNX file's operators from its own functions, not from our library.
FUNCTIONS = "functions"

#: What may be compared, by the suffix.
SUFFIXES = (".onnx", ".plan", *CHECKPOINT_SUFFIXES)

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class ModelSpec:
    """A model and how it runs.

    Attributes
    ----------
    path
        An exported .onnx file, an engine (.plan) or a checkpoint.
    precision
        For checkpoints: one of `PRECISIONS`; None for float32.
    functions
        For ONNX files: without our library.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None for the model's own, as `keygraph.load` chooses.
    provider
        For ONNX files: ``"cpu"``, ``"cuda"`` or ``"tensorrt"``; None for the device's own.
    """

    path: Path
    precision: str | None = None
    functions: bool = False
    device: str | None = None
    provider: str | None = None

    def __str__(self) -> str:
        # The device tells the provider of these names, but for TensorRT's.
        provider = self.provider if self.provider == "tensorrt" or self.device is None else None
        words = (self.precision, FUNCTIONS if self.functions else None, self.device, provider)
        return "@".join([str(self.path), *(word for word in words if word)])

    def by_default(self, device: str | None, provider: str | None) -> ModelSpec:
        """The same with what it does not say itself; a provider is for ONNX files only."""
        if self.device is not None or self.provider is not None:
            return self
        return replace(self, device=device, provider=provider if self.path.suffix.lower() == ".onnx" else None)


def parse_spec(model: str | os.PathLike[str]) -> ModelSpec:
    """Read ``kgt.ckpt``, ``kgt.ckpt@fp16``, ``kgt.onnx@functions``, ``kgt.onnx@cuda:1@tensorrt``, ...

    The words after @ may stand in any order. The name of an existing file is never taken apart.

    Raises
    ------
    InputError
        It is no model by its name, or a word is unknown, comes twice or does not go with this kind of file.
    """
    text = os.fspath(model)
    name, *words = [text] if Path(text).exists() else text.split("@")
    spec = ModelSpec(Path(name))
    suffix = spec.path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{text} is no model by its name; give one that ends with {', '.join(SUFFIXES)}")
    for word in words:
        field = _meaning(text, word, suffix)
        if getattr(spec, field):
            raise InputError(f"{text} says its {field} twice; say it once")
        change: dict[str, Any] = {field: True if field == "functions" else word}
        spec = replace(spec, **change)
    return spec


def _meaning(text: str, word: str, suffix: str) -> str:
    """The field of a `ModelSpec` that a word is for."""
    valid = ["cpu", "cuda", "cuda:N"]
    if suffix == ".onnx":
        valid = [FUNCTIONS, *valid, "tensorrt"]
    elif suffix in CHECKPOINT_SUFFIXES:
        valid = [*PRECISIONS, *valid]
    if _DEVICE.fullmatch(word):
        return "device"
    if word == FUNCTIONS and word in valid:
        return "functions"
    if word == "tensorrt" and word in valid:
        return "provider"
    if word in PRECISIONS and word in valid:
        return "precision"
    kind = {".onnx": "an ONNX file", ".plan": "an engine"}.get(suffix, "a checkpoint")
    raise InputError(f"{text}: {kind} cannot be run as {word!r}; after @ give {', '.join(valid)}")
