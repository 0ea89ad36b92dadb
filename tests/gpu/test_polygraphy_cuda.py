"""Polygraphy's runners on a GPU: PyTorch, ONNX Runtime's CUDA provider, and TensorRT engines with our plugin."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

pytest.importorskip("polygraphy")
from keygraph.cli import main
from keygraph.parity.polygraphy import ImageCompareFunc, SessionFromExported
from keygraph.parity.polygraphy.pytorch import ModelFromCheckpoint, TorchRunner
from keygraph.parity.polygraphy.tensorrt import CreateConfigForExported, EngineFromBuilt, NetworkFromExported
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER
from tiny_kgt import Tiny

needs_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is None, reason="needs TensorRT")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield


@pytest.fixture
def feed() -> OrderedDict[str, Any]:
    """With k at its largest every node keeps all, so that no near tie decides anything."""
    return OrderedDict(image=np.random.default_rng(0).random((1, 3, 64, 64), np.float32), k=np.array([64], np.int64))


def agree(runners: list[Any], feed: OrderedDict[str, Any], psnr: float) -> bool:
    results = Comparator.run(runners, data_loader=[feed], streaming=True)
    return bool(Comparator.compare_accuracy(results, compare_func=ImageCompareFunc(psnr=psnr)))


@pytest.mark.parametrize(("precision", "psnr"), [("fp32", 90.0), ("fp16", 50.0), ("bf16", 40.0)])
def test_pytorch(tiny: Tiny, feed: OrderedDict[str, Any], precision: str, psnr: float) -> None:
    loader = ModelFromCheckpoint(tiny.checkpoint)
    runners = [TorchRunner(loader, precision, "cuda", name="gpu"), TorchRunner(loader, name="cpu")]
    assert agree(runners, feed, psnr)


def test_the_clock_waits_for_the_gpu(tiny: Tiny, feed: OrderedDict[str, Any]) -> None:
    """What a network leaves on the stream is over when the clock stops: an event behind it has happened."""
    model = ModelFromCheckpoint(tiny.checkpoint)()
    event = torch.cuda.Event()

    def busy(*_: Any) -> None:
        torch.cuda._sleep(200_000_000)
        event.record()

    model.module.register_forward_hook(busy)
    with TorchRunner(lambda: model, device="cuda") as runner:
        runner.infer(feed)
        assert event.query()


def test_onnx_runtime(tiny: Tiny, feed: OrderedDict[str, Any]) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    runners = [
        OnnxrtRunner(SessionFromExported(tiny.onnx, device="cuda"), name="gpu"),
        TorchRunner(ModelFromCheckpoint(tiny.checkpoint), name="cpu"),
    ]
    assert agree(runners, feed, 90.0)


@needs_tensorrt
@pytest.mark.parametrize("plugin", ["auto", None])
def test_a_network_becomes_an_engine(tiny: Tiny, feed: OrderedDict[str, Any], plugin: str | None) -> None:
    from polygraphy.backend.trt import EngineFromNetwork, TrtRunner

    network = NetworkFromExported(tiny.onnx, plugin=plugin)
    engine = EngineFromNetwork(network, config=CreateConfigForExported(tiny.onnx, tile=64))
    runners = [TrtRunner(engine, name="gpu"), TorchRunner(ModelFromCheckpoint(tiny.checkpoint), name="cpu")]
    assert agree(runners, feed, 90.0)


@needs_tensorrt
def test_a_built_engine_runs_in_polygraphys_runner(tiny: Tiny, feed: OrderedDict[str, Any], tmp_path: Path) -> None:
    from polygraphy.backend.trt import TrtRunner

    assert main(["build", str(tiny.onnx), "--backend", "tensorrt", "--tile", "64", "-o", str(tmp_path)]) == 0
    (plan,) = tmp_path.glob("*.plan")
    runners = [TrtRunner(EngineFromBuilt(plan)), TorchRunner(ModelFromCheckpoint(tiny.checkpoint), name="cpu")]
    assert agree(runners, feed, 90.0)
