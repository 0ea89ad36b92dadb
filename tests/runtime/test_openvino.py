"""The OpenVINO session: results, precision, operators, threads, exact tiles, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from exported import ExportStore
from keygraph import plugins
from keygraph.cli import main
from keygraph.errors import InputError, MissingDependencyError
from keygraph.instrumentation.metrics import psnr
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.errors import ClosedError, SessionMemoryError
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from tiny_channel_attention import CSA, GLMHA
from tiny_kgt import Tiny

openvino = pytest.importorskip("openvino")
from keygraph.runtime.backends import openvino as backend  # noqa: E402
from keygraph.runtime.backends import openvino_models as models  # noqa: E402
from keygraph.runtime.backends.openvino import OpenVinoSession  # noqa: E402

ModelFile = Callable[..., Path]

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU is not fast in bf16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def glmha(exports: ExportStore) -> Path:
    return exports.get(GLMHA, "glmha").onnx


def batch(size: int = 2, side: int = 32) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).random((size, 3, side, side + 16), np.float32)


@pytest.mark.parametrize("library", ["auto", None])
def test_a_kgt_is_equal_to_onnx_runtime(tiny: Tiny, library: str | None) -> None:
    """With all nodes selected, so that near ties select the same. In float32 both ways of computing agree."""
    session = OpenVinoSession(tiny.onnx, library)
    assert session.manifest.neighbours is not None
    every = session.manifest.neighbours.maximum
    expected = OnnxRuntimeSession(tiny.onnx).run(batch(), every)
    assert psnr(session.run(batch(), every), expected, (0.0, 1.0)) > 100
    words = "operators from libkeygraph_openvino.so" if library else "operators from the functions in the file"
    assert session.description.endswith(f"CPU in f32, {words}")
    # Another size, and k as an input.
    small = session.run(batch(1, 16), 4)
    assert psnr(small, OnnxRuntimeSession(tiny.onnx).run(batch(1, 16), 4), (0.0, 1.0)) > 50


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_files_of_every_precision(exports: ExportStore, precision: str) -> None:
    file = exports.get(GLMHA, "glmha", precision=precision).onnx
    session = OpenVinoSession(file)
    assert session.description.endswith("CPU in f32, standard operators")
    expected = OnnxRuntimeSession(exports.get(GLMHA, "glmha").onnx).run(batch(), None)
    span = float(expected.min()), float(expected.max())
    assert psnr(session.run(batch(), None), expected, span) > {"fp32": 100, "fp16": 50, "bf16": 35}[precision]


@needs_bf16
def test_bf16_is_less_exact_and_said(glmha: Path) -> None:
    session = OpenVinoSession(glmha, precision_hint="bf16")
    assert "CPU in bf16" in session.description
    expected = OpenVinoSession(glmha).run(batch(), None)
    assert 35 < psnr(session.run(batch(), None), expected, (0.0, 1.0)) < 90


@needs_bf16
@pytest.mark.parametrize(("needed", "taken"), [(20.0, "bf16"), (150.0, "f32")])
def test_the_first_batch_decides(glmha: Path, needed: float, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "AUTO_PSNR", needed)
    said: list[str] = []
    session = OpenVinoSession(glmha, precision_hint="auto", notice=said.append)
    assert "CPU in f32 or bf16, which the first batch decides" in session.description
    first = session.run(batch(), None)
    assert session.precision == taken
    np.testing.assert_array_equal(first, session.run(batch(), None))
    np.testing.assert_array_equal(first, OpenVinoSession(glmha, precision_hint=taken).run(batch(), None))
    (line,) = said
    assert line.startswith(f"OpenVINO computes in {taken}: bf16 agrees with f32 by ")


@needs_bf16
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bf16_that_overflows_is_not_taken(glmha: Path, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    session = OpenVinoSession(glmha, precision_hint="auto", notice=said.append)
    results = models.RunningBatch.results

    def overflowing(self: Any, *arguments: Any) -> Any:
        found = results(self, *arguments)
        return [np.full_like(result, value) for result in found] if self.idle is bf16._idle else found

    bf16 = (session._models or {})["bf16"]
    monkeypatch.setattr(models.RunningBatch, "results", overflowing)
    assert np.isfinite(session.run(batch(), None)).all()
    assert session.precision == "f32"
    assert said[0].startswith("OpenVINO computes in f32: ")


@needs_bf16
def test_a_model_that_is_closed_while_another_batch_decides_stays_closed(glmha: Path) -> None:
    session = OpenVinoSession(glmha, precision_hint="auto", notice=lambda _line: None)
    compiled = session._models
    session.close()
    assert compiled is not None
    with pytest.raises(ClosedError):
        session._choose(compiled, {})
    assert session._models is None


def test_auto_without_bf16_is_f32(glmha: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core(openvino.Core):  # type: ignore[misc, name-defined]
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return ["FP32"]

    monkeypatch.setattr(openvino, "Core", Core)
    assert OpenVinoSession(glmha, precision_hint="auto").precision == "f32"
    with pytest.raises(InputError, match="neither AMX nor AVX512-BF16"):
        OpenVinoSession(glmha, precision_hint="bf16")


@pytest.mark.parametrize("streams", [1, 3])
def test_streams_give_every_batch_its_own_result_in_order(glmha: Path, streams: int) -> None:
    session = OpenVinoSession(glmha, threads=3, streams=streams)
    assert session.streams == streams
    assert ("3 streams" in session.description) == (streams == 3)
    batches = [np.random.default_rng(i).random((1, 3, 16 + 8 * i, 24), np.float32) for i in range(7)]
    expected = [OpenVinoSession(glmha, threads=1).run(one, None) for one in batches]
    taken = []

    def given() -> Iterator[tuple[np.ndarray[Any, np.dtype[np.float32]]]]:
        for number, one in enumerate(batches):
            taken.append(number)
            yield (one.copy(),)

    results = session.run_batches(given(), None)
    for number, of_batch in enumerate(expected):
        # Each stream has a batch, one more waits, and one was just asked for.
        np.testing.assert_allclose(next(results), of_batch, atol=1e-5)
        assert len(taken) == min(7, number + streams + 2)
    assert next(results, None) is None


@needs_bf16
def test_the_first_of_many_batches_decides(glmha: Path) -> None:
    session = OpenVinoSession(glmha, threads=2, streams=2, precision_hint="auto", notice=lambda _line: None)
    results = list(session.run_batches(iter([(batch(),)] * 4), None))
    taken = OpenVinoSession(glmha, threads=2, precision_hint=session.precision).run(batch(), None)
    for result in results:
        np.testing.assert_allclose(result, taken, atol=1e-2)


def test_a_run_that_is_given_up_waits_for_what_it_has_started(glmha: Path) -> None:
    session = OpenVinoSession(glmha, threads=2, streams=2)
    results = session.run_batches(iter([(batch(),)] * 8), None)
    first = next(results)
    results.close()
    np.testing.assert_allclose(session.run(batch(), None), first, atol=1e-5)


def test_streams_must_be_possible(glmha: Path) -> None:
    with pytest.raises(InputError, match="streams is 3, but they share 2 threads"):
        OpenVinoSession(glmha, threads=2, streams=3)
    with pytest.raises(InputError, match="streams is 0; it must be a whole number from 1 to"):
        OpenVinoSession(glmha, streams=0)
    with pytest.raises(InputError, match="streams apply to the provider openvino only"):
        keygraph.load(glmha, streams=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--provider", "openvino", "--streams", "0"], "streams is 0; it must be a whole number from 1"),
        (["--streams", "2"], "streams apply to the provider openvino only; leave them out"),
        (["--provider", "openvino", "--threads", "1", "--streams", "2"], "streams is 2, but they share 1 thread;"),
        (["--device", "intel-gpu"], "OpenVINO alone runs on intel-gpu"),
    ],
)
def test_bad_options_of_restore_leave_nothing_behind(
    glmha: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    images.write(tmp_path / "a.png", Picture(np.zeros((16, 16, 3), np.uint8)))
    assert main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--model", str(glmha), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "b.png").exists()


def test_threads_get_their_own_results(glmha: Path) -> None:
    session = OpenVinoSession(glmha, threads=1)
    batches = [np.random.default_rng(i).random((1, 3, 16 + 8 * i, 24), np.float32) for i in range(4)]
    expected = [session.run(one, None) for one in batches]

    def wrong(index: int) -> int:
        return sum(not np.array_equal(session.run(batches[index], None), expected[index]) for _ in range(25))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(4))) == [0] * 4


def test_exact_tiles(exports: ExportStore) -> None:
    restorer = keygraph.load(exports.get(CSA, "csa").onnx, provider="openvino")
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    whole = restorer(image, tile="none")
    tiled = restorer.restore(image, tile=48, global_statistics="exact")
    assert tiled.sweeps > 0
    assert int(np.abs(tiled.image.astype(int) - whole.astype(int)).max()) <= 1


def test_a_second_start_uses_the_cache(glmha: Path, own_cache: Path) -> None:
    first = OpenVinoSession(glmha).run(batch(), None)
    assert list((own_cache / "keygraph" / "openvino").glob("*.blob"))
    np.testing.assert_array_equal(OpenVinoSession(glmha).run(batch(), None), first)


def test_close(glmha: Path) -> None:
    with OpenVinoSession(glmha) as session:
        session.run(batch(), None)
    with pytest.raises(ClosedError):
        session.run(batch(), None)
    with pytest.raises(ClosedError):
        session.exact()


def test_a_missing_library_is_announced(tiny: Tiny, glmha: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def library(host: str) -> Path:
        raise MissingDependencyError(f"{host} is not installed")

    monkeypatch.setattr(plugins, "library", library)
    said: list[str] = []
    session = OpenVinoSession(tiny.onnx, notice=said.append)
    assert said == ["slower plain functions are used in place of keygraph's operators: openvino is not installed"]
    assert "functions in the file" in session.description
    said.clear()
    OpenVinoSession(glmha, notice=said.append)  # It needs no library.
    assert said == []


def test_what_is_refused(glmha: Path, tiny: Tiny, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.so"
    wrong.write_bytes(b"not a library")
    with pytest.raises(InputError, match="does not load"):
        OpenVinoSession(tiny.onnx, library=wrong)
    with pytest.raises(InputError, match="the precision hint is 'fp8'; give one of f32, bf16, auto"):
        OpenVinoSession(glmha, precision_hint="fp8")
    with pytest.raises(InputError, match="threads is 0"):
        OpenVinoSession(glmha, threads=0)
    with pytest.raises(InputError, match="OpenVINO does not run on cuda:0"):
        keygraph.load(glmha, provider="openvino", device="cuda")
    with pytest.raises(InputError, match="OpenVINO alone runs on intel-gpu"):
        keygraph.load(glmha, device="intel-gpu")
    if not any(name.startswith("GPU") for name in openvino.Core().available_devices):
        with pytest.raises(InputError, match="OpenVINO finds no Intel GPU on this machine"):
            keygraph.load(glmha, provider="openvino", device="intel-gpu")
    with pytest.raises(InputError, match="applies to the provider openvino only"):
        keygraph.load(glmha, precision_hint="bf16")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(glmha.read_bytes()[:1000])
    with pytest.raises(InputError, match="is truncated"):
        OpenVinoSession(damaged)


def test_restore_and_compare(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "b.png"
    images.write(photo, Picture(np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)))
    assert main(["restore", str(photo), "-o", str(out), "--model", str(tiny.onnx), "--provider", "openvino"]) == 0
    assert "OpenVINO" in capsys.readouterr().err
    assert images.read(out).pixels.shape == (24, 40, 3)
    compare = ["compare", f"{tiny.onnx}@openvino", str(tiny.onnx), "--inputs", str(photo), "--k", "64"]
    assert main(compare) == 0
    assert "@openvino" in capsys.readouterr().out
    for wrong in (["--precision-hint", "bf16"], ["--provider", "openvino", "--precision-hint", "fp8"]):
        none = tmp_path / "none.png"
        assert main(["restore", str(photo), "-o", str(none), "--model", str(tiny.onnx), *wrong]) == 2
        assert "the precision hint " in capsys.readouterr().err
        assert not none.exists()
    assert main(["compare", f"{tiny.onnx}@fp16", str(tiny.onnx), "--inputs", str(photo)]) == 2
    assert "cannot be run as 'fp16'" in capsys.readouterr().err


#: Loads a model in OpenVINO with so many more MiB; prints the error.
LITTLE_MEMORY = """
import resource, sys
import keygraph, keygraph.runtime.restorer
model, bytes_text = sys.argv[1:]
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (int(bytes_text) << 20),) * 2)
try:
    keygraph.load(model, provider="openvino", library=None, threads=1)
except keygraph.KeygraphError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
@pytest.mark.parametrize("bytes_text", [20, 60])
def test_too_little_memory_is_said_in_one_line(make_model: ModelFile, bytes_text: int) -> None:
    command = [sys.executable, "-c", LITTLE_MEMORY, str(make_model("blur")), str(bytes_text)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "OpenVINO ran out of memory" in line or "too little memory to import OpenVINO" in line


def test_an_output_that_openvino_left_empty_is_too_little_memory(
    make_model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = OpenVinoSession(make_model("blur"), library=None)
    monkeypatch.setattr(models.RunningBatch, "results", lambda *_: [np.empty((0, 3, 0, 0), np.float32)])
    with pytest.raises(SessionMemoryError):
        session.run(np.zeros((1, 3, 16, 16), np.float32), None)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_file_without_its_functions_or_with_another_type_is_told_so(
    tiny: Tiny, tmp_path: Path, provider: str
) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "changed.onnx"
    model = onnx.load(tiny.onnx)
    del model.functions[:]
    onnx.save(model, path)
    with pytest.raises(InputError, match="has lost the function of keygraph's operator KeyGraph"):
        keygraph.load(path, library=None, provider=provider)
    model = onnx.load(tiny.onnx)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"has operators (whose types|that OpenVINO cannot convert \().*as exported"):
        keygraph.load(path, library=None, provider=provider)
