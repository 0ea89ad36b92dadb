"""`keygraph compare net.onnx my_model.py:build@net.ckpt`: an exported file against the module that it was made from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import pytest
import torch
from keygraph.cli import export_model, main
from keygraph.models.source_file import build_network, parse_entry_point
from keygraph.models.source_network import load_network
from keygraph.parity import compare
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, eps, scores, factor=1.0):
        super().__init__()
        self.factor = factor
        self.scores = scores
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8, eps=eps)
        self.qkv = nn.Linear(8, 24)
        self.relu = nn.ReLU(inplace=True)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image):
        x = self.head(image) * self.factor
        b, c, h, w = x.shape
        nodes = x.view(b, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 1, 64, c)
        q, k, v = self.qkv(self.norm(nodes)).chunk(3, -1)
        scores = q @ k.mT / c**0.5
        by = scores if self.scores == "own" else scores.abs() + scores.mean(-1, keepdim=True)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, by.topk(16).indices, True)
        nodes = nodes + scores.masked_fill(~kept, -torch.inf).softmax(-1) @ v
        x = nodes.view(b, h // 8, w // 8, 8, 8, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        return image + self.tail(self.relu(x))


def build(eps=1e-5, scores="own", factor=1.0):
    print("building")
    torch.manual_seed(0)
    return Net(eps, scores, factor)


class pair(Net):
    def __init__(self):
        super().__init__(1e-5, "own")

    def forward(self, image):
        return super().forward(image), image
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, its weights and the file that was exported from it."""
    folder = tmp_path_factory.mktemp("own")
    source = folder / "net.py"
    source.write_text(SOURCE)
    path = [*sys.path]
    try:
        module = build_network(parse_entry_point(f"{source}:build"), {}).module
        with torch.no_grad():  # As after training, other than those that the code gives.
            for parameter in module.parameters():
                parameter.mul_(1.5)
        torch.save({"state_dict": {f"model.{k}": v for k, v in module.state_dict().items()}}, folder / "net.ckpt")
        assert export_model([f"{source}:build", "--weights", f"{folder}/net.ckpt", "--quiet"]) == 0
        (folder / "abs.json").write_text('{"scores": "abs"}')
        assert export_model([f"{source}:build", "--config", f"{folder}/abs.json", "-o", f"{folder}/abs.onnx"]) == 0
    finally:
        sys.path[:] = path
    return folder


@pytest.fixture
def folder(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(exported)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return exported


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    capsys.readouterr()
    code = main(["compare", *arguments, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code in (0, 3) else out, err


def test_a_file_agrees_with_the_module_that_it_was_made_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, err = run(["net.onnx", "net.py:build@net.ckpt", "--blocks"], capsys)
    assert code == 0, found
    (comparison,) = found["comparisons"]
    assert comparison["same_weights"]
    assert comparison["reference"]["name"] == "net.py:build@net.ckpt"
    assert {block["name"] for block in comparison["blocks"]} >= {"head", "norm", "qkv", "tail"}
    assert not [line for line in comparison["notices"] if "exported" in line]
    assert err.startswith("note: net.py is run, and its build called\nbuilding\n")
    assert "note: net.py: weights: 'state_dict/model.'" in err


def test_a_fault_is_found_in_its_block(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "eps.json").write_text('{"eps": 1e-3}')
    code, found, _ = run(["net.onnx", "net.py:build@net.ckpt@eps.json", "--blocks"], capsys)
    assert code == 3
    (comparison,) = found["comparisons"]
    accused = comparison["inputs"][0]["beyond_rounding"][0]
    assert (accused["name"], accused["suspect"]) == ("norm", "an epsilon of 1e-05")
    assert any("its arguments are not what they were" in line for line in comparison["notices"])


def test_a_fault_between_blocks_is_not_said_to_be_after_the_last(folder: Path) -> None:
    (folder / "factor.json").write_text('{"factor": 1.01}')
    found = compare("net.onnx", "net.py:build@net.ckpt@factor.json", blocks=True, notice=lambda _line: None)
    reasons = found.comparisons[0].verdict.reasons
    assert any("in code outside of the blocks" in reason and " to relu (" in reason for reason in reasons), reasons


def test_other_weights_and_changed_code_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, _ = run(["net.onnx", "net.py:build"], capsys)
    assert code == 3
    assert any("different weights" in line for line in found["comparisons"][0]["notices"])
    (folder / "net.py").write_text(SOURCE + "\n# changed\n")
    try:
        code, found, _ = run(["net.onnx", "net.py:build@net.ckpt"], capsys)
    finally:
        (folder / "net.py").write_text(SOURCE)
    assert code == 0
    assert any(
        "its code is not what it was when the file was exported" in n for n in found["comparisons"][0]["notices"]
    )


def test_selections_by_other_scores_are_judged_with_their_near_ties(folder: Path) -> None:
    """Of a packed attention the key graphs are not read: each side selects for itself."""
    found = compare("abs.onnx", "net.py:build@abs.json", blocks=True, notice=lambda _line: None).comparisons[0]
    assert found.verdict.good, found.verdict.reasons
    rounding = found.inputs[0].rounding
    assert rounding is not None
    assert rounding.beside == ("near ties",)
    assert rounding.median_times < 4


def test_a_packed_file_is_a_reference_too(folder: Path) -> None:
    assert "TopKGraph" in {node.op_type for node in onnx.load("abs.onnx").graph.node}
    found = compare("abs.onnx@functions", "abs.onnx", blocks=True).comparisons[0]
    assert found.verdict.good, found.verdict.reasons
    rounding = found.inputs[0].rounding
    assert rounding is not None
    assert rounding.beside == ("near ties",)


def test_a_saved_run_is_repeated(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "net.onnx", "net.py:build@net.ckpt", "--save", str(tmp_path / "run"), "--quiet"]) == 0
    code, found, _ = run(["--replay", str(tmp_path / "run")], capsys)
    assert code == 0
    assert found["moved"] == []


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            ["net.py:build@net.ckpt", "net.py:build"],
            "a module does not say what values and sizes it takes",
        ),
        (["net.onnx", "net.py"], "say which function or class makes the network"),
        (["net.onnx", "net.py:other"], "has no function or class 'other'"),
        (["net.onnx", "gone.py:build"], "gone.py"),
        (["net.onnx", "net.py:build@fp16"], "after @ give the checkpoint with its network's weights, a .json file"),
        (["net.onnx", "net.py:build@net.ckpt@other.pth"], "specifies its weights twice"),
        (["net.onnx", "net.py:build@gone.ckpt"], "gone.ckpt does not exist"),
        (["net.onnx", "net.py:pair"], "returns a tuple, not the restored image"),
        (["net.onnx", "net.py:build@net.ckpt", "--emit-polygraphy", "script.py"], "compare without --emit-polygraphy"),
    ],
)
def test_what_cannot_be_compared_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], models: list[str], message: str
) -> None:
    assert main(["compare", *models]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_module_in_memory_is_a_reference_too(folder: Path) -> None:
    module = build_network(parse_entry_point("net.py:build"), {}).module
    with pytest.raises(keygraph.InputError, match="training mode; call eval"):
        compare("net.onnx", module)
    loaded = load_network(parse_entry_point("net.py:build"), weights=Path("net.ckpt"), notice=lambda _line: None).module
    found = compare("net.onnx", loaded).comparisons[0]
    assert found.verdict.good, found.verdict.reasons
    assert found.reference.name == "Net"
    assert found.same_weights
    with pytest.raises(keygraph.InputError, match="in half precision; give the module in float32"):
        compare("net.onnx", loaded.half())


def test_a_norm_that_the_exporter_merged_with_a_convolution_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(6) for _ in range(2)]
    for norm in norms:
        norm.running_mean, norm.running_var = torch.randn(6) / 4, torch.rand(6) + 0.5
    layers = [nn.Conv2d(3, 6, 3, padding=1), norms[0], nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1, bias=False)]
    last = nn.Conv2d(6, 3, 3, padding=1)
    module = nn.Sequential(*layers, norms[1], nn.ReLU(inplace=True), last).eval()
    keygraph.export_module(module, tmp_path / "bn.onnx", verification=False)
    for reference in (module, tmp_path / "bn.onnx"):
        found = compare(tmp_path / "bn.onnx", reference, blocks=True).comparisons[0]
        assert found.verdict.good, found.verdict.reasons
    with torch.no_grad():
        last.weight.mul_(1.001)
    found = compare(tmp_path / "bn.onnx", module, blocks=True).comparisons[0]
    assert [block.name for block in found.inputs[0].beyond_rounding] == ["6"]


def test_two_versions_of_the_code_are_not_mixed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for folder, factor in (("old", 1.0), ("new", 0.9)):
        Path(folder).mkdir()
        Path(folder, "net.py").write_text("from layers import build\n")
        Path(folder, "layers.py").write_text(
            "import torch\n\nclass Net(torch.nn.Conv2d):\n    def forward(self, x):\n"
            f"        return {factor} * super().forward(x)\n\n"
            "def build():\n    torch.manual_seed(0)\n    return Net(3, 3, 3, padding=1)\n"
        )
    assert export_model(["old/net.py:build", "-o", "old.onnx", "--no-verify", "--quiet"]) == 0
    for models, code in ((["old/net.py:build", "new/net.py:build"], 3), (["old/net.py:build", "old/net.py:build"], 0)):
        found_code, found, _ = run(["old.onnx", *models], capsys)
        assert found_code == code
    assert not [line for one in found["comparisons"] for line in one["notices"] if "exported" in line]


def test_names_with_an_at_sign(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "d@ta"
    place.mkdir()
    for name in ("net.py", "net.ckpt", "net.onnx"):
        (place / name).write_bytes((folder / name).read_bytes())
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    images.write(place / "photo.png", Picture(image))
    models = [f"{place}/net.onnx", f"{place}/net.py:build@{place}/net.ckpt"]
    assert run([*models, "--inputs", f"{place}/photo.png"], capsys)[0] == 0


def test_a_known_architecture_has_a_checkpoint(folder: Path, make_model: Any) -> None:
    known = make_model("identity")
    with pytest.raises(keygraph.InputError, match="compare that with its checkpoint"):
        compare(str(known), "net.py:build", notice=lambda _line: None)
