"""The C++ runtime in a process of its own, asked like a `Restorer`; restore_stream.cpp is the other end.

A request is a line of options, the image, and each other input after a line with its name. An image is a line ``type
height width channels samples`` and its bytes. An answer is ``restored`` with numbers, the notices and the image; or an
error in one line.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from keygraph import plugins
from keygraph.errors import InputError, KeygraphError
from numpy.typing import NDArray

SOURCE = Path(__file__).with_suffix(".cpp")
ROOT = Path(__file__).parents[2]


def compiler() -> str:
    """The C++ compiler; skips the test without one."""
    found = os.environ.get("CXX") or shutil.which("c++")
    if not found:
        pytest.skip("there is no C++ compiler")
    return found


def onnxruntime_library() -> Path:
    """ONNX Runtime's library in the Python package, so that both sides run the same."""
    onnxruntime = pytest.importorskip("onnxruntime")
    (found,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*")
    return found


def compile_program(source: Path, program: Path) -> Path:
    """Compile with the installed C++ runtime, or that of the build that KEYGRAPH_LIBRARY_DIR names."""
    folder = os.environ.get("KEYGRAPH_LIBRARY_DIR")
    if folder:
        build = Path(folder).resolve()
        cache = (build / "CMakeCache.txt").read_text(encoding="utf-8")
        include, library = ROOT / "cpp" / "include", build
        checks = ["-fsanitize=address,undefined", "-g"] if "KEYGRAPH_SANITIZE:BOOL=ON" in cache else []
    else:
        include, library = plugins.development_folder("include"), plugins.development_folder("lib")
        checks = []
    command = [compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", *checks, str(source), "-o", str(program)]
    command += [f"-I{include}", f"-L{library}", "-lkeygraph_runtime", f"-Wl,-rpath,{library}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@dataclass(frozen=True)
class CppRestored:
    """As `runtime.restored.Restored`; `reported` is the number of tiles that the callback was told at the end."""

    image: NDArray[Any]
    k: int
    tiles: int
    tile: tuple[int, int]
    overlap: int
    batch: int
    padded: bool
    reported: int
    notices: tuple[str, ...]


class CppRestorer:
    """A model in a process of the test program."""

    def __init__(
        self,
        program: Path,
        model: Path,
        library: str | Path | None = "auto",
        threads: int = 1,
        onnxruntime: str = "",
        address_space: int = resource.RLIM_INFINITY,
    ) -> None:
        onnxruntime = onnxruntime or str(onnxruntime_library())
        command = [str(program), str(model), str(library or "none"), onnxruntime, str(threads)]
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space)),
        )
        try:
            self.description = self._line()
            self.notices = tuple(self._line() for _ in range(int(self._line())))
        except BaseException:
            self.close()
            raise

    def close(self) -> int:
        """End the process; return its exit code, which is 0 where nothing was found by a sanitizer."""
        self._process.communicate()
        return self._process.returncode

    def __enter__(self) -> CppRestorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self.close()
        assert kind is not None or code == 0

    def restore(
        self,
        image: NDArray[Any],
        k: int | None = None,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        **options: Any,
    ) -> CppRestored:
        """As `Restorer.restore`."""
        given = {"k": k, **options, "inputs": len(inputs or {})}
        stream = self._process.stdin
        assert stream is not None
        stream.write(f"{' '.join(f'{name} {value}' for name, value in given.items() if value is not None)}\n".encode())
        stream.write(_encoded(image))
        for name, values in (inputs or {}).items():
            stream.write(f"{name}\n".encode() + _encoded(values))
        stream.flush()
        word, *numbers = self._line().split()
        assert word == "restored"
        k_used, tiles, height, width, overlap, batch, padded, reported, count = map(int, numbers)
        notices = tuple(self._line() for _ in range(count))
        restored = self._image()
        if image.ndim == 2 and restored.shape[2] == 1:
            restored = restored[:, :, 0]
        return CppRestored(restored, k_used, tiles, (height, width), overlap, batch, bool(padded), reported, notices)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line.endswith("\n"), f"the program ended: {line}"
        line = line[:-1]
        for start, kind in (("input error ", InputError), ("error ", KeygraphError)):
            if line.startswith(start):
                raise kind(line[len(start) :])
        return line

    def _image(self) -> NDArray[Any]:
        kind, *sizes = self._line().split()
        shape = tuple(map(int, sizes))
        assert self._process.stdout is not None
        values = self._process.stdout.read(int(np.prod(shape)) * np.dtype(kind).itemsize)
        return np.frombuffer(values, kind).reshape(shape)


def _encoded(image: NDArray[Any]) -> bytes:
    whole = image[:, :, None] if image.ndim == 2 else image
    sizes = " ".join(map(str, (*whole.shape, whole.size)))
    return f"{whole.dtype.name} {sizes}\n".encode() + np.ascontiguousarray(whole).tobytes()
