"""Helpers for all tests. Models are real ONNX files, run by the real ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
from keygraph.manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, METADATA_KEY, Manifest

if TYPE_CHECKING:
    from exported import ExportStore
    from tiny_kgt import Tiny

ModelFile = Callable[..., Path]

# Each worker of pytest-xdist, and what it starts, computes with one thread: the workers use the cores already, and
# PyTorch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, Triton's kernels run in its interpreter: that is decided when a kernel's module is imported.
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No test asserts a time: machines are shared. In CI the same examples every time, so that a failure is of the change.
hypothesis.settings.register_profile(
    "keygraph",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("keygraph")


def manifest_for(**changes: Any) -> Manifest:
    """A manifest of a colour model without a key graph, changed at will."""
    values: dict[str, Any] = {
        "architecture": "test",
        "configuration": {},
        "task": "",
        "scale": 1,
        "in_channels": 3,
        "out_channels": 3,
        "value_range": (0.0, 1.0),
        "size_multiple": 8,
        "global_statistics": False,
        "shape": None,
        "neighbours": None,
        "precision": "fp32",
        "weights_sha256": "0" * 64,
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    return manifest_for


@pytest.fixture
def make_model(tmp_path: Path) -> ModelFile:
    """Write a model made by hand: ``make_model("identity", size_multiple=16)``, more words changing its manifest.

    Kinds: identity; nearest (as large as the manifest's scale says); blur (5 x 5 mean, so it sees 2 pixels far, with
    zeros beyond the edge); add_k (adds k / 1000); bright_nan (NaN where a pixel is above 0.9); outer (needs memory for
    the square of the number of pixels); masked (times the extra input "mask"); bands (the mean of all channels, times
    1, 2, 3, ... for the first band, the second, ...).
    """

    def make(kind: str, path: Path | None = None, **changes: Any) -> Path:
        manifest = manifest_for(**changes)
        path = path or tmp_path / f"{kind}.onnx"
        path.write_bytes(model_bytes(kind, manifest))
        return path

    return make


def model_bytes(kind: str, manifest: Manifest) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    node = helper.make_node
    image, out = IMAGE_INPUT, IMAGE_OUTPUT
    channels, scale = manifest.in_channels, float(manifest.scale)
    nodes, constants = {
        "identity": ([node("Identity", [image], [out])], []),
        "nearest": (
            [node("Resize", [image, "", "scales"], [out], mode="nearest", coordinate_transformation_mode="asymmetric")],
            [constant("scales", np.array([1, 1, scale, scale], np.float32))],
        ),
        "blur": (
            [node("Conv", [image, "kernel"], [out], group=channels, pads=[2, 2, 2, 2])],
            [constant("kernel", np.full((channels, 1, 5, 5), 1 / 25, np.float32))],
        ),
        "masked": ([node("Mul", [image, "mask"], [out])], []),
        "bands": (
            [node("Conv", [image, "kernel"], [out])],
            [
                constant(
                    "kernel",
                    np.arange(1, manifest.out_channels + 1, dtype=np.float32)[:, None, None, None]
                    * np.full((1, channels, 1, 1), 1 / channels, np.float32),
                )
            ],
        ),
        "add_k": (
            [
                node("Cast", [K_INPUT], ["k_float"], to=TensorProto.FLOAT),
                node("Div", ["k_float", "thousand"], ["change"]),
                node("Add", [image, "change"], [out]),
            ],
            [constant("thousand", np.array([1000], np.float32))],
        ),
        "bright_nan": (
            [node("Greater", [image, "limit"], ["bright"]), node("Where", ["bright", "nan", image], [out])],
            [constant("limit", np.float32(0.9)), constant("nan", np.float32("nan"))],
        ),
        "outer": (
            [
                node("Reshape", [image, "as_column"], ["column"]),
                node("Reshape", [image, "as_row"], ["row"]),
                node("MatMul", ["column", "row"], ["outer"]),
                node("ReduceMax", ["outer"], ["peak"], keepdims=0),
                node("Mul", ["peak", "zero"], ["nothing"]),
                node("Add", [image, "nothing"], [out]),
            ],
            [
                constant("as_column", np.array([-1, 1])),
                constant("as_row", np.array([1, -1])),
                constant("zero", np.float32(0)),
            ],
        ),
    }[kind]
    batch, height, width = manifest.shape or ("batch", "height", "width")
    inputs = [helper.make_tensor_value_info(image, TensorProto.FLOAT, [batch, channels, height, width])]
    inputs += [
        helper.make_tensor_value_info(extra.name, TensorProto.FLOAT, [batch, extra.channels, None, None])
        for extra in manifest.extra_inputs
    ]
    if kind == "add_k":
        inputs.append(helper.make_tensor_value_info(K_INPUT, TensorProto.INT64, [1]))
    outputs = [helper.make_tensor_value_info(out, TensorProto.FLOAT, [batch, manifest.out_channels, None, None])]
    graph = helper.make_graph(nodes, kind, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> ExportStore:
    """Networks exported once per session, for all workers."""
    from exported import ExportStore  # imports PyTorch

    return ExportStore(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny(exports: ExportStore) -> Tiny:
    """A small KGT, as a checkpoint and as a file."""
    import tiny_kgt

    files = exports.get(tiny_kgt.CONFIG, "tiny")
    return tiny_kgt.Tiny(files.checkpoint, files.onnx)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread, see `tiny_kgt.one_thread`: for a module's `pytestmark`."""
    import tiny_kgt

    with tiny_kgt.one_thread():
        yield
