"""Networks that run code which no file can hold: a line that names the module, and what to do. With attend, a file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import keygraph
import numpy as np
import pytest
import torch
from keygraph.cli import export_model
from keygraph.errors import InputError
from keygraph.export import export_module
from torch import Tensor, nn

pytest.importorskip("triton")
import opaque_modules

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 16, 16)

ADVICE = (
    "no file can hold that; if it attends to the k most similar nodes, compute it by keygraph.attend, in its source or "
    "for the export alone with keygraph.replace({Attention: forward}); else write it with PyTorch's own operators"
)


CALLS, NO_SHAPE = "calls the operator keygraph_tests", "whose shape PyTorch cannot infer"


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return opaque_modules.Windows(getattr(opaque_modules, name)).eval()


def line_of(code: str) -> int:
    lines = Path(opaque_modules.__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if code in line]
    return number


@pytest.mark.parametrize(
    ("name", "what", "code"),
    [
        ("launched", "runs a Triton kernel", "keep_largest[(scores.numel()"),
        ("for_gpus", f"{CALLS}::for_gpus, which does not run on a CPU", "self.select(q @"),
        ("checked_for_gpus", "needs a GPU, and an export runs it on the CPU", "assert scores.is_cuda"),
        ("without_fake", f"{CALLS}::without_fake, {NO_SHAPE}", "self.select(q @"),
        ("in_a_library", f"{CALLS}.in_a_library.default, {NO_SHAPE}", "ops.keygraph_tests"),
        ("by_numpy", "computes by NumPy", "values = scores.detach().numpy()"),
        ("by_address", "gives a tensor's memory to other code", "scores.data_ptr()"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_or_traced(name: str, what: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        export_module(network(name), tmp_path / "x.onnx", shape=SHAPE)
    assert str(refused.value) == f"Windows: `layers.0` {what} (opaque_modules.py:{line_of(code)}): {ADVICE}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wrapped", "untranslated"])
def test_what_onnx_cannot_say(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        export_module(network(name), tmp_path / "x.onnx", shape=SHAPE)
    assert str(refused.value) == (
        f"the network cannot be exported: `layers.0` calls the operator keygraph_tests.{name}.default, which "
        f"torch.onnx does not translate: {ADVICE}"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_network_itself_has_no_path(tmp_path: Path) -> None:
    class Sorting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(np.sort(x.numpy()))

    with pytest.raises(
        InputError, match=r"^Sorting: it computes by NumPy \(test_opaque.py:\d+\): .*replace\(\{Sorting"
    ):
        export_module(Sorting(), tmp_path / "x.onnx", shape=SHAPE)


def test_the_command_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("net.py").write_text("import opaque_modules as o\ndef build():\n    return o.Windows(o.launched)\n")
    assert export_model(["net.py:build", "-o", "x.onnx"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert re.search(r"net\.py:build: `layers\.0` runs a Triton kernel \(opaque_modules\.py:\d+\): ", error)
    assert not Path("x.onnx").exists()


def attention(self: opaque_modules.Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x).chunk(3, -1)
    return x + keygraph.attend(q, k, v, k=self.k)


def test_with_attend_it_is_exported(tmp_path: Path) -> None:
    """Compared with the network as it runs where its kernel does, for which the same selection in PyTorch stands."""
    with keygraph.replace({opaque_modules.Attention: attention}):
        export_module(network("launched"), tmp_path / "x.onnx", shape=SHAPE)
    image = np.random.default_rng(0).random((16, 16, 3), np.float32)
    with torch.no_grad():
        expected = network("masked")(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(keygraph.load(tmp_path / "x.onnx")(image, tile="none"), expected, atol=1e-5)
