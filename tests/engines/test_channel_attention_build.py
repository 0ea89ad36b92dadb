"""Engines of networks with channel attention: several inputs, margins, sums over all pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from exported import ExportStore
from keygraph.engines.build import build
from keygraph.engines.fp32_matmul_rewrite import rewrite_fp32_matmuls
from keygraph.engines.job import Job
from keygraph.engines.lint import lint
from keygraph.engines.model import load_model
from keygraph.engines.network import check_tensors, profile_shapes
from keygraph.engines.options import Options
from keygraph.errors import KeygraphError
from keygraph.manifest import ExtraInput, Profile
from keygraph.runtime.backends.base import image_inputs
from keygraph.runtime.backends.engine_metadata import Tensor, read
from onnx import TensorProto, helper
from rtx import needs_rtx
from tiny_channel_attention import NETWORKS, exported


@needs_rtx
@pytest.mark.parametrize("name", NETWORKS)
def test_fp16_with_dynamic_sizes(name: str, exports: ExportStore, make_job: Callable[..., Job]) -> None:
    """For a target with FP32 products and for one without."""
    model = load_model(exported(name, exports).onnx)
    assert lint(model) == []
    jobs = [make_job(model.path, target, tile="32:64:128", batch="1:1:2") for target in ("sm_75", "sm_89")]
    outcomes = build(model, jobs)
    assert [(outcome.state, outcome.error) for outcome in outcomes] == [("built", "")] * 2
    metadata = read(jobs[0].engine)
    assert metadata.attempts == ()
    inputs = image_inputs(model.manifest)
    assert [tensor.name for tensor in metadata.tensors] == [*(given.name for given in inputs), "restored"]
    assert [tensor.shape[1] for tensor in metadata.tensors[:-1]] == [given.channels for given in inputs]
    assert outcomes[0].activations > 0


def test_profiles_count_without_the_margin() -> None:
    sizes = Profile((1, 2, 4), (64, 256, 512), (64, 128, 128))
    assert profile_shapes(ExtraInput("image", 1, (0, 54)), sizes) == [
        (1, 1, 64, 118),
        (2, 1, 256, 182),
        (4, 1, 512, 182),
    ]
    assert profile_shapes(ExtraInput("mask", 3), sizes)[2] == (4, 3, 512, 128)


def test_tensors_that_are_not_the_manifests(make_manifest: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    model = load_model(make_model("identity", in_channels=1, out_channels=1))
    model = dataclasses.replace(
        model, manifest=make_manifest(in_channels=1, out_channels=1, extra_inputs=(ExtraInput("mask", 1),))
    )
    image, mask, restored = (
        Tensor(name, "float32", (-1, 1, -1, -1), output=name == "restored", host=False)
        for name in ("image", "mask", "restored")
    )
    check_tensors(model, Options((), None), (image, mask, restored))
    for tensors in ((image, restored), (image, dataclasses.replace(mask, shape=(-1, 3, -1, -1)), restored)):
        with pytest.raises(KeygraphError, match=r"its tensors \(image .* are not those of its manifest"):
            check_tensors(model, Options((), None), tensors)


def test_sums_over_pixels_as_cosines_in_half() -> None:
    """Also where the sum overflows half precision, and for a row of zeros."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["q"], ["q32"], to=single),
            helper.make_node("Cast", ["k"], ["k32"], to=single),
            helper.make_node("Transpose", ["k32"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q32", "turned"], ["gram"]),
            helper.make_node("MatMul", ["weights", "q"], ["attended"]),
        ],
        "attention",
        [value("q", half, [1, 6, "n"]), value("k", half, [1, 5, "n"]), value("weights", half, [1, 6, 6])],
        [value("gram", single, [1, 6, 5]), value("attended", half, [1, 6, "n"])],
        value_info=[value("q32", single, None), value("k32", single, None), value("turned", single, None)],
    )
    opset = [helper.make_opsetid("", 20)]
    written = rewrite_fp32_matmuls(helper.make_model(graph, opset_imports=opset, ir_version=10))
    onnx.checker.check_model(written, full_check=True)
    (kept, *_) = [node for node in written.graph.node if node.op_type == "MatMul" and "gram" not in node.output[0]]
    assert kept.output[0] == "attended"  # Products in half precision are unchanged.
    # The operands of the FP32 product are rounded to half.
    assert {node.input[0] for node in written.graph.node if node.op_type == "Cast"} >= {"gram_left_unit"}
    q, k = (np.random.default_rng(i).normal(1, 1, (1, 6 - i, 1 << 17)).astype(np.float16) for i in range(2))
    q[0, 2] = 0
    feeds = {"q": q, "k": k, "weights": np.zeros((1, 6, 6), np.float16)}
    session = onnxruntime.InferenceSession(written.SerializeToString())
    gram, _ = session.run(None, feeds)
    exact = q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1)
    assert np.abs(exact).max() > np.finfo(np.float16).max
    np.testing.assert_allclose(gram, exact, rtol=1e-3)
    assert not gram[0, 2].any()
