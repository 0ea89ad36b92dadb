"""`parity.compare` on a GPU: sides given with @, key graphs exposed by the CUDA provider, engines judged as run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyvips")  # keygraph.parity reads images with it
from keygraph.cli import main
from keygraph.errors import MissingDependencyError
from keygraph.export import export
from keygraph.models import load_checkpoint
from keygraph.parity import compare
from keygraph.runtime.backends.tensorrt_bindings import load_backend

CHECKPOINT = Path(__file__).parents[2] / "examples" / "kgt-denoise-tiny.ckpt"
PICTURE = np.random.default_rng(0).random((96, 128, 3), np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "kgt.onnx"
    export(load_checkpoint(CHECKPOINT), path, verification=False)
    return path


@pytest.mark.parametrize("way", ["@cuda", "@functions@cuda"])
def test_an_exported_file_on_the_gpu(model: Path, way: str) -> None:
    try:
        run = compare(f"{model}{way}", CHECKPOINT, [PICTURE], at_least=50)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    (comparison,) = run.comparisons
    assert "CUDAExecutionProvider" in comparison.candidate.description
    assert comparison.inputs[0].same_graphs is not None
    assert comparison.inputs[0].same_graphs.psnr > 50
    assert len(comparison.stages) > 1
    assert all(stage.misjudged == 0 for stage in comparison.stages)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_checkpoint_in_half_on_the_gpu(precision: str) -> None:
    run = compare(f"{CHECKPOINT}@{precision}@cuda", CHECKPOINT, [PICTURE])
    (comparison,) = run.comparisons
    assert "cuda" in comparison.candidate.description
    assert comparison.inputs[0].same_graphs is not None
    assert comparison.inputs[0].same_graphs.psnr > 35


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_is_judged_as_run(
    model: Path, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    try:
        load_backend(backend)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    major, minor = torch.cuda.get_device_capability()
    words = ["build", model, "--target", f"sm_{major}{minor}", "--backend", backend, "--tile", "64:128:128"]
    if main([*map(str, words), "-o", str(tmp_path)]) == 2:
        pytest.skip(f"{backend} does not build for sm_{major}{minor}")
    (engine,) = tmp_path.glob("*.plan")
    capsys.readouterr()
    assert main(["compare", str(engine), str(CHECKPOINT), "--fail-under", "40dB"]) == 0
    said = capsys.readouterr().out
    assert "exposes no key graphs: it is judged as run" in said
    assert "same graphs" not in said
