"""Checkpoints of every task through the restorer, against the steps of the published evaluation code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from keygraph.models import save_checkpoint  # noqa: E402
from keygraph.models.mst import MST, MSTConfig  # noqa: E402
from keygraph.models.mst_plus_plus import MSTPlusPlus, MSTPlusPlusConfig  # noqa: E402
from keygraph.models.restormer import Restormer, RestormerConfig  # noqa: E402

Array = np.ndarray[Any, Any]
RESTORMER: dict[str, Any] = {"channels": 4, "blocks": (1, 1, 1, 1), "refinement_blocks": 1, "heads": (1, 1, 1, 1)}


pytestmark = pytest.mark.usefixtures("one_thread")


def saved(network: Any, path: Path) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    save_checkpoint(path, network.eval())
    return network


def picture(*shape: int, dtype: Any = np.uint8) -> Array:
    return np.random.default_rng(sum(shape)).integers(3, np.iinfo(dtype).max - 5, shape, endpoint=True).astype(dtype)


def run(network: Any, *inputs: Array, multiple: int = 8) -> Array:
    """Run a network on images [H, W, C], reflected by PyTorch up to the multiple, and crop the result."""
    height, width = inputs[-1].shape[:2]
    tensors = [torch.from_numpy(np.ascontiguousarray(np.moveaxis(one, 2, 0)))[None].float() for one in inputs]
    more = (0, -width % multiple, 0, -height % multiple)
    with torch.inference_mode():
        result = network(*(torch.nn.functional.pad(tensor, more, mode="reflect") for tensor in tensors))
    restored: Array = np.moveaxis(result[0, :, :height, :width].numpy(), 0, 2)
    return restored


def test_restormer_of_two_views(tmp_path: Path) -> None:
    network = saved(Restormer(RestormerConfig(in_channels=6, dual_pixel=True, **RESTORMER)), tmp_path / "a.ckpt")
    left, right = picture(37, 45, 3, dtype=np.uint16), picture(37, 45, 3, dtype=np.uint16)[::-1]
    expected = np.clip(run(network, np.concatenate([left, right], axis=2) / np.float32(65535)), 0, 1)
    restored = keygraph.load(tmp_path / "a.ckpt")(left, inputs={"right": right})
    assert restored.dtype == np.uint16
    np.testing.assert_allclose(restored, expected * 65535, atol=0.6)


def test_restormer_of_one_picture(tmp_path: Path) -> None:
    network = saved(Restormer(RestormerConfig(**RESTORMER)), tmp_path / "a.ckpt")
    image = picture(37, 45, 3)
    expected = np.clip(run(network, image / np.float32(255)), 0, 1)
    np.testing.assert_allclose(keygraph.load(tmp_path / "a.ckpt")(image), expected * 255, atol=0.51)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mst_plus_plus(tmp_path: Path, dtype: Any) -> None:
    network = saved(MSTPlusPlus(MSTPlusPlusConfig(stages=1)), tmp_path / "a.ckpt")
    image = picture(37, 45, 3, dtype=dtype) // 3 + dtype(7)
    pixels = image.astype(np.float32)
    expected = run(network, (pixels - pixels.min()) / (pixels.max() - pixels.min()))
    assert expected.min() < 0 or expected.max() > 1
    restored = keygraph.load(tmp_path / "a.ckpt")(image)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, np.clip(expected, 0, 1), atol=1e-5)


def test_mst_of_a_measurement_and_a_mask(tmp_path: Path) -> None:
    network = saved(MST(MSTConfig(bands=28, blocks=(1, 1))), tmp_path / "a.ckpt")
    random = np.random.default_rng(0)
    measurement, mask = 14 * random.random((31, 35 + 54)), (random.random((31, 35)) > 0.5).astype(np.uint8)
    expected = run(network, measurement[..., None], mask[..., None], multiple=2)
    restored = keygraph.load(tmp_path / "a.ckpt").restore(measurement, inputs={"mask": mask})
    assert (restored.image.dtype, restored.image.shape, restored.padded) == (np.dtype(np.float32), (31, 35, 28), True)
    np.testing.assert_allclose(restored.image, expected, atol=1e-5)


def test_mst_of_a_measurement_alone(tmp_path: Path) -> None:
    network = saved(MST(MSTConfig(mask_guided=False, blocks=(1, 1))), tmp_path / "a.ckpt")
    measurement = 3000 * np.random.default_rng(0).random((32, 36 + 54)) - 200
    expected = np.clip(
        run(network, (np.maximum(measurement, 0) / measurement.max() * 0.8)[..., None], multiple=2), 0, 1
    )
    expected = expected[:, :36]
    for given in (measurement, measurement.astype(np.float32)):
        np.testing.assert_allclose(keygraph.load(tmp_path / "a.ckpt")(given), expected, atol=1e-5)
