"""The functions that are fuzzed: each takes the bytes of a file, and returns whether it was read."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from keygraph.errors import KeygraphError
from keygraph.manifest import from_json
from keygraph.models import load_checkpoint
from keygraph.runtime.backends import engine_metadata
from keygraph.runtime.backends.engine_metadata import LoadEnvironment
from keygraph.runtime.device import memory
from keygraph.runtime.io import cubes

#: Free memory as the readers of cubes see it, so that a fuzzer's limit is not reached by arrays that would fit.
FREE_MEMORY = 256 * 2**20

Target = Callable[[bytes], None]


def read_checkpoint(data: bytes) -> None:
    """Read a checkpoint file, find the weights in it, and make the network."""
    suffix = ".pt" if data.startswith((b"PK", b"\x80")) else ".safetensors"
    with _file(f"a{suffix}", data) as path:
        loaded = load_checkpoint(path)
        assert all(bool(value.isfinite().all()) for value in loaded.module.state_dict().values())


def read_manifest(data: bytes) -> None:
    """Read a manifest; what is read is written and read again without a change."""
    manifest = from_json(data.decode("utf-8", errors="replace"), "a.onnx")
    again = from_json(manifest.to_json(), "a.onnx")
    # Compared as text, in which NaN equals NaN.
    assert again.to_json() == manifest.to_json()


def read_sidecar(data: bytes) -> None:
    """Read an engine's metadata, and check an engine against it."""
    with _file("a.plan.json", data) as path:
        engine = path.with_suffix("")
        engine.write_bytes(b"an engine")
        metadata = engine_metadata.read(engine)
        assert metadata.command().startswith("keygraph build")
        here = LoadEnvironment(metadata.backend, metadata.version, metadata.capability, allow_host_code=True)
        engine_metadata.check(engine, here)


def read_envi(data: bytes) -> None:
    """Read a header behind a line with the number of bytes of its samples."""
    first, _, header = data.partition(b"\n")
    count = int(first) if first.isdigit() and len(first) < 5 else 0
    with _file("a.hdr", header) as path:
        path.with_suffix(".img").write_bytes(bytes(range(256)) * (count // 256) + bytes(range(count % 256)))
        _read_cube(path)


def read_mat(data: bytes) -> None:
    """Read a file of MATLAB."""
    with _file("a.mat", data) as path:
        _read_cube(path)


#: The targets by name.
TARGETS: dict[str, Target] = {
    "checkpoint": read_checkpoint,
    "manifest": read_manifest,
    "sidecar": read_sidecar,
    "envi": read_envi,
    "mat": read_mat,
}


def run(target: Target, data: bytes) -> bool:
    """Run a target; return whether the file was read, False for an error of one line that says why not."""
    try:
        target(data)
    except KeygraphError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"the message has not one line: {error}") from error
        return False
    return True


def _read_cube(path: Path) -> None:
    with mock.patch.object(memory, "available", return_value=FREE_MEMORY):
        arrays = [line.partition(":")[0] for line in cubes.describe_arrays(path)]
        variable = "cube" if len(arrays) > 1 and "cube" in arrays else None
        header = cubes.read_header(path, variable, bands=3)
        cube = cubes.read(path, variable, bands=3)
        bands = 1 if cube.pixels.ndim == 2 else cube.pixels.shape[2]
        assert (*cube.pixels.shape[:2], bands) == (header.height, header.width, header.bands)
        assert (cube.pixels.dtype, cube.wavelengths) == (header.dtype, header.wavelengths)


@contextlib.contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    """Yield a file with this content, in a folder of its own, in memory where the system has that."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path
