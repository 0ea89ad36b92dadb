"""Runs the harness that plays TensorRT's part: writes the case and its tensors, reads what the plugin answered."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: How the harness names types; bfloat16 is in `uint16` arrays, which numpy has no type for.
TYPES: dict[type, str] = {
    np.float32: "float32",
    np.float16: "float16",
    np.uint16: "bfloat16",
    np.int32: "int32",
    np.int64: "int64",
    np.bool_: "bool",
}


def built(name: str) -> Path:
    """A file of the build that KEYGRAPH_LIBRARY_DIR names; skips the test where it is not there."""
    path = Path(os.environ.get("KEYGRAPH_LIBRARY_DIR", ".")) / name
    if not path.is_file():
        pytest.skip(
            f"{name} is not built: make tensorrt TENSORRT_ROOT=<an SDK, or a folder with its headers>",
            allow_module_level=True,
        )
    return path.absolute()


@dataclass
class Answers:
    """What the plugin answered, in order, and the outputs that it computed.

    `outputs`: "run" for the deserialized plugin's, "replayed" for the CUDA graph's, a tactic's number for what the
    builder ran; only those that were computed.
    """

    lines: list[tuple[str, str]]
    outputs: dict[str, np.ndarray]

    def all(self, key: str) -> list[str]:
        return [value for name, value in self.lines if name == key]

    def one(self, key: str) -> str:
        (value,) = self.all(key)
        return value


def play(
    folder: Path,
    op: str,
    inputs: Sequence[np.ndarray],
    output: tuple[tuple[int, ...], type],
    *,
    library: Path,
    memory: str = "host",
    fields: Mapping[str, tuple[str, Any]] | None = None,
    node: str = "layers.3/the node",
    tactic: int = 0,
    offset: int = 0,
    environment: Mapping[str, str] | None = None,
    ends: bool = True,
) -> Answers:
    """Take the plugin through its life.

    Parameters
    ----------
    folder
        For files.
    op, node
        The plugin's and the node's name.
    inputs
        The tensors.
    output
        The output's shape and type.
    library
        The plugin library.
    memory
        ``"host"`` for the library over the CPU kernels, ``"device"`` for a GPU.
    fields
        Name -> (TensorRT's field type, value).
    tactic
        What the engine says at run time.
    offset
        Bytes from an aligned address to the tensors of the storage type.
    environment
        Added to the process's.
    ends
        False where the plugin must refuse the case on the way.

    Raises
    ------
    AssertionError
        The play ended elsewhere.
    """
    shape, dtype = output
    lines = [f"op {op}", f"node {node}", f"tactic {tactic}", f"offset {offset}"]
    lines += [f"field {name} {type_} {value}" for name, (type_, value) in (fields or {}).items()]
    for index, array in enumerate(inputs):
        path = folder / f"input{index}.bin"
        path.write_bytes(np.ascontiguousarray(array).tobytes())
        lines.append(f"input {TYPES[array.dtype.type]} {','.join(map(str, array.shape))} {path}")
    out = folder / "output.bin"
    for old in folder.glob("output.bin*"):
        old.unlink()
    lines.append(f"output {TYPES[dtype]} {','.join(map(str, shape))} {out}")
    case = folder / "case.txt"
    case.write_text("\n".join(lines) + "\n")
    result = subprocess.run(
        [built("keygraph_trt_harness"), library, memory, case],
        capture_output=True,
        text=True,
        env=os.environ | dict(environment or {}),
        check=False,
    )
    answers = [(key, value) for key, _, value in (line.partition("\t") for line in result.stdout.splitlines())]
    assert result.returncode == (0 if ends else 1), result.stdout + result.stderr
    assert answers[-1][0] == ("end" if ends else "broken")
    outputs: dict[str, np.ndarray] = {
        path.name.removeprefix("output.bin").lstrip(".") or "run": np.fromfile(path, dtype).reshape(shape)
        for path in folder.glob("output.bin*")
    }
    return Answers(answers, outputs)
