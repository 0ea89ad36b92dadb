"""Model specifications: a file, and after @ how to run it, for instance ``kgt.onnx@cuda:1``.

Of a Python file, after @ the weights and arguments of the network that it builds: ``my_model.py:build@net.ckpt``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import CHECKPOINT_SUFFIXES

#: Precisions in which a checkpoint can run.
PRECISIONS = ("fp32", "fp16", "bf16")

#: Run an ONNX file with the functions it contains instead of keygraph's operator library.
FUNCTIONS = "functions"

#: File name suffixes of models that can be compared.
SUFFIXES = (".onnx", ".plan", *CHECKPOINT_SUFFIXES)

#: Providers that a specification can name.
_PROVIDERS = ("tensorrt", "openvino")

_SOURCE = re.compile(r".+\.py(:.*)?", re.DOTALL)

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class ModelSpec:
    """A model file and how to run it.

    Attributes
    ----------
    path
        An exported .onnx file, an engine (.plan), a checkpoint or a Python file.
    precision
        For checkpoints: one of `PRECISIONS`; for ONNX files in OpenVINO: fp32 or bf16. None for float32.
    functions
        For ONNX files: run the functions in the file instead of keygraph's operator library.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None for the default, as `keygraph.load` chooses it.
    provider
        For ONNX files: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ``"openvino"``; None for the device's default.
    entry_point
        Of a Python file: its function that builds the network; None for other files.
    weights, arguments
        Of a Python file: the checkpoint with the network's weights, and the JSON file with the function's arguments.
    """

    path: Path
    precision: str | None = None
    functions: bool = False
    device: str | None = None
    provider: str | None = None
    entry_point: str | None = None
    weights: Path | None = None
    arguments: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files that it names."""
        return [path for path in (self.path, self.weights, self.arguments) if path is not None]

    def __str__(self) -> str:
        if self.entry_point is not None:
            words = (f"{self.path}:{self.entry_point}", self.weights, self.arguments, self.device)
            return "@".join(str(word) for word in words if word)
        # The device implies the other providers.
        provider = self.provider if self.provider in _PROVIDERS or self.device is None else None
        precision = self.precision
        if provider == "openvino":  # As it is documented: kgt.onnx@openvino@bf16.
            provider, precision = "@".join(word for word in (provider, precision) if word), None
        after = (precision, FUNCTIONS if self.functions else None, self.device, provider)
        return "@".join([str(self.path), *(word for word in after if word)])

    def by_default(self, device: str | None, provider: str | None) -> ModelSpec:
        """Fill in a device and a provider where neither is specified; the provider applies to ONNX files only."""
        if self.device is not None or self.provider is not None:
            return self
        return replace(self, device=device, provider=provider if self.path.suffix.lower() == ".onnx" else None)


def parse_spec(model: str | os.PathLike[str]) -> ModelSpec:
    """Parse ``kgt.ckpt``, ``kgt.ckpt@fp16``, ``kgt.onnx@cuda:1@tensorrt``, ``my_model.py:build@net.ckpt``, ...

    The words after @ may be in any order. The names of existing files are never split.

    Raises
    ------
    InputError
        The suffix is not that of a model, a word is unknown, repeated or not valid for this kind of file, or a Python
        file does not define the function.
    """
    text = os.fspath(model)
    name, *words = _split(text)
    if _SOURCE.fullmatch(name):
        return _of_source(text, name, words)
    spec = ModelSpec(Path(name))
    suffix = spec.path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"cannot tell the model type from the file name {text}; give a file that ends with {', '.join(SUFFIXES)}, "
            "or the function of a Python file, my_model.py:build"
        )
    for word in words:
        field = _field_of(text, word, suffix, "openvino" in words and word != "fp16")
        if getattr(spec, field):
            raise InputError(f"{text} specifies its {field} twice; give it once")
        change: dict[str, Any] = {field: True if field == "functions" else word}
        spec = replace(spec, **change)
    return spec


def _split(text: str) -> list[str]:
    """Split a specification at every @ that is not a part of the name of an existing file."""
    parts, words = text.split("@"), list[str]()
    while parts:
        joined = ["@".join(parts[:count]) for count in range(len(parts), 1, -1)]
        word = next((one for one in joined if os.path.exists(re.sub(r"(\.py):[^/@]*$", r"\1", one))), parts[0])
        words.append(word)
        parts = parts[word.count("@") + 1 :]
    return words


def is_model(text: str) -> bool:
    """Tell whether an argument is a model specification by its suffix, not an image."""
    name = _split(text)[0]
    return _SOURCE.fullmatch(name) is not None or Path(name).suffix.lower() in SUFFIXES


def _of_source(text: str, name: str, words: list[str]) -> ModelSpec:
    """Return the specification of a network that a Python file builds."""
    # Here, because models are named without PyTorch.
    from ...models.source_file import parse_entry_point

    point = parse_entry_point(name)
    spec = ModelSpec(point.path, entry_point=point.name)
    for word in words:
        suffix = Path(word).suffix.lower()
        field = "weights" if suffix in CHECKPOINT_SUFFIXES else "arguments" if suffix == ".json" else "device"
        if field == "device" and not _DEVICE.fullmatch(word):
            raise InputError(
                f"{text}: a Python file cannot be run as {word!r}; after @ give the checkpoint with its network's "
                "weights, a .json file with the arguments of its function, cpu, cuda or cuda:N"
            )
        if getattr(spec, field):
            raise InputError(f"{text} specifies its {field} twice; give it once")
        change: dict[str, Any] = {field: word if field == "device" else Path(word)}
        spec = replace(spec, **change)
    return spec


def _field_of(text: str, word: str, suffix: str, openvino: bool) -> str:
    """Return the field of `ModelSpec` that a word sets.

    Parameters
    ----------
    text
        The specification.
    word
        One of its words after @.
    suffix
        Suffix of the file's name.
    openvino
        Whether the word may be a precision that an ONNX file has in OpenVINO.
    """
    valid = ["cpu", "cuda", "cuda:N"]
    if suffix == ".onnx":
        valid = [FUNCTIONS, *valid, *_PROVIDERS, "openvino@bf16"]
    elif suffix in CHECKPOINT_SUFFIXES:
        valid = [*PRECISIONS, *valid]
    if _DEVICE.fullmatch(word):
        return "device"
    if word == FUNCTIONS and word in valid:
        return "functions"
    if word in _PROVIDERS and word in valid:
        return "provider"
    if word in PRECISIONS and (word in valid or openvino):
        return "precision"
    kind = {".onnx": "an ONNX file", ".plan": "an engine"}.get(suffix, "a checkpoint")
    raise InputError(f"{text}: {kind} cannot be run as {word!r}; after @ give {', '.join(valid)}")
