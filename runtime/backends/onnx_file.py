"""Read the structure of an ONNX file with the package onnx, which is needed to call this module, not to import it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, MissingDependencyError
from ...files import read_start
from ...installation import install_line

if TYPE_CHECKING:
    from onnx import ModelProto


def read_onnx(path: Path) -> ModelProto:
    """Read an ONNX file without the weights that it stores in separate files.

    Parameters
    ----------
    path
        The file, exported by keygraph or not.

    Raises
    ------
    MissingDependencyError
        The package onnx is not installed.
    InputError
        The file is missing, or is not a complete ONNX file.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"reading ONNX files needs {error.name}; install it with: {install_line('export')}"
        ) from error
    read_start(path, "an exported .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise _not_onnx(path) from error
    # Protobuf accepts a truncated file whose last field is complete.
    if not model.ir_version or not model.graph.node:
        raise _not_onnx(path)
    return model


def metadata_of(model: ModelProto) -> dict[str, str]:
    """Return a model's `metadata_props` as a dictionary."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _not_onnx(path: Path) -> InputError:
    return InputError(
        f"{path} is not an ONNX file, or is truncated ({path.stat().st_size:,} bytes); export or download it again"
    )
