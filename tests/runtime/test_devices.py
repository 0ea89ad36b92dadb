from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keygraph
import numpy as np
import onnxruntime
import pytest
from fake_cuda import driver, lacking_library
from keygraph import plugins
from keygraph.environment.libraries import TINY_KEY_GRAPH
from keygraph.errors import InputError, MissingDependencyError
from keygraph.manifest import ExtraInput, Manifest
from keygraph.runtime.backends import onnx_providers
from keygraph.runtime.backends.io_binding import BoundBuffers
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.device.cuda_driver import require_gpu
from keygraph.runtime.device.spec import Device, parse_device

ModelFile = Callable[..., Path]
K = {"default": 64, "maximum": 256, "trained": (), "runtime": True}


def no_gpu_provider() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")


def test_devices_are_read() -> None:
    assert parse_device("cpu") == Device("cpu")
    assert parse_device("cuda") == Device("cuda", 0)
    assert str(parse_device("cuda:12")) == "cuda:12"
    for wrong in ("gpu", "cuda:", "cuda:-1", "CPU", "", "cuda:1 "):
        with pytest.raises(InputError, match="give cpu, cuda, or one GPU"):
            parse_device(wrong)


def test_a_gpu_is_described(tmp_path: Path) -> None:
    gpu = require_gpu(Device("cuda", 1), driver(tmp_path, count=2))
    assert (gpu.name, gpu.target, gpu.memory) == ("Model 9", "sm_89", 24 << 30)


def test_a_gpu_that_is_not_there_is_an_error_that_says_why(tmp_path: Path) -> None:
    for name, message in (
        ("libno-driver-here.so.1", r"needs NVIDIA's driver, .*libno-driver-here\.so\.1: cannot open shared object"),
        (driver(tmp_path, init=100), "sees no GPU"),
        (driver(tmp_path, count=0), "sees no GPU"),
        (driver(tmp_path, init=803), "cuInit gives 803"),
        (driver(tmp_path, count=1), "no cuda:1 here; give one of cuda:0"),
    ):
        with pytest.raises(InputError, match=message):
            require_gpu(Device("cuda", 1), name)


def test_provider_and_device_must_go_together(make_model: ModelFile) -> None:
    model = make_model("identity")
    for options, message in (
        ({"device": "cpu", "provider": "cuda"}, "provider cuda does not run on the device cpu; give cpu"),
        ({"device": "cuda", "provider": "cpu"}, "provider cpu does not run on the device cuda:0; give cuda or"),
        ({"provider": "directml"}, "give one of cpu, cuda, tensorrt"),
        ({"device": "gpu"}, "give cpu, cuda"),
    ):
        with pytest.raises(InputError, match=message):
            keygraph.load(model, library=None, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"for \.onnx files"):
        keygraph.load("model.ckpt", provider="cpu")


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"provider": "cuda"}, {"provider": "tensorrt"}])
def test_an_onnx_runtime_without_gpus_is_never_used_in_silence(make_model: ModelFile, options: dict[str, str]) -> None:
    no_gpu_provider()
    with pytest.raises(MissingDependencyError, match=r"built without .*pip install 'keygraph\[gpu\]'"):
        keygraph.load(make_model("identity"), library=None, **options)  # type: ignore[arg-type]


def test_a_provider_that_did_not_start_is_never_replaced_in_silence(
    make_model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine with onnxruntime-gpu and a driver, but without cuBLAS: ONNX Runtime gives a session on the CPU.
    no_gpu_provider()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(onnx_providers.PROVIDERS.values()))
    monkeypatch.setattr(onnx_providers, "require_gpu", lambda device: require_gpu(device, driver(tmp_path)))
    cpu_only = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, providers, **b: cpu_only(*a, providers=["CPUExecutionProvider"])
    )
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "capi").mkdir()
    for lacked, message in (
        ("libcublas.so.13", r"libcublas\.so\.13: cannot open.*pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        ("libcudnn.so.9", r"libcudnn\.so\.9: cannot open.*NVIDIA's packages"),
        ("libcuda.so.1", r"libcuda\.so\.1: cannot open.*install NVIDIA's driver"),
    ):
        if lacked == "libcuda.so.1" and onnx_providers.loader_error(Path(lacked)) is None:
            continue
        lacking_library(tmp_path / "capi" / "libonnxruntime_providers_cuda.so", lacked)
        with pytest.raises(MissingDependencyError, match=message):
            keygraph.load(make_model("identity"), library=None, device="cuda")


def test_a_run_that_fails_is_not_repeated_on_the_cpu(make_model: ModelFile) -> None:
    session = OnnxRuntimeSession(make_model("identity"), library=None)
    assert session._session._enable_fallback is False


def test_operators_that_would_run_beside_the_gpu_are_refused() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        options.register_custom_ops_library(str(plugins.library("onnxruntime")))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    session = onnxruntime.InferenceSession(TINY_KEY_GRAPH, options, providers=["CPUExecutionProvider"])
    if onnx_providers.placement(session) is None:
        pytest.skip("this ONNX Runtime does not say where nodes run")
    onnx_providers._check_placement(session, "CPUExecutionProvider")
    with pytest.raises(InputError, match="built without its GPU kernels"):
        onnx_providers._check_placement(session, "CUDAExecutionProvider")


def test_buffers_that_stay_give_what_a_plain_run_gives(make_model: ModelFile) -> None:
    plain = OnnxRuntimeSession(make_model("add_k", neighbours=K), library=None)
    bound = BoundBuffers(plain._session, Device("cpu"))
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 8, 16), (2, 3, 8, 16), (1, 3, 8, 16), (2, 3, 16, 8)):
        for k in (1, 200):
            images = rng.random(shape, np.float32)
            np.testing.assert_array_equal(bound.run({"image": images}, k, shape), plain.run(images, k))
    bound.run({"image": np.zeros((1, 3, 8, 8), np.float32)}, 1, (1, 3, 8, 8))
    kept = bound._inputs["image"]
    bound.run({"image": np.ones((1, 3, 8, 8), np.float32)}, 1, (1, 3, 8, 8))
    assert bound._inputs["image"] is kept


def test_buffers_of_several_inputs(make_model: ModelFile) -> None:
    plain = OnnxRuntimeSession(make_model("masked", extra_inputs=(ExtraInput("mask", 1),)), library=None)
    bound = BoundBuffers(plain._session, Device("cpu"))
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 8, 16), (2, 3, 8, 16), (1, 3, 16, 8)):
        image, mask = rng.random(shape, np.float32), rng.random((shape[0], 1, *shape[2:]), np.float32)
        restored = plain.run(image, None, mask)
        np.testing.assert_array_equal(restored, image * mask)
        np.testing.assert_array_equal(bound.run({"image": image, "mask": mask}, None, shape), restored)


def test_pytorch_without_cuda_says_so(make_manifest: Callable[..., Manifest]) -> None:
    torch = pytest.importorskip("torch")
    from keygraph.runtime.backends.pytorch import TorchSession

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"without CUDA|NVIDIA's driver"):
        TorchSession(torch.nn.Identity(), make_manifest(), device=Device("cuda"))
    assert "cpu" in TorchSession(torch.nn.Identity(), make_manifest(), device=Device("cpu")).description
