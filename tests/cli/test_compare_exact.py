"""``keygraph compare --tile`` of networks with statistics over the whole image, whose tiles are exact."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import ExportStore
from keygraph.cli import main
from keygraph.manifest import GlobalStatistics, Tiling
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from tiny_channel_attention import CSA
from tiny_kgt import changed, set_manifest, set_weight

pytestmark = pytest.mark.usefixtures("one_thread")

TILE = 64


@pytest.fixture(scope="module")
def restormer(exports: ExportStore) -> Path:
    """A small Restormer as an exported file, not calibrated."""
    return exports.get(CSA, "restormer").onnx


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    images.write(path, Picture(np.random.default_rng(0).integers(0, 256, (101, 139, 3), np.uint8)))
    return path


def run(*arguments: object) -> int:
    return main(["compare", "--debug", *map(str, arguments)])


@pytest.mark.parametrize("weight", ["first", "last"])
@pytest.mark.parametrize("tiled", [True, False])
def test_one_nan_weight_is_reported(
    restormer: Path, photo: Path, tmp_path: Path, weight: str, tiled: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    # The first convolution spoils a statistic, the last one only the restored image.
    convolutions = [node for node in onnx.load(restormer).graph.node if node.op_type == "Conv"]
    name = convolutions[0 if weight == "first" else -1].input[1]
    broken = changed(restormer, tmp_path / "broken.onnx", set_weight(name, 0, lambda _value: math.nan))
    tile = ("--tile", TILE) if tiled else ()
    assert run(broken, restormer, "--inputs", photo, "--json", *tile) == 3
    (values,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert values["verdict"]["good"] is False
    assert values["inputs"][0]["as_run"]["nonfinite_candidate"] > 0
    assert values["inputs"][0]["as_run"]["nonfinite_reference"] == 0
    said = [line for line in values["notices"] if "the model gave NaN or infinity in" in line]
    assert len(said) == tiled
    assert not any("different tiles" in line for line in values["notices"])


def test_one_wrong_weight_is_reported(
    restormer: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(node for node in onnx.load(restormer).graph.node if node.op_type == "Conv").input[1]
    wrong = changed(restormer, tmp_path / "wrong.onnx", set_weight(name, 0, lambda value: value + 1))
    assert run(wrong, restormer, "--inputs", photo, "--tile", TILE) == 3
    assert "DIFFERENT" in capsys.readouterr().out


def test_tiles_are_exact_on_all_sides_or_on_none(
    restormer: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = GlobalStatistics(memory=None, tilings=(Tiling(TILE, 8, 30.0),), exact=None)
    unproven = changed(restormer, tmp_path / "unproven.onnx", partial(set_manifest, statistics=failed))
    for pair in ((restormer, unproven), (unproven, restormer)):
        assert run(*pair, "--inputs", photo, "--tile", TILE, "--json") == 0
        (values,) = json.loads(capsys.readouterr().out)["comparisons"]
        assert values["inputs"][0]["as_run"]["psnr"] == 200
        assert any("tiles change its result" in line for line in values["notices"])
