"""PyTorch computes float32 in full precision while a session runs, and keeps the user's settings otherwise."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keygraph.manifest import Manifest
from keygraph.runtime.backends import onnx_providers
from keygraph.runtime.device.spec import Device

pytest.importorskip("torch")
import torch
from keygraph.runtime.backends.full_fp32 import full_fp32
from keygraph.runtime.backends.pytorch import TorchSession

IMAGES = np.zeros((1, 3, 8, 8), np.float32)


def precisions() -> list[str]:
    """Return the precision of products and convolutions on GPUs and CPU, and the older settings, which must agree."""
    backends: Any = torch.backends  # which makes attributes at run time
    found = [
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    ]
    old = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    return [*(setting.fp32_precision for setting in found), *map(str, old)]


EXACT = ["ieee"] * 5 + ["False", "False", "highest"]


class Recording(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[str]] = []

    def forward(self, image):  # type: ignore[no-untyped-def]
        self.seen.append(precisions())
        return image


def test_a_session_multiplies_exactly_and_leaves_the_settings(make_manifest: Callable[..., Manifest]) -> None:
    network = Recording()
    before = precisions()
    TorchSession(network, make_manifest()).run(IMAGES, None)
    assert network.seen == [EXACT]
    assert precisions() == before


@pytest.mark.parametrize(
    "setting",
    [
        "torch.set_float32_matmul_precision('high')",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.backends.cudnn.allow_tf32 = False",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.cudnn.fp32_precision = 'tf32'",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    ],
)
def test_whatever_a_user_has_set(setting: str) -> None:
    """Runs in a process of its own, because some mixtures of old and new settings cannot be undone in PyTorch."""
    code = f"""
        import torch
        from keygraph.runtime.backends.full_fp32 import full_fp32
        backends = torch.backends
        settings = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]
        def read(setting):
            try:
                return setting()
            except RuntimeError:
                return "refused"
        def state():
            old = [lambda: backends.cuda.matmul.allow_tf32, lambda: backends.cudnn.allow_tf32,
                   torch.get_float32_matmul_precision]
            return [each.fp32_precision for each in settings], [read(one) for one in old]
        {setting}
        before = state()
        compiled = torch.compile(torch.nn.Conv2d(1, 1, 1), backend="eager")
        with full_fp32():
            assert state()[0] == ["ieee"] * 4, state()
            if "refused" not in before[1]:
                assert state()[1] == [False, False, "highest"], state()
            compiled(torch.zeros(1, 1, 2, 2))
        assert state() == before, (before, state())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_last_thread_restores_the_settings() -> None:
    before = precisions()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_fp32():
            inside.set()
            leave.wait(60)

    with full_fp32():
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(60)
    assert precisions() == EXACT
    leave.set()
    thread.join()
    assert precisions() == before


def test_an_error_restores_the_settings() -> None:
    before = precisions()
    with pytest.raises(ZeroDivisionError), full_fp32():
        _ = 1 / 0
    assert precisions() == before


def test_onnx_runtimes_cuda_provider_multiplies_exactly() -> None:
    for provider in ("cuda", "tensorrt"):
        options = dict(onnx_providers._chain(b"", provider, Device("cuda", 2)))  # type: ignore[arg-type]
        assert options["CUDAExecutionProvider"] == {"device_id": "2", "use_tf32": "0"}
