"""Polygraphy's Comparator over keygraph's artifacts: what agrees passes, what is planted is found, names stay."""

from __future__ import annotations

import hashlib
import math
import re
import runpy
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny_kgt
import torch
from engine_files import ENGINE, metadata_for
from keygraph.errors import InputError, KeygraphError, MissingDependencyError
from keygraph.export import export
from keygraph.installation import install_line
from keygraph.manifest import ExtraInput, Neighbours
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.mst import MST, MSTConfig
from keygraph.models.restormer import Restormer, RestormerConfig
from keygraph.parity.polygraphy import FeedDictsFromImages, ImageCompareFunc, SessionFromExported
from keygraph.parity.polygraphy import tensorrt as trt_loaders
from keygraph.parity.polygraphy.artifacts import manifest_of, tensors_of
from keygraph.parity.polygraphy.key_graphs import ForcedRunner, KeyGraphCompareFunc, RecordingRunner
from keygraph.parity.polygraphy.pytorch import ModelFromCheckpoint, TorchRunner
from keygraph.parity.polygraphy.script import write_script
from keygraph.runtime.backends.engine_metadata import Plugin, metadata_path
from keygraph.runtime.backends.pytorch import TorchSession
from keygraph.runtime.device.cuda_driver import Gpu
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from polygraphy import config as polygraphy_config
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.comparator import AccuracyResults, Comparator, IterationResult
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER
from tiny_kgt import Tiny, changed, set_manifest, set_weight

RESTORMER = RestormerConfig(channels=4, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 1, 1, 1))
MASKED = MSTConfig(bands=4, channels=4, blocks=(1, 1, 1))


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with tiny_kgt.one_thread(), G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield


@pytest.fixture(scope="module")
def restormer(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """For one shape only, which is exported in a quarter of the time."""
    folder = tmp_path_factory.mktemp("restormer")
    files = Tiny(folder / "restormer.ckpt", folder / "restormer.onnx")
    torch.manual_seed(0)
    save_checkpoint(files.checkpoint, Restormer(RESTORMER))
    export(load_checkpoint(files.checkpoint), files.onnx, shape=(1, 40, 56), verification=False)
    return files


def feed(tiny: Tiny, k: int = 16) -> OrderedDict[str, Any]:
    """Two different images in a batch."""
    batch = np.random.default_rng(0).random((2, 3, 24, 32), np.float32)
    return OrderedDict(image=batch, k=np.array([k], np.int64))


def infer(runner: Any, feed: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    with runner:
        outputs: OrderedDict[str, Any] = runner.infer(feed)
        assert runner.last_inference_time() is not None
        return outputs


def agree(runners: list[Any], feeds: Any, rules: Any, streaming: bool = True) -> AccuracyResults:
    results = Comparator.run(runners, data_loader=feeds, streaming=streaming)
    return Comparator.compare_accuracy(results, compare_func=rules)


# Sessions


def test_a_session_has_the_library_or_has_not(tiny: Tiny) -> None:
    ours, plain = SessionFromExported(tiny.onnx)(), SessionFromExported(tiny.onnx, library=None)()
    assert isinstance(ours, onnxruntime.InferenceSession)
    ours_runs, plain_runs = (OnnxrtRunner(session, name=name) for session, name in ((ours, "ours"), (plain, "plain")))
    assert agree([ours_runs, plain_runs], [feed(tiny)], ImageCompareFunc(psnr=90.0))
    with pytest.raises(InputError, match=r"none\.so does not exist; give another library"):
        SessionFromExported(tiny.onnx, library="none.so")()
    with pytest.raises(InputError, match="does not exist; give an exported"):
        SessionFromExported("none.onnx")()
    with pytest.raises(InputError, match="the device is 'tpu'"):
        SessionFromExported(tiny.onnx, device="tpu")


# PyTorch


def test_a_checkpoint_runs_under_the_names_of_the_file(tiny: Tiny) -> None:
    runner = TorchRunner(ModelFromCheckpoint(tiny.checkpoint), name="torch")
    with runner, OnnxrtRunner(SessionFromExported(tiny.onnx)) as file:
        ours, theirs = (one.get_input_metadata(use_numpy_dtypes=False) for one in (runner, file))
        assert [(name, meta.dtype) for name, meta in ours.items()] == [(n, m.dtype) for n, m in theirs.items()]
    given = feed(tiny)
    outputs = infer(runner, given)
    assert list(outputs) == ["restored"]
    model = load_checkpoint(tiny.checkpoint)
    expected = TorchSession(model.module, model.manifest()).run(given["image"], 16)
    np.testing.assert_array_equal(outputs["restored"], expected)  # the batch as it is, and its two images apart
    assert not np.array_equal(expected[0], expected[1])
    fewer = infer(runner, feed(tiny, k=4))["restored"]
    assert not np.allclose(fewer, expected, atol=1e-6)


def test_tensors_come_back_as_tensors(tiny: Tiny) -> None:
    given = OrderedDict((name, torch.from_numpy(values)) for name, values in feed(tiny).items())
    runner = TorchRunner(ModelFromCheckpoint(tiny.checkpoint))
    restored = infer(runner, given)["restored"]
    assert isinstance(restored, torch.Tensor)
    np.testing.assert_array_equal(restored.numpy(), infer(runner, feed(tiny))["restored"])


def test_precisions_round(tiny: Tiny) -> None:
    model = load_checkpoint(tiny.checkpoint)
    exact = infer(TorchRunner(model), feed(tiny))["restored"]
    numbers = []
    for precision in ("bf16", "fp16"):
        restored = infer(TorchRunner(model, precision), feed(tiny))["restored"]
        assert restored.dtype == np.float32
        numbers.append(ImageCompareFunc().measure(restored, exact).psnr)
    assert 30 < numbers[0] < numbers[1] < 90
    # A network that was given, not a callable, is left as it was.
    assert next(model.module.parameters()).dtype == torch.float32
    with pytest.raises(InputError, match="the precision is 'int8'; it must be one of fp32, fp16, bf16"):
        TorchRunner(model, "int8")


def test_tf32_is_off_while_it_runs_and_as_it_was_after(tiny: Tiny) -> None:
    model = load_checkpoint(tiny.checkpoint)
    seen = []
    model.module.register_forward_hook(
        lambda *_: seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
    )
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        infer(TorchRunner(lambda: model), feed(tiny))
        assert seen == [(False, False)]
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, True)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_device_that_is_not_there_is_said(tiny: Tiny) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"CUDA|GPU"):
        TorchRunner(ModelFromCheckpoint(tiny.checkpoint), device="cuda").activate()


def test_extra_inputs_keep_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "mst.ckpt"
    save_checkpoint(checkpoint, MST(MASKED))
    mask = np.random.default_rng(0).integers(0, 2, (32, 40)).astype(np.float32)
    measured = np.random.default_rng(1).random((32, 40 + manifest_of(checkpoint).margin[1]), np.float32)
    loader = FeedDictsFromImages([checkpoint], [{"image": measured, "mask": mask}])
    (given,) = loader
    assert list(given) == ["image", "mask"]
    np.testing.assert_array_equal(given["mask"][0, 0], mask)
    outputs = infer(TorchRunner(ModelFromCheckpoint(checkpoint)), given)
    assert outputs["restored"].shape == (1, 4, 32, 40)
    # The order of a feed does not matter, its names do.
    swapped = OrderedDict(reversed(list(given.items())))
    again = infer(TorchRunner(ModelFromCheckpoint(checkpoint)), swapped)
    np.testing.assert_array_equal(again["restored"], outputs["restored"])


def test_tensors_are_those_of_the_exported_file(make_manifest: Callable[..., Any]) -> None:
    fixed = make_manifest(
        shape=(2, 16, 24), margin=(0, 4), extra_inputs=(ExtraInput("mask", 1),), neighbours=Neighbours(4, 64)
    )
    assert tensors_of(fixed) == {
        "image": (np.float32, (2, 3, 16, 28)),
        "mask": (np.float32, (2, 1, 16, 24)),
        "k": (np.int64, (1,)),
    }
    assert list(tensors_of(make_manifest(neighbours=Neighbours(4, 64, runtime=False)))) == ["image"]


# Feeds


def test_real_images_are_fed_as_the_runtime_normalises_them(tiny: Tiny, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 300, 3)).astype(np.uint8)
    images.write(tmp_path / "photo.png", Picture(pixels))
    feeds = list(FeedDictsFromImages([tiny.onnx, tiny.checkpoint], [tmp_path / "photo.png"], k=8))
    assert [given["image"].shape for given in feeds] == [(1, 3, 24, 256), (1, 3, 24, 48)]
    joined = np.concatenate([given["image"] for given in feeds], axis=3)
    np.testing.assert_array_equal(joined[0, :, :20, :300], np.moveaxis(pixels, 2, 0).astype(np.float32) / 255)
    assert [given["k"].tolist() for given in feeds] == [[8], [8]]
    assert joined.dtype == np.float32


def test_a_feed_is_for_all_models(tiny: Tiny, tmp_path: Path) -> None:
    (generated,) = FeedDictsFromImages([tiny.onnx, tiny.checkpoint])
    assert generated["k"].tolist() == [16]
    fixed = changed(
        tiny.onnx,
        tmp_path / "fixed.onnx",
        lambda model: set_manifest(
            model, shape=(2, 24, 32), neighbours=Neighbours(default=8, maximum=64, runtime=False)
        ),
    )
    (given,) = FeedDictsFromImages([fixed, tiny.checkpoint])
    assert (given["image"].shape, given["k"].tolist()) == ((2, 3, 24, 32), [8])
    with pytest.raises(InputError, match=r"fixed\.onnx: k is fixed at 8"):
        list(FeedDictsFromImages([fixed, tiny.checkpoint], k=9))
    with pytest.raises(InputError, match=r"tiny\.onnx: k is 65; it must be"):
        list(FeedDictsFromImages([tiny.onnx, tiny.checkpoint], k=65))
    with pytest.raises(InputError, match="there is no model to feed"):
        FeedDictsFromImages([])
    with pytest.raises(InputError, match="cannot tell the model type"):
        list(FeedDictsFromImages(["photo.png"]))


# The rule


def result_of(image: np.ndarray[Any, Any]) -> IterationResult:
    return IterationResult({"restored": image, "other": image}, 1.0, "runner")


def test_psnr_has_the_value_range_for_its_peak() -> None:
    dark = np.full((1, 3, 8, 8), 0.01, np.float32)
    rule = ImageCompareFunc((0.0, 1.0), psnr=59.9)
    outcome = rule(result_of(dark), result_of(dark + np.float32(1e-3)))
    assert list(outcome) == ["restored"]
    assert outcome["restored"]
    assert outcome["restored"].psnr == pytest.approx(60, abs=0.01)
    assert outcome["restored"].max_abs == pytest.approx(1e-3, rel=1e-3)
    # Twice the range, twice the peak.
    assert ImageCompareFunc((-1.0, 1.0)).measure(dark, dark + np.float32(1e-3)).psnr == pytest.approx(66.02, abs=0.01)
    assert not ImageCompareFunc(psnr=61.0)(result_of(dark), result_of(dark + np.float32(1e-3)))["restored"]
    assert not ImageCompareFunc(max_abs=5e-4)(result_of(dark), result_of(dark + np.float32(1e-3)))["restored"]
    assert ImageCompareFunc(psnr=200.0, max_abs=0.0)(result_of(dark), result_of(dark))["restored"].psnr == math.inf


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_fails(value: float, both: bool) -> None:
    good = np.zeros((1, 3, 8, 8), np.float32)
    bad = good.copy()
    bad[0, 1, 2, 3] = value
    outcome = ImageCompareFunc()(result_of(bad), result_of(bad if both else good))["restored"]
    assert not outcome
    assert outcome.nonfinite == 1 + both


def test_other_shapes_and_other_names_fail() -> None:
    image = np.zeros((1, 3, 8, 8), np.float32)
    assert ImageCompareFunc()(result_of(image), result_of(image[:, :, :4]))["restored"] is False
    with pytest.raises(PolygraphyException, match="no common outputs"):
        ImageCompareFunc()(result_of(image), IterationResult({"output": image}, 1.0, "runner"))


def test_the_rule_follows_the_precision(make_manifest: Callable[..., Any]) -> None:
    def least(*precisions: str) -> float | None:
        manifests = [make_manifest(precision=precision) for precision in precisions]
        return ImageCompareFunc.from_manifests(manifests).thresholds_for("restored").psnr

    assert (least("fp32", "fp32"), least("fp16", "fp32"), least("fp16", "bf16")) == (90, 50, 40)


def test_numbers_are_saved_and_judged_again(tiny: Tiny, tmp_path: Path) -> None:
    recording = RecordingRunner(tiny.onnx, name="told")
    runners = [recording, ForcedRunner(tiny.checkpoint, recording, name="forced")]
    results = agree(runners, [feed(tiny)], [ImageCompareFunc(psnr=90.0), KeyGraphCompareFunc(16)])
    assert results
    results.save(str(tmp_path / "numbers.json"))
    again = AccuracyResults.load(str(tmp_path / "numbers.json"))
    assert again
    pair = ("told", "forced")
    assert again[0][pair][0]["restored"].psnr == results[0][pair][0]["restored"].psnr
    assert list(again[1][pair][0]) == ["body.0/graph", "body.1/graph"]
    again[0].reevaluate(ImageCompareFunc(psnr=200.0).thresholds_for(""))
    assert not again


def test_polygraphy_does_not_wait_for_pytorch() -> None:
    """Its command asks every extension for flags, whatever it was called for."""
    program = "import sys, keygraph.parity.polygraphy.arguments as ours; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


# Key graphs


def neighbours_agree(candidate: Path, tiny: Tiny, feeds: Any, streaming: bool = True) -> tuple[bool, bool]:
    """Whether the images agree with the same neighbours, and whether the neighbours do."""
    recording = RecordingRunner(candidate)
    runners = [recording, ForcedRunner(tiny.checkpoint, recording)]
    image, graphs = agree(runners, feeds, [ImageCompareFunc(psnr=90.0), KeyGraphCompareFunc(16)], streaming)
    assert not recording.recorded
    return bool(image), bool(graphs)


@pytest.mark.parametrize("streaming", [True, False])
def test_neighbours_are_forced_feed_by_feed(tiny: Tiny, streaming: bool) -> None:
    other = feed(tiny)
    other["image"] = other["image"][:, ::-1, ::-1].copy()
    assert neighbours_agree(tiny.onnx, tiny, [feed(tiny), other], streaming) == (True, True)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (tiny_kgt.fewer_neighbours, (True, False)),
        (tiny_kgt.swapped_channels, (False, True)),
        (set_weight("tail.weight", 0, lambda value: value + 0.01), (False, True)),
        (set_weight("tail.weight", 0, lambda _value: math.nan), (False, True)),
    ],
)
def test_faults_are_found_where_they_are(tiny: Tiny, tmp_path: Path, fault: Any, expected: tuple[bool, bool]) -> None:
    wrong = changed(tiny.onnx, tmp_path / "wrong.onnx", fault)
    assert neighbours_agree(wrong, tiny, [feed(tiny)]) == expected


def test_a_forced_runner_needs_its_candidate_before_it(tiny: Tiny) -> None:
    recording = RecordingRunner(tiny.onnx, name="told")
    with pytest.raises(KeygraphError, match="told has not run on these inputs; put it before forced"):
        infer(ForcedRunner(tiny.checkpoint, recording, name="forced"), feed(tiny))
    plain = result_of(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(KeygraphError, match="compare a RecordingRunner with its ForcedRunner"):
        KeyGraphCompareFunc(16)(plain, plain)


# The script


def run_script(path: Path) -> int:
    code: int = runpy.run_path(str(path), run_name="script")["main"]()
    return code


def test_the_script_of_a_network_with_key_graphs(tiny: Tiny, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    write_script(script, [tiny.onnx], tiny.checkpoint, k=8)
    assert run_script(script) == 0
    text = script.read_text()
    assert "K = 8\n" in text
    assert "PSNR = 90.0\n" in text
    assert str(tmp_path) not in text
    wrong = changed(tiny.onnx, tmp_path / "wrong.onnx", tiny_kgt.fewer_neighbours)
    write_script(script, [tiny.onnx, wrong], tiny.checkpoint)
    assert run_script(script) == 3


def test_the_script_runs_models_as_they_are_named(tiny: Tiny, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    write_script(script, [f"{tiny.checkpoint}@bf16", f"{tiny.onnx}@functions"], f"{tiny.checkpoint}@cpu")
    text = script.read_text()
    assert 'TorchRunner(ModelFromCheckpoint(CANDIDATES[0]), precision="bf16", name="tiny.ckpt@bf16"),' in text
    assert 'OnnxrtRunner(SessionFromExported(CANDIDATES[1], library=None), name="tiny.onnx@functions"),' in text
    assert 'TorchRunner(ModelFromCheckpoint(REFERENCE), device="cpu", name="tiny.ckpt@cpu"),' in text
    assert 'for candidate in [f"{CANDIDATES[0]}@bf16", f"{CANDIDATES[1]}@functions"]:' in text
    assert "PSNR = 40.0" in text
    assert run_script(script) == 0


def test_the_script_of_a_network_without(restormer: Tiny, tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "photo.png"
    photo.parent.mkdir()
    images.write(photo, Picture(np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)))
    script = tmp_path / "script.py"
    write_script(script, [restormer.onnx], restormer.checkpoint, [{"image": photo}])
    assert 'IMAGES = [HERE / "photos/photo.png"]' in script.read_text()
    assert run_script(script) == 0
    blurred = changed(restormer.onnx, tmp_path / "wrong.onnx", tiny_kgt.swapped_channels)
    write_script(script, [blurred], restormer.checkpoint, [photo])
    assert run_script(script) == 3


def test_a_script_that_cannot_be_is_not_written(tiny: Tiny, restormer: Tiny, tmp_path: Path) -> None:
    for arguments, words in (
        (("script.txt", [tiny.onnx], tiny.checkpoint), "give one that ends with .py"),
        (("none/script.py", [tiny.onnx], tiny.checkpoint), "does not exist; create it first"),
        (("script.py", [tiny.onnx], restormer.checkpoint), "different networks: architecture is kgt and restormer"),
        (("script.py", [tmp_path / "none.onnx"], tiny.checkpoint), "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            write_script(tmp_path / arguments[0], *arguments[1:])
    with pytest.raises(InputError, match="k is 65"):
        write_script(tmp_path / "script.py", [tiny.onnx], tiny.checkpoint, k=65)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_in_the_script_is_run_by_polygraphys_own_runner(tiny: Tiny, tmp_path: Path) -> None:
    engine = tmp_path / "kgt.sm86.plan"
    engine.write_bytes(ENGINE)
    metadata_path(engine).write_text(metadata_for(manifest=manifest_of(tiny.onnx)).to_json())
    write_script(tmp_path / "script.py", [engine], tiny.checkpoint)
    text = (tmp_path / "script.py").read_text()
    assert 'TrtRunner(EngineFromBuilt(CANDIDATES[0]), name="kgt.sm86.plan"),' in text
    assert "RecordingRunner" not in text
    assert "one of the models does not expose its neighbours" in text
    compile(text, "script.py", "exec")


# TensorRT: what can be told without a GPU. tests/parity/test_polygraphy_docs.py builds with TensorRT-RTX.


def test_the_parser_is_not_called_where_it_would_end_the_process(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setattr(polygraphy_config, "USE_TENSORRT_RTX", True)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    with pytest.raises(InputError, match=r"run it with: python -m keygraph\.parity\.polygraphy\.rtx COMMAND"):
        trt_loaders.NetworkFromExported(tiny.onnx)()


def test_an_engine_is_checked_then_gets_its_plugin_and_only_then_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    library = tmp_path / "libkeygraph_trt.so"
    library.write_bytes(b"a library")
    digest = hashlib.sha256(b"a library").hexdigest()

    class Software:
        name, version, is_rtx = "tensorrt", "11.4.0", False

    monkeypatch.setattr(trt_loaders, "backend", Software)
    monkeypatch.setattr(trt_loaders, "require_gpu", lambda _device: Gpu("NVIDIA A40", (8, 6), 1 << 34))
    monkeypatch.setattr(trt_loaders, "load_plugins", lambda _backend, path: steps.append(f"plugin {path.name}"))
    monkeypatch.setattr("polygraphy.backend.trt.engine_from_bytes", lambda data: steps.append(f"engine {data!r}"))
    engine = tmp_path / "kgt.sm86.plan"
    engine.write_bytes(ENGINE)

    def built(**changes: Any) -> trt_loaders.EngineFromBuilt:
        values: dict[str, Any] = {"backend": "tensorrt", "plugin": Plugin("libkeygraph_trt.so", digest), **changes}
        metadata_path(engine).write_text(metadata_for(**values).to_json())
        return trt_loaders.EngineFromBuilt(engine, plugin=library)

    built(version="11.4.0")()
    assert steps == ["plugin libkeygraph_trt.so", f"engine {ENGINE!r}"]
    steps.clear()
    with pytest.raises(InputError, match=r"was built by TensorRT 10\.3\.0"):
        built(version="10.3.0")()
    with pytest.raises(InputError, match="libkeygraph_trt"):
        built(version="11.4.0", plugin=Plugin("libkeygraph_trt.so", "0" * 64))()
    assert steps == []


def test_without_tensorrt_the_package_is_named(tiny: Tiny) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("it is there")
    with pytest.raises(MissingDependencyError, match=re.escape(install_line("tensorrt"))):
        trt_loaders.NetworkFromExported(tiny.onnx)()
