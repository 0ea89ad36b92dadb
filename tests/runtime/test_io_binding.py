"""I/O binding to buffers that are reused between runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from keygraph.manifest import ExtraInput
from keygraph.runtime.backends.io_binding import BoundBuffers
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.device.spec import Device

ModelFile = Callable[..., Path]
K = {"default": 64, "maximum": 256, "trained": (), "runtime": True}


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
