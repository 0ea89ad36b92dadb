"""ONNX Runtime's execution providers: no silent fallback, and errors that say what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import onnxruntime
import pytest
from fake_cuda import driver, lacking_library
from keygraph import plugins
from keygraph.environment.libraries import TINY_KEY_GRAPH
from keygraph.errors import InputError, MissingDependencyError
from keygraph.installation import gpu_runtime_line
from keygraph.runtime.backends import onnx_providers
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.device.cuda_driver import require_gpu

ModelFile = Callable[..., Path]


def no_gpu_provider() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")


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
    with pytest.raises(InputError, match=r"applies to \.onnx files only"):
        keygraph.load("model.ckpt", provider="cpu")


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"provider": "cuda"}, {"provider": "tensorrt"}])
def test_an_onnx_runtime_without_gpus_is_never_used_in_silence(make_model: ModelFile, options: dict[str, str]) -> None:
    no_gpu_provider()
    with pytest.raises(MissingDependencyError, match=rf"built without .*{re.escape(gpu_runtime_line())}$"):
        keygraph.load(make_model("identity"), library=None, **options)  # type: ignore[arg-type]


def test_a_provider_that_did_not_start_is_never_replaced_in_silence(
    make_model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With onnxruntime-gpu and a driver but without cuBLAS, ONNX Runtime returns a session on the CPU.
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
    assert session._session is not None
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


def test_one_place_decides_what_onnx_runtime_prints() -> None:
    """Other sessions take their options from `session_options`."""
    root = Path(keygraph.errors.__file__).parent
    rooms = ("bench", "cli", "environment", "export", "instrumentation", "models", "parity", "runtime")
    files = [file for room in rooms for file in (root / room).rglob("*.py")]
    assert [file.name for file in files if "log_severity_level" in file.read_text()] == ["onnx_providers.py"]


def test_an_unknown_provider_is_told_all_providers(make_model: ModelFile) -> None:
    with pytest.raises(InputError, match="give one of cpu, cuda, tensorrt, openvino"):
        keygraph.load(make_model("blur"), library=None, provider="x")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 10**6])
def test_what_is_no_number_of_threads(make_model: ModelFile, threads: Any) -> None:
    with pytest.raises(InputError, match="must be a whole number from 1 to 1024"):
        keygraph.load(make_model("blur"), library=None, threads=threads)


@pytest.mark.parametrize("model", [None, 3, b"kgt.onnx"])
def test_what_is_no_path(model: Any) -> None:
    with pytest.raises(InputError, match="give the path of a file"):
        keygraph.load(model)


@pytest.mark.parametrize(
    ("version", "entry"), [("1.31.1", "spin_duration_us"), ("1.26.0", "spin_duration_us"), ("1.20.1", "allow_spinning")]
)
def test_idle_threads_hardly_spin(monkeypatch: pytest.MonkeyPatch, version: str, entry: str) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    options = onnx_providers.session_options(2)
    expected = {"spin_duration_us": str(onnx_providers.SPIN), "allow_spinning": "0"}[entry]
    assert options.get_session_config_entry(f"session.intra_op.{entry}") == expected
