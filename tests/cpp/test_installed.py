"""The example, compiled as a user would: with CMake and with pkg-config, against the installed package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keygraph
import numpy as np
import pytest
from keygraph import plugins
from keygraph.errors import MissingDependencyError
from keygraph.runtime.io import images
from restore_stream import compiler
from test_package import without_network

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
DATA = ROOT / "tests" / "compatibility" / "data"


def run(*command: str | Path, **environment: str) -> str:
    # Importing keygraph has set this; a C++ program has to set it itself.
    names = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | environment
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=names)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def folder_of(what: str) -> str:
    return run(sys.executable, "-m", "keygraph.plugins", what)


def with_cmake(build: Path) -> Path:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("there is no CMake")
    run(cmake, "-S", EXAMPLE, "-B", build, f"-Dkeygraph_DIR={folder_of('cmake')}", CXX=compiler())
    run(cmake, "--build", build)
    return build / "restore"


def with_pkg_config(build: Path) -> Path:
    pkg_config = shutil.which("pkg-config")
    if pkg_config is None:
        pytest.skip("there is no pkg-config")
    flags = run(pkg_config, "--cflags", "--libs", "keygraph", PKG_CONFIG_PATH=folder_of("pkgconfig")).split()
    run(compiler(), "-std=c++17", EXAMPLE / "restore.cpp", *flags, "-o", build / "restore")
    return build / "restore"


def compiled(source: Path) -> Path:
    include, library = plugins.development_folder("include"), plugins.development_folder("lib")
    flags = [f"-I{include}", f"-L{library}", "-lkeygraph_runtime", f"-Wl,-rpath,{library}", "-pthread"]
    run(compiler(), "-std=c++17", source, *flags, "-o", source.with_suffix(""))
    return source.with_suffix("")


@pytest.mark.parametrize("build", [with_cmake, with_pkg_config])
def test_the_example_restores_a_photo(build: Callable[[Path], Path], tmp_path: Path) -> None:
    program = build(tmp_path)
    photo = images.read(DATA / "photo.png").pixels
    height, width, _ = photo.shape
    (tmp_path / "in.ppm").write_bytes(f"P6\n{width} {height}\n255\n".encode() + photo.tobytes())
    # Finds ONNX Runtime in the Python package beside keygraph, and the operators beside its own library.
    run(program, DATA / "tiny.onnx", tmp_path / "in.ppm", tmp_path / "out.ppm")
    header = f"P6\n{width} {height}\n255\n".encode()
    written = (tmp_path / "out.ppm").read_bytes()
    assert written.startswith(header)
    restored = np.frombuffer(written[len(header) :], np.uint8).reshape(photo.shape)
    np.testing.assert_array_equal(restored, keygraph.load(DATA / "tiny.onnx")(photo))
    done = subprocess.run([program, DATA / "tiny.onnx", DATA / "photo.png", "x"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {DATA / 'photo.png'} is not a PPM file of 8 bits (P6)\n".encode(),
    )


def test_the_example_is_short() -> None:
    assert len((EXAMPLE / "restore.cpp").read_text(encoding="utf-8").splitlines()) <= 40


def test_the_files_are_relocatable(tmp_path: Path) -> None:
    """A wheel lies anywhere, and is moved with its environment."""
    source = plugins.development_folder("lib").parent
    for file in (*source.rglob("*.cmake"), *source.rglob("*.pc")):
        assert str(source) not in file.read_text(encoding="utf-8")
    shutil.copytree(source / "lib" / "pkgconfig", tmp_path / "moved" / "lib" / "pkgconfig")
    if shutil.which("pkg-config"):
        flags = run("pkg-config", "--cflags", "keygraph", PKG_CONFIG_PATH=str(tmp_path / "moved/lib/pkgconfig"))
        assert Path(flags.removeprefix("-I")).resolve() == tmp_path / "moved" / "include"


def test_the_command_that_prints_the_folders() -> None:
    for what in plugins.DEVELOPMENT_FOLDERS:
        assert Path(folder_of(what)).is_dir()
    done = subprocess.run([sys.executable, "-m", "keygraph.plugins"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == "usage: python -m keygraph.plugins {include|lib|cmake|pkgconfig}\n"


def test_without_the_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plugins, "__path__", [str(tmp_path)])
    with pytest.raises(MissingDependencyError, match="the C\\+\\+ runtime is not installed beside keygraph"):
        plugins.development_folder("cmake")
    with pytest.raises(ValueError, match="choose one of include, lib, cmake, pkgconfig"):
        plugins.development_folder("header")


@pytest.mark.parametrize("seconds", [0, pytest.param(14, marks=pytest.mark.slow)])
def test_nothing_reaches_for_the_network(tmp_path: Path, seconds: int) -> None:
    """ONNX Runtime asks a name server within 10 seconds after it is loaded, unless it is told not to."""
    source = tmp_path / "wait.cpp"
    source.write_text(
        """
        #include <unistd.h>
        #include <cstdlib>
        #include <keygraph/runtime.hpp>
        int main(int, char** arguments) {
          const keygraph::Restorer restorer(arguments[1]);
          sleep(static_cast<unsigned>(std::stoi(arguments[2])));
          return std::string(std::getenv("ORT_DISABLE_TELEMETRY")) == "1" ? std::system("cat /proc/self/net/snmp") : 1;
        }
        """,
        encoding="utf-8",
    )
    names, values = run(*without_network(), compiled(source), DATA / "tiny.onnx", str(seconds)).splitlines()[:2]
    assert dict(zip(names.split(), values.split(), strict=True))["OutNoRoutes"] == "0"


def test_threads_share_a_restorer(tmp_path: Path) -> None:
    source = tmp_path / "threads.cpp"
    source.write_text(
        """
        #include <keygraph/runtime.hpp>
        #include <thread>
        int main(int, char** arguments) {
          keygraph::Restorer first(arguments[1]);
          const keygraph::Restorer restorer = std::move(first);
          std::vector<keygraph::Image> images, results(4);
          for (int i = 0; i < 4; i++) {
            std::vector<float> samples;
            for (int j = 0; j < 30 * 40 * 3; j++) samples.push_back(static_cast<float>((i + 1) * j % 256) / 255);
            images.push_back({30, 40, 3, std::move(samples)});
          }
          std::vector<std::thread> threads;
          for (std::size_t i = 0; i < 4; i++) {
            threads.emplace_back([&, i] { results[i] = restorer.restore(images[i]).image; });
          }
          for (std::thread& thread : threads) thread.join();
          for (std::size_t i = 0; i < 4; i++) {
            if (results[i].samples != restorer.restore(images[i]).image.samples) return 1;
          }
          return 0;
        }
        """,
        encoding="utf-8",
    )
    run(compiled(source), DATA / "tiny.onnx")
