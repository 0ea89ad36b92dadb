"""The TensorRT session without a GPU: real files and errors, on a fake GPU and a fake TensorRT.

`tests/gpu/test_runtime_cuda.py` tests the real ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_tensorrt
import keygraph
import numpy as np
import pytest
from concurrency import at_the_same_time, in_fork
from fake_gpu import FakeGpu
from keygraph import plugins
from keygraph.errors import InputError, KeygraphError, MissingDependencyError
from keygraph.installation import install_line
from keygraph.manifest import ExtraInput, Manifest, Neighbours, Profile
from keygraph.runtime.backends import engine_metadata, tensorrt, tensorrt_bindings
from keygraph.runtime.backends.base import run_batches
from keygraph.runtime.backends.tensorrt import TensorRtSession
from keygraph.runtime.device.spec import Device
from keygraph.runtime.errors import ClosedError
from keygraph.runtime.restorer import Restorer

MakeManifest = Callable[..., Manifest]
EngineFile = Callable[..., Path]
NEIGHBOURS = Neighbours(64, 256)
PROFILES = (Profile((1, 2, 4), (32, 32, 64), (32, 32, 64)), Profile((2, 2, 2), (128,) * 3, (128,) * 3))
PLUGINS = list(tensorrt_bindings.PLUGINS)


@pytest.fixture
def make_engine(tmp_path: Path, make_manifest: MakeManifest) -> EngineFile:
    """Write an engine of `fake_tensorrt` and its metadata; keywords change the engine or its metadata."""

    def make(backend: str = "tensorrt", k: str | None = "device", **changes: Any) -> Path:
        of_engine = {name: changes.pop(name) for name in ("type", "too_large", "memory", "tensors") if name in changes}
        manifest = make_manifest(neighbours=NEIGHBOURS if k else None, profiles=PROFILES, **changes.pop("inputs", {}))
        down, across = manifest.margin
        profiles = [[[p.batch[i], 3, p.height[i] + down, p.width[i] + across] for i in (0, 2)] for p in PROFILES]
        extras = [extra.name for extra in manifest.extra_inputs]
        blob = json.dumps({"profiles": profiles, "k": k, "extras": extras, **of_engine}).encode()
        values: dict[str, Any] = {
            "engine_bytes": len(blob),
            "engine_sha256": hashlib.sha256(blob).hexdigest(),
            "key": "",
            "ingredients": {},
            "model": "kgt.onnx",
            "backend": backend,
            "version": fake_tensorrt.__version__,
            "cuda": "13",
            "target": "sm_89",
            "capability": (8, 9),
            "device": "",
            "plugin": None,
            "compatible": "none",
            "version_compatible": False,
            "host_code": False,
            "stripped": False,
            "tensors": (),
            "options": {"tile": "64"},
            "attempts": (),
            "memory": {},
            "seconds": 1.0,
            "read_back": "",
            "made_with": {},
            "manifest": manifest,
        }
        path = tmp_path / "kgt.sm89.plan"
        path.write_bytes(blob)
        engine_metadata.metadata_path(path).write_text(
            engine_metadata.EngineMetadata(**{**values, **changes}).to_json()
        )
        return path

    return make


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A fake GPU and both fake backends. A session that is opened after another was closed gets a new GPU."""

    def open_gpu(_device: Device) -> FakeGpu:
        if fake_tensorrt.gpu.closed:
            fake_tensorrt.gpu = FakeGpu()
        return fake_tensorrt.gpu

    fake_tensorrt.gpu = FakeGpu()
    fake_tensorrt.opened.clear()
    fake_tensorrt.loaded.clear()
    monkeypatch.setattr(fake_tensorrt, "creators", list(PLUGINS))
    both = {name: (("fake_tensorrt",), extra) for name, extra in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx"))}
    monkeypatch.setattr(tensorrt_bindings, "_BACKENDS", both)
    monkeypatch.setattr(tensorrt, "_open_gpu", open_gpu)
    for cache in (tensorrt_bindings.load_backend, tensorrt_bindings._load_once):
        cache.cache_clear()
    yield fake_tensorrt.gpu
    for cache in (tensorrt_bindings.load_backend, tensorrt_bindings._load_once):
        cache.cache_clear()


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).integers(0, 200, shape).astype(np.uint8)


def added(image: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = np.rint(np.clip(image + np.float32(255 * k / 1000), 0, 255))
    return result


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("where", ["device", "host"])
def test_photos_of_any_size_and_any_k(
    make_engine: EngineFile, gpu: FakeGpu, where: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    restorer = keygraph.load(make_engine(backend, where))
    for k in (40, 80, 40):
        for shape in ((200, 150, 3), (20, 200, 3), (50, 60, 3)):
            image = noise(*shape)
            np.testing.assert_array_equal(restorer(image, k), added(image, k))
    for text in (backend, "10.99.1", "cuda:0", "sm_89", "functions in the file"):
        assert text in restorer.description


def test_whatever_the_gpu_does_first(make_engine: EngineFile, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    path, image = make_engine(), noise(150, 100, 3)
    for seed in range(25):
        fake_tensorrt.gpu = FakeGpu(seed)
        restored = keygraph.load(path).restore(image, 110, tile=32, overlap=8, batch=3)
        np.testing.assert_array_equal(restored.image, added(image, 110))


def test_a_graph_serves_all_batches_of_one_shape_the_last_and_smaller_one_too(
    make_engine: EngineFile, gpu: FakeGpu
) -> None:
    restorer = keygraph.load(make_engine())
    restorer.restore(noise(32, 32 * 7, 3), 110, tile=32, overlap=0, batch=2)
    names = [work.name.split()[0] for work in gpu.history]
    # Four batches in two slots: the first batch of a slot runs the engine, the second one its graph.
    assert (names.count("compute"), names.count("graph"), gpu.graphs) == (2, 2, 2)
    restorer.restore(noise(32, 32 * 7, 3), 50, tile=32, overlap=0, batch=2)
    assert [work.name.split()[0] for work in gpu.history].count("compute") == 2
    restorer.restore(noise(64, 64, 3), 50, tile="none")
    assert gpu.graphs == 1  # those of the previous shape are destroyed
    restorer.session.close()  # type: ignore[attr-defined]
    assert (gpu.graphs, gpu.memory, gpu.closed) == (0, {}, True)


def check_freed(gpu: FakeGpu) -> None:
    """Check that everything is freed: graphs, then TensorRT's objects in reverse order of creation, then streams."""
    assert (gpu.graphs, gpu.memory, gpu.pinned_blocks, gpu.closed) == (0, {}, [], True)
    last = {name: place for place, name in enumerate(gpu.freed)}
    order = ["graph", "context", "engine", "runtime", "streams"]
    places = [last[name] for name in order if name in last]
    assert {"context", "engine", "runtime", "streams"} <= set(last)
    assert places == sorted(places)
    assert [gpu.freed.count(name) for name in order[1:]] == [1] * 4


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Disable the garbage collector, because memory must be freed without it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_close_frees_everything_once(
    make_engine: EngineFile, gpu: FakeGpu, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = TensorRtSession(make_engine(backend))
    list(run_batches(session, iter([(np.zeros((2, 3, 32, 32), np.float32),)] * 5), 110))
    fake_tensorrt.opened.clear()  # it refers to TensorRT-RTX's configuration
    session.close()
    check_freed(gpu)
    session.close()
    check_freed(gpu)
    with pytest.raises(KeygraphError, match="has been closed"):
        session.run(np.zeros((2, 3, 32, 32), np.float32), 110)


@pytest.mark.usefixtures("no_collector")
def test_a_session_that_nobody_has_any_more_is_freed(make_engine: EngineFile, gpu: FakeGpu) -> None:
    restorer = keygraph.load(make_engine())
    restorer.restore(noise(32, 32 * 7, 3), 110, tile=32, overlap=0, batch=2)
    assert gpu.freed == []
    del restorer
    check_freed(gpu)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("changes", "call"),
    [
        ({"too_large": True}, ""),
        ({"tensors": ["x", "y"]}, ""),
        ({"type": "BF16"}, ""),
        ({}, "event"),
        ({}, "stream"),
    ],
)
def test_a_session_that_does_not_open_is_freed_at_once(
    make_engine: EngineFile, gpu: FakeGpu, changes: dict[str, Any], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise KeygraphError("no more")

    if call:
        monkeypatch.setattr(gpu, call, fails)
    with pytest.raises(KeygraphError) as caught:
        TensorRtSession(make_engine(**changes))
    assert caught.tb is not None  # it keeps all frames alive
    assert gpu.closed
    assert [name for name in gpu.freed if name in ("engine", "runtime", "streams")] == ["engine", "runtime", "streams"]


@pytest.mark.usefixtures("no_collector")
def test_a_session_that_is_closed_between_two_results_gives_no_more(make_engine: EngineFile, gpu: FakeGpu) -> None:
    session = TensorRtSession(make_engine())
    batches = [(np.full((2, 3, 32, 32), number, np.float32),) for number in range(5)]
    results, others = (run_batches(session, iter(batches), 110) for _ in range(2))
    next(results)
    session.close()
    check_freed(gpu)
    with pytest.raises(KeygraphError, match="has been closed"):
        next(results)
    with pytest.raises(KeygraphError, match="has been closed"):
        next(others)


@pytest.mark.usefixtures("no_collector")
def test_after_an_error_of_the_gpu_everything_is_let_go_of(make_engine: EngineFile, gpu: FakeGpu) -> None:
    session = TensorRtSession(make_engine())
    list(run_batches(session, iter([(np.zeros((2, 3, 32, 32), np.float32),)] * 3), 110))
    gpu.broken = True
    session.close()
    assert (gpu.graphs, gpu.pinned_blocks, gpu.closed) == (0, [], True)
    assert [name for name in gpu.freed if name in ("context", "engine", "runtime", "streams")] == [
        "context", "engine", "runtime", "streams",
    ]  # fmt: skip


def test_what_is_left_is_freed_when_the_process_ends(make_engine: EngineFile) -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import fake_tensorrt, numpy as np
        from keygraph.runtime.backends import tensorrt, tensorrt_bindings
        class Gpu(fake_tensorrt.FakeGpu):
            def close(self):
                super().close()
                print(self.graphs, self.memory, self.pinned_blocks, *(n for n in self.freed if n in names))
        names = "context", "engine", "runtime", "streams"
        fake_tensorrt.gpu = Gpu()
        tensorrt_bindings._BACKENDS = {{"tensorrt": (("fake_tensorrt",), "tensorrt")}}
        tensorrt._open_gpu = lambda device: fake_tensorrt.gpu
        session = tensorrt.TensorRtSession({str(make_engine())!r})
        images = np.zeros((1, 3, 32, 32), np.float32)
        results = session.run_batches(iter([(images,)] * 5), 110)
        next(results)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "{}", "[]", "context", "engine", "runtime", "streams"]


def test_k_on_the_host_has_a_graph_of_its_own(make_engine: EngineFile, gpu: FakeGpu) -> None:
    restorer, image = keygraph.load(make_engine(k="host")), noise(32, 32, 3)
    for k in (10, 20, 10, 20):
        np.testing.assert_array_equal(restorer(image, k), added(image, k))
    assert gpu.graphs == 2


def test_what_cannot_be_captured_runs_all_the_same(make_engine: EngineFile, gpu: FakeGpu) -> None:
    gpu.capturable = False
    image = noise(32, 32 * 7, 3)
    np.testing.assert_array_equal(keygraph.load(make_engine())(image, 110, tile=32, batch=2), added(image, 110))
    assert gpu.graphs == 0


def test_half_precision_at_the_borders(make_engine: EngineFile, gpu: FakeGpu) -> None:
    image = noise(40, 40, 3)
    restored = keygraph.load(make_engine(type="HALF"))(image, 110)
    np.testing.assert_allclose(restored.astype(float), added(image, 110), atol=1)
    with pytest.raises(InputError, match="neither float32 nor float16"):
        keygraph.load(make_engine(type="BF16"))


def test_a_model_without_k(make_engine: EngineFile, gpu: FakeGpu) -> None:
    image = noise(40, 40, 3)
    np.testing.assert_array_equal(keygraph.load(make_engine(k=None))(image), image)


def test_extra_inputs_and_margins_reach_the_engine(make_engine: EngineFile, gpu: FakeGpu) -> None:
    inputs = {"margin": (0, 6), "extra_inputs": (ExtraInput("mask", 3), ExtraInput("flow", 3, (2, 0)))}
    session = TensorRtSession(make_engine(inputs=inputs))
    rng = np.random.default_rng(0)

    def batch(count: int, height: int, width: int) -> tuple[np.ndarray[Any, Any], ...]:
        shapes = ((height, width + 6), (height, width), (height + 2, width))
        return tuple(rng.random((count, 3, *shape), np.float32) for shape in shapes)

    def total(image: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], flow: np.ndarray[Any, Any]) -> Any:
        return image[:, :, :, :-6] + mask + flow[:, :, :-2]

    # The largest size of the first profile counts without the margin; another batch size sets a new shape.
    batches = [batch(4, 64, 64), batch(3, 64, 64), batch(1, 32, 40), batch(2, 128, 128)]
    for given, result in zip(batches, run_batches(session, iter(batches), 100), strict=True):
        np.testing.assert_allclose(result, total(*given) + 0.1, atol=1e-6)
    image, *extras = batches[0]
    np.testing.assert_allclose(session.run(image, 50, *extras), total(*batches[0]) + 0.05, atol=1e-6)
    session.close()
    assert gpu.memory == {}
    with pytest.raises(InputError, match="tensors image, k, restored are not those"):
        TensorRtSession(make_engine(inputs=inputs, tensors=["image", "k", "restored"]))


def test_results_of_single_runs_are_the_callers(make_engine: EngineFile, gpu: FakeGpu) -> None:
    session = TensorRtSession(make_engine())
    ones, zeros = (np.full((1, 3, 32, 32), value, np.float32) for value in (1, 0))
    first = session.run(ones, 1)
    session.run(zeros, 1)
    session.run(zeros, 1)
    assert first.min() == np.float32(1.001)


def test_rtx_keeps_its_kernels(
    make_engine: EngineFile, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = make_engine("tensorrt-rtx")
    keygraph.load(path)(noise(32, 32, 3))
    (file,) = (tmp_path / "keygraph" / "tensorrt-rtx").iterdir()
    kept = file.read_bytes()
    assert kept.startswith(b"kernels")
    config = fake_tensorrt.opened[-1]["config"]
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert gpu.graphs == 0
    fake_tensorrt.gpu = FakeGpu()
    keygraph.load(path)
    assert fake_tensorrt.opened[-1]["config"].cache.blob == kept
    file.write_bytes(b"of another driver")
    fake_tensorrt.gpu = FakeGpu()
    keygraph.load(path)(noise(32, 32, 3))
    assert file.read_bytes() == kept


def test_memory_that_runs_out_halves_the_batch(make_engine: EngineFile, gpu: FakeGpu) -> None:
    image = noise(100, 100, 3)
    restored = keygraph.load(make_engine(memory=1)).restore(image, 110, tile=32, overlap=0, batch=4)
    np.testing.assert_array_equal(restored.image, added(image, 110))
    assert restored.batch == 1
    assert "tensorrt ran out of memory with 4 tiles" in restored.notices[0]


def test_sizes_and_k_that_an_engine_was_not_built_for(make_engine: EngineFile, gpu: FakeGpu) -> None:
    restorer = keygraph.load(make_engine())
    for options, message in (
        ({"tile": 256}, "built for 32 x 32 to 64 x 64 or 128 x 128 to 128 x 128; .*keygraph build .* --tile 256"),
        ({"tile": "none"}, r"\(1000 x 1000 pixels\), but this engine"),
        ({"batch": 5}, "at most 4 tiles of 32 x 32"),
        ({"k": 257}, "from 1 to 256, the most that this model takes"),
    ):
        with pytest.raises(InputError, match=message):
            restorer.restore(noise(1000, 1000, 3), **options)
    with pytest.raises(InputError, match="does not take 1 images of 256 x 256 pixels, but 1 to 4 of 32 x 32"):
        restorer.session.run(np.zeros((1, 3, 256, 256), np.float32), 1)
    np.testing.assert_array_equal(restorer(noise(128, 100, 3), 110, tile=128), added(noise(128, 100, 3), 110))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": "10.3.0"},
            r"built by TensorRT 10\.3\.0 for sm_89; here it is TensorRT 10\.99\.1, sm_89; rebuild with: ",
        ),
        ({"capability": (9, 0), "target": "sm_90"}, r"for sm_90; here it is .*sm_89; .*--target sm_89"),
        ({"engine_sha256": "0" * 64}, "is not the engine that"),
        ({"host_code": True, "version_compatible": True}, "code for the host"),
        ({"stripped": True}, "without its weights"),
        (
            {"plugin": engine_metadata.Plugin("libkeygraph_trt.so", "0" * 64)},
            "was built with a libkeygraph_trt.so of SHA-256",
        ),
        ({"too_large": True}, "needs 3 MiB for its activations, and the GPU has 1,024 of 8,192 MiB free .*smaller"),
        ({"tensors": ["x", "y"]}, "tensors x, y are not those of a keygraph engine"),
    ],
)
def test_an_engine_that_does_not_belong_here(
    make_engine: EngineFile,
    gpu: FakeGpu,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    library = tmp_path / "libkeygraph_trt.so"
    library.write_bytes(b"library")
    monkeypatch.setattr(plugins, "library", lambda host: library)
    path = make_engine(**changes)
    with pytest.raises(InputError, match=message):
        keygraph.load(path)
    if not {"too_large", "tensors"} & set(changes):
        assert fake_tensorrt.opened == []  # nothing was deserialized
    assert gpu.closed


def test_host_code_only_when_it_is_allowed(make_engine: EngineFile, gpu: FakeGpu) -> None:
    path = make_engine(host_code=True)
    keygraph.load(path, allow_host_code=True)
    keygraph.load(make_engine())
    assert [how["host_code"] for how in fake_tensorrt.opened] == [True, False]


def test_plugins_are_loaded_once_and_looked_for(
    make_engine: EngineFile, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libkeygraph_trt.so"

    def engine(content: bytes) -> Path:
        library.write_bytes(content)
        return make_engine(plugin=engine_metadata.Plugin(library.name, engine_metadata.file_sha256(library)))

    path = engine(b"library")
    for _ in range(2):
        fake_tensorrt.gpu = FakeGpu()
        assert library.name in keygraph.load(path, library=library).description
    assert fake_tensorrt.loaded == [str(library)]
    with pytest.raises(InputError, match=r"leave the library out, or build one that does with: .*--plugin none"):
        keygraph.load(path, library=None)
    tensorrt_bindings._load_once.cache_clear()
    monkeypatch.setattr(fake_tensorrt, "creators", [("KeyGraph", "1", "")])
    message = r"not register keygraph::KeyGraph version 1, keygraph::KeyGraphAttention .*\(no namespace\)::KeyGraph"
    with pytest.raises(InputError, match=message):
        keygraph.load(path, library=library)
    with pytest.raises(InputError, match=r"cannot load the plugin library .*libkeygraph_trt\.so"):
        keygraph.load(engine(b"broken"), library=library)


def test_an_engine_runs_on_gpus_only(make_engine: EngineFile) -> None:
    with pytest.raises(InputError, match="does not run on the device cpu"):
        keygraph.load(make_engine(), device="cpu")
    with pytest.raises(InputError, match=r"applies to \.onnx files only"):
        keygraph.load(make_engine(), provider="tensorrt")


def test_files_that_are_no_engine(make_engine: EngineFile, tmp_path: Path) -> None:
    path = make_engine()
    engine_metadata.metadata_path(path).unlink()
    with pytest.raises(InputError, match=r"kgt\.sm89\.plan\.json is missing"):
        keygraph.load(path)


def test_tensorrt_that_is_not_installed_is_named_with_its_line(
    make_engine: EngineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt_bindings.load_backend.cache_clear()
    absent = {"tensorrt": (("no_such_module",), "tensorrt"), "tensorrt-rtx": (("no_such_module",), "rtx")}
    monkeypatch.setattr(tensorrt_bindings, "_BACKENDS", absent)
    for backend, line in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")):
        with pytest.raises(MissingDependencyError, match=rf"{backend} .*{re.escape(install_line(line))}"):
            keygraph.load(make_engine(backend))
    with pytest.raises(InputError, match="no backend 'openvino'"):
        keygraph.load(make_engine("openvino"))


def test_without_a_driver_the_error_says_so(make_engine: EngineFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    from keygraph.runtime.device import cuda_driver as gpus

    real = gpus.require_gpu
    monkeypatch.setattr(
        "keygraph.runtime.device.cuda_runtime.require_gpu", lambda device: real(device, "libno-driver-here.so")
    )
    both = {"tensorrt": (("fake_tensorrt",), "tensorrt")}
    monkeypatch.setattr(tensorrt_bindings, "_BACKENDS", both)
    tensorrt_bindings.load_backend.cache_clear()
    with pytest.raises(InputError, match="needs NVIDIA's driver"):
        keygraph.load(make_engine())
    tensorrt_bindings.load_backend.cache_clear()


def test_the_real_bindings_are_called_as_they_want_to_be(
    make_engine: EngineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real TensorRT-RTX refuses the file, and reports that through keygraph's logger."""
    try:
        backend = tensorrt_bindings.load_backend("tensorrt-rtx")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(tensorrt, "_open_gpu", lambda device: FakeGpu())
    with pytest.raises(InputError, match=r"does not load in tensorrt-rtx .*incompatible serialization version"):
        keygraph.load(make_engine("tensorrt-rtx", version=backend.version))


def test_the_profiles_come_from_the_metadata(make_engine: EngineFile, gpu: FakeGpu) -> None:
    session = TensorRtSession(make_engine(), Device("cuda"))
    assert session.manifest.profiles == PROFILES
    assert dataclasses.replace(session.manifest, profiles=()) != session.manifest
    assert Restorer(session).manifest is session.manifest


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("where", ["device", "host"])
def test_threads_get_their_own_pixels(
    make_engine: EngineFile, gpu: FakeGpu, where: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    restorer = keygraph.load(make_engine(backend, where))

    def restore(number: int) -> None:
        image, k = noise(50 + 30 * (number % 2), 90, 3 + number % 3)[:, :, :3] + np.uint8(number), 40 + 10 * number
        options: dict[str, Any] = {"tile": (32, 64)[number % 2], "overlap": 8, "batch": 1 + number % 3}
        np.testing.assert_array_equal(restorer.restore(image, k, **options).image, added(image, k))

    at_the_same_time(6, restore, rounds=3)
    restorer.close()
    check_freed(gpu)


def test_streams_of_images_run_in_batches(make_engine: EngineFile, gpu: FakeGpu) -> None:
    restorer = keygraph.load(make_engine())
    images = [noise(32, 32, 3) + np.uint8(number) for number in range(12)]
    for restored, image in zip(restorer.many(images, 40), images, strict=True):
        np.testing.assert_array_equal(restored, added(image, 40))
    restorer.close()
    check_freed(gpu)


def test_runs_of_one_thread_may_alternate(make_engine: EngineFile, gpu: FakeGpu) -> None:
    session = TensorRtSession(make_engine())

    def batches(start: int) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
        return iter([(np.full((2, 3, 32, 32), start + number, np.float32),) for number in range(4)])

    for number, (first, other) in enumerate(
        zip(session.run_batches(batches(0), 100), session.run_batches(batches(100), 200), strict=True)
    ):
        assert (first == np.float32(number + 0.1)).all()
        assert (other == np.float32(number + 100.2)).all()
    session.close()
    check_freed(gpu)


def test_closing_waits_for_calls_in_other_threads(make_engine: EngineFile, gpu: FakeGpu) -> None:
    session = TensorRtSession(make_engine())
    images, begun = np.ones((2, 3, 32, 32), np.float32), threading.Barrier(4)

    def work(number: int) -> None:
        if number == 3:
            begun.wait()
            session.close()
            return
        begun.wait()
        with contextlib.suppress(ClosedError):
            while True:
                assert (session.run(images, 500) == np.float32(1.5)).all()

    at_the_same_time(4, work)
    check_freed(gpu)
    with pytest.raises(ClosedError, match="has been closed; load it again"):
        session.run(images, 500)


def test_an_engine_is_not_used_in_a_forked_process(make_engine: EngineFile, gpu: FakeGpu) -> None:
    restorer = keygraph.load(make_engine())
    assert "was loaded on a GPU before this process was forked" in in_fork(lambda: restorer(noise(32, 32, 3)))
    assert in_fork(restorer.close) == "fine"  # frees nothing of the parent's
    np.testing.assert_array_equal(restorer(noise(32, 32, 3), 50), added(noise(32, 32, 3), 50))
