"""The PyTorch session."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from keygraph.errors import InputError, KeygraphError
from keygraph.manifest import Manifest, Neighbours
from keygraph.runtime.device.spec import Device
from keygraph.runtime.errors import SessionMemoryError
from keygraph.runtime.restorer import Restorer

pytest.importorskip("torch")
import torch
from keygraph.runtime.backends.pytorch import TorchSession


def test_pytorch_runs_behind_the_same_protocol(make_manifest: Callable[..., Manifest]) -> None:
    class AddK(torch.nn.Module):
        def forward(self, image, k=None):  # type: ignore[no-untyped-def]
            return image + (0 if k is None else k / 1000)

    restorer = Restorer(TorchSession(AddK(), make_manifest(neighbours=Neighbours(64, 256))))
    assert restorer(np.zeros((20, 30, 3)), 100).max() == pytest.approx(0.1)
    assert restorer.description.startswith("PyTorch")


def test_pytorch_out_of_memory_is_told_from_other_failures(make_manifest: Callable[..., Manifest]) -> None:
    class Huge(torch.nn.Module):
        def forward(self, image):  # type: ignore[no-untyped-def]
            return torch.empty(1 << 50)

    class Broken(torch.nn.Module):
        def forward(self, image):  # type: ignore[no-untyped-def]
            return image @ torch.zeros(5, 5)

    images = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(SessionMemoryError):
        TorchSession(Huge(), make_manifest()).run(images, None)
    with pytest.raises(KeygraphError, match=r"PyTorch failed on an image tensor of shape \(1, 3, 8, 8\): .*shape"):
        TorchSession(Broken(), make_manifest()).run(images, None)


def test_pytorch_without_cuda_says_so(make_manifest: Callable[..., Manifest]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"without CUDA|NVIDIA's driver"):
        TorchSession(torch.nn.Identity(), make_manifest(), device=Device("cuda"))
    assert "cpu" in TorchSession(torch.nn.Identity(), make_manifest(), device=Device("cpu")).description
