"""``keygraph inspect --key-graphs``: the figures, on graphs that are known, and as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny_channel_attention
from exported import ExportStore
from keygraph.cli import main
from keygraph.instrumentation.key_graph_statistics import agreement, kept_links, statistics, unpacked
from keygraph.instrumentation.key_graphs import Selection
from keygraph.instrumentation.metrics import psnr
from keygraph.runtime.io import images
from numpy.typing import NDArray
from tiny_kgt import Tiny


def selection(linked: NDArray[np.bool_], keys: NDArray[np.float32] | None = None) -> Selection:
    """A graph of one window, from its matrix bool[N, N]."""
    nodes = len(linked)
    padded = np.zeros((nodes, -(-nodes // 32) * 32), dtype=bool)
    padded[:, :nodes] = linked
    words = np.packbits(padded, axis=-1, bitorder="little").view("<i4")
    features = np.zeros((1, 1, nodes, 2), np.float32) if keys is None else keys[None, None]
    return Selection("body.0", features, features, words[None, None])


def test_unpacking_is_the_definition() -> None:
    linked = np.random.default_rng(0).random((256, 256)) < 0.3
    assert (unpacked(selection(linked).graph[0, 0], 256) == linked).all()


def test_nodes_that_attend_to_themselves_only() -> None:
    found = statistics(selection(np.eye(256, dtype=bool)))
    assert (found.windows, found.nodes, found.links) == (1, 256, 1.0)
    assert found.distance == 0
    assert found.distances[0] == 1
    assert found.alike == 0
    # Only the diagonal of 4 x 4 blocks has links, in any order.
    assert found.empty_blocks == {"rows": 0.75, "patches": 0.75, "features": 0.75}


def test_neighbours_in_the_same_row_of_pixels() -> None:
    number = np.arange(256)
    found = statistics(selection(number[:, None] // 16 == number // 16))
    # The mean of |i - j| over 16 x 16 pairs is (16^2 - 1) / (3 * 16).
    assert found.distance == pytest.approx(255 / 48)
    assert found.empty_blocks["rows"] == 0.75
    assert found.empty_blocks["patches"] == 0.5
    assert found.alike == pytest.approx(15 / 255)


def test_all_nodes_have_the_same_neighbours() -> None:
    chosen = np.random.default_rng(0).permutation(256)[:64]
    linked = np.zeros((256, 256), dtype=bool)
    linked[:, chosen] = True
    keys = np.zeros((256, 2), np.float32)
    keys[chosen, 0] = 10  # The nodes that all others look at.
    found = statistics(selection(linked, keys))
    assert found.alike == 1
    # Sorted by their features they fill one column of blocks.
    assert found.empty_blocks["rows"] == 0
    assert found.empty_blocks["features"] == 0.75


def test_nodes_that_are_no_square_have_no_distances() -> None:
    found = statistics(selection(np.ones((40, 40), dtype=bool)))
    assert found.distance is None
    assert found.distances == ()
    assert set(found.empty_blocks) == {"rows", "features"}


def test_agreement() -> None:
    few, many = np.zeros((2, 64, 64), dtype=bool)
    few[:, :10] = True
    many[:, 5:25] = True
    one, other = selection(few).graph, selection(many).graph
    assert agreement(one, other) == pytest.approx(5 / 25)
    assert kept_links(one, other) == 0.5
    assert agreement(one, selection(np.ones((32, 32), dtype=bool)).graph) is None


def test_a_model_on_a_photo(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    images.write(tmp_path / "photo.png", images.Picture(photo))
    arguments = ["inspect", str(tiny.onnx), "--key-graphs", str(tmp_path / "photo.png")]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["width"], found["height"], found["k"]) == (41, 30, 16)
    first, second = found["stages"]
    # 32 x 48 pixels are 4 x 6 windows of 8 x 8; k = 16 is the tiny model's own.
    assert (first["name"], first["windows"], first["nodes"], first["links"]) == ("body.0", 24, 64, 16)
    assert found["agreement"][0][0] == 1
    assert found["agreement"][0][1] == found["agreement"][1][0]
    # The first stage's features do not depend on k, so that more neighbours only add links.
    assert found["kept"]["8"][0] == found["kept"]["16"][0] == 1
    assert second["distance"] is not None

    assert main([*arguments, "--plot", str(tmp_path / "graphs.svg")]) == 0
    said = capsys.readouterr().out
    assert "key graphs on 41 x 30 pixels" in said
    assert "body.1" in said
    texts = ElementTree.parse(tmp_path / "graphs.svg").iter()
    assert sum(1 for _ in texts) > 100
    assert main([*arguments, "--plot", str(tmp_path / "graphs.png")]) == 0
    drawn = images.read(tmp_path / "graphs.png").pixels
    assert drawn.shape[0] > 500
    assert psnr(drawn, np.full_like(drawn, 255), (0, 255)) < 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plot", "a.png"], "--key-graphs PHOTO"),
        (["--key-graphs", "{photo}", "--plot", "a.pdf"], "ends with .png or .svg"),
        (["--key-graphs", "{photo}", "--plot", "missing/a.png"], "create it first"),
        (["--key-graphs", "missing.png"], "missing.png"),
        (["--k", "8"], "--key-graphs PHOTO"),
        (["--key-graphs", "{photo}", "--report", "a.html"], "--report is about attentions"),
        (["--key-graphs", "{photo}", "--k", "65"], "64"),
    ],
)
def test_bad_input(
    options: list[str], said: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images.write(tmp_path / "photo.png", images.Picture(np.zeros((16, 16, 3), np.uint8)))
    given = [option.format(photo=tmp_path / "photo.png") for option in options]
    assert main(["inspect", str(tiny.onnx), *given]) == 2
    assert said in capsys.readouterr().err


def test_models_without_key_graphs(
    exports: ExportStore, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images.write(tmp_path / "photo.png", images.Picture(np.zeros((16, 16, 3), np.uint8)))
    restormer = exports.get(tiny_channel_attention.CSA, "csa").onnx
    for model, said in ((tiny.checkpoint, "export-model writes one"), (restormer, "computes no key graph")):
        assert main(["inspect", str(model), "--key-graphs", str(tmp_path / "photo.png")]) == 2
        assert said in capsys.readouterr().err
