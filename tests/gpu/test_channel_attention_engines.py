"""Engines of networks with channel attention on a GPU, against PyTorch in FP32 on the CPU."""

from __future__ import annotations

from pathlib import Path

import keygraph
import numpy as np
import pytest
import torch
from exported import ExportStore
from keygraph.cli import main
from keygraph.engines.model import load_model
from keygraph.engines.network import profile_shapes
from keygraph.errors import MissingDependencyError
from keygraph.instrumentation.metrics import psnr
from keygraph.manifest import Profile
from keygraph.runtime.backends.base import image_inputs
from keygraph.runtime.backends.tensorrt_bindings import load_backend
from tiny_channel_attention import NETWORKS, exported


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_engine_computes_what_pytorch_does(name: str, backend: str, exports: ExportStore, tmp_path: Path) -> None:
    """At sizes where sums over pixels overflow half precision."""
    pytest.importorskip("cuda.bindings.runtime")
    try:
        load_backend(backend)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    files = exported(name, exports)
    target = "sm_{}{}".format(*torch.cuda.get_device_capability())
    words = ["--target", target, "--backend", backend, "--tile", "64:256:512", "--batch", "1:1:2", "-o", str(tmp_path)]
    if (status := main(["build", str(files.onnx), *words])) == 2:
        pytest.skip(f"{backend} does not build for {target}")
    assert status == 0
    (plan,) = tmp_path.glob("*.plan")
    session, reference = keygraph.load(plan).session, keygraph.load(files.checkpoint, device="cpu").session
    rng = np.random.default_rng(0)
    for batch, height, width in ((1, 64, 96), (2, 256, 256), (1, 512, 320)):
        sizes = Profile((batch,) * 3, (height,) * 3, (width,) * 3)
        given = [profile_shapes(one, sizes)[0] for one in image_inputs(load_model(files.onnx).manifest)]
        image, *extras = (rng.random(shape, np.float32) for shape in given)
        expected = reference.run(image, None, *extras)
        found = session.run(image, None, *extras)
        spread = (float(expected.min()), float(expected.max()))
        assert psnr(found, expected, spread) > 45
