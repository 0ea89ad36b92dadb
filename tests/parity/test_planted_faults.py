"""Faults planted in real files and in the runtime, found and named by ``keygraph compare``; and no false alarm."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_kgt
from keygraph.cli import main
from keygraph.manifest import Tiling
from keygraph.parity import compare, open_probe
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from keygraph.runtime.tiling import blend as blending
from keygraph.runtime.tiling import run as tiled_run
from numpy.typing import NDArray
from onnx import ModelProto
from tiny_kgt import Tiny, changed, set_weight

Plant = Callable[[ModelProto], None]

RANDOM = np.random.default_rng(7)
#: Not square; both sides are multiples of the window.
PHOTO = RANDOM.integers(0, 220, (64, 80, 3), np.uint8)
FLAT = np.full((32, 40, 3), 128, np.uint8)
BRIGHT = PHOTO.copy()
BRIGHT[26, 41] = 255


pytestmark = pytest.mark.usefixtures("one_thread")


class Outcome(NamedTuple):
    """What ``keygraph compare --json`` said."""

    code: int
    reasons: list[str]
    causes: list[dict[str, Any]]
    stages: list[dict[str, Any]]


@pytest.fixture
def outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``keygraph compare`` on an image."""

    def run(candidate: Path, reference: Path, pixels: NDArray[np.uint8], *options: str) -> Outcome:
        images.write(tmp_path / "photo.png", Picture(pixels))
        arguments = [str(candidate), str(reference), "--inputs", str(tmp_path / "photo.png"), *options]
        code = main(["compare", *arguments, "--json"])
        (found,) = json.loads(capsys.readouterr().out)["comparisons"]
        photo = f"{tmp_path / 'photo.png'}: "
        reasons = [reason.removeprefix(photo) for reason in found["verdict"]["reasons"]]
        return Outcome(code, reasons, found["inputs"][0]["causes"], found["stages"])

    return run


#: What is planted, how the model is run, the first reason (… stands for anything), and the kind of cause.
NAMED: dict[str, tuple[Plant, str, str, str | None]] = {
    "k too small": (
        tiny_kgt.fewer_neighbours,
        "",
        "body.0: the candidate keeps 15 neighbours of each node, the reference 16: "
        "the candidate's KeyGraph is at fault, it keeps one neighbour too few",
        None,
    ),
    "k too large": (
        tiny_kgt.more_neighbours,
        "",
        "body.0: the candidate keeps 17 neighbours of each node, the reference 16: "
        "the candidate's KeyGraph is at fault, it keeps one neighbour too many",
        None,
    ),
    "next for the k-th": (
        tiny_kgt.next_for_last,
        "@functions",
        "body.0: the candidate chooses … links wrongly by its own features: "
        "the candidate's KeyGraph is at fault, it leaves out the k-th neighbour and takes the next",
        None,
    ),
    "channels": (
        tiny_kgt.swapped_channels,
        "",
        "the channels are swapped: the output's are the reference's 2, 1, 0 (BGR for RGB) (undone: … dB)",
        "channels",
    ),
    "rotation": (
        tiny_kgt.turned,
        "",
        "the output is the reference rotated by 180 degrees (undone: … dB)",
        "orientation",
    ),
}


@pytest.mark.parametrize("fault", NAMED)
def test_a_planted_fault_is_named(tiny: Tiny, tmp_path: Path, outcome: Any, fault: str) -> None:
    plant, how, said, kind = NAMED[fault]
    path = changed(tiny.onnx, tmp_path / "model.onnx", plant)
    found = outcome(f"{path}{how}", tiny.checkpoint, PHOTO)
    assert found.code == 3
    start, _, end = said.partition("…")
    assert found.reasons[0].startswith(start)
    assert found.reasons[0].endswith(end)
    assert [cause["kind"] for cause in found.causes] == ([kind] if kind else [])
    if kind:
        assert found.causes[0]["undone"] > 120
        assert "times what fp32 rounding explains" in found.reasons[1]
    else:
        assert len(found.reasons) == 1


def test_the_side_that_is_wrong_is_named(tiny: Tiny, tmp_path: Path, outcome: Any) -> None:
    """The same fault in the reference is no fault of the candidate's."""
    path = changed(tiny.onnx, tmp_path / "model.onnx", tiny_kgt.next_for_last)
    found = outcome(tiny.checkpoint, f"{path}@functions", PHOTO)
    assert found.code == 3
    assert "the reference chooses" in found.reasons[0]
    assert "the reference's KeyGraph is at fault, it leaves out the k-th" in found.reasons[0]


def test_ties_broken_the_other_way_are_harmless(tiny: Tiny, tmp_path: Path, outcome: Any) -> None:
    path = changed(tiny.onnx, tmp_path / "model.onnx", tiny_kgt.ties_to_the_highest)
    found = outcome(f"{path}@functions", tiny.checkpoint, FLAT)
    assert found.stages[0]["near_ties"] == found.stages[0]["different"] > 1000
    assert (found.code, found.reasons, found.causes) == (0, [], [])


@pytest.mark.parametrize("tile", ["32", None])
def test_a_nan_is_placed(tiny: Tiny, tmp_path: Path, outcome: Any, tile: str | None) -> None:
    path = changed(tiny.onnx, tmp_path / "model.onnx", tiny_kgt.nan_where_bright)
    found = outcome(path, tiny.checkpoint, BRIGHT, *(["--tile", tile] if tile else []))
    assert found.code == 3
    assert found.reasons[0] == "the candidate gives 3 NaN or infinite values"
    where = "between the output's rows 26 and 26, columns 41 and 41"
    (cause,) = found.causes
    if tile is None:
        assert found.reasons[1] == f"the 3 NaN or infinite values lie {where}"
    else:
        assert found.reasons[1] == (
            "the 3 NaN or infinite values all lie in the tile at row 0, column 16 (tile 2 of row 1) "
            f"and 3 that overlap it, {where}"
        )
        assert cause["details"]["tiles"] == [
            {"row": row, "column": column, "top": 16 * row, "left": 16 * column} for row in (0, 1) for column in (1, 2)
        ]


@pytest.fixture
def paste_beside(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, tuple[int, int]], None]:
    """Let the runtime paste one tile beside its place, in one of the images that it restores."""

    def plant(image: int, tile: int, offset: tuple[int, int]) -> None:
        original, calls = blending.blend, 0

        def blend(plan: Any, restored: Any, *rest: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 != image:
                return original(plan, restored, *rest)
            moved = (np.roll(one, offset, axis=(-2, -1)) if i == tile else one for i, one in enumerate(restored))
            return original(plan, moved, *rest)

        monkeypatch.setattr(tiled_run, "blend", blend)

    return plant


@pytest.mark.parametrize(
    ("offset", "words"),
    [((0, 1), "1 pixel to the right"), ((-1, 0), "1 pixel up"), ((1, -1), "1 pixel down and 1 pixel to the left")],
)
def test_a_tile_shifted_by_one_pixel_is_named(
    tiny: Tiny, outcome: Any, paste_beside: Any, offset: tuple[int, int], words: str
) -> None:
    """Though the images with the same key graphs, which the runtime does not join, are right."""
    paste_beside(1, 5, offset)  # Images are restored by the reference first.
    found = outcome(tiny.onnx, tiny.checkpoint, PHOTO, "--tile", "32")
    assert found.code == 3
    (cause,) = found.causes
    assert cause["kind"] == "tile"
    assert cause["details"] == {"row": 1, "column": 1, "top": 16, "left": 16, "down": offset[0], "right": offset[1]}
    assert found.reasons[0].startswith(f"the tile at row 16, column 16 (tile 2 of row 2) is shifted {words} (undone: ")
    assert "near ties do not explain that" in found.reasons[1]


def test_a_tile_shifted_by_one_pixel_is_a_regression(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], paste_beside: Any
) -> None:
    images.write(tmp_path / "photo.png", Picture(PHOTO))
    arguments = [str(tiny.onnx), str(tiny.checkpoint), "--inputs", str(tmp_path / "photo.png"), "--tile", "32"]
    assert main(["compare", *arguments, "--json"]) == 0
    (tmp_path / "before.json").write_text(capsys.readouterr().out)
    paste_beside(1, 5, (0, 1))
    assert main(["compare", *arguments, "--baseline", str(tmp_path / "before.json"), "--quiet"]) == 3
    said = capsys.readouterr().err
    assert "as run, the median tile error is" in said
    assert "is shifted 1 pixel to the right" in said


def test_a_tile_shifted_by_one_pixel_is_named_without_key_graphs(
    make_model: Any, tmp_path: Path, outcome: Any, paste_beside: Any
) -> None:
    paste_beside(1, 5, (1, 0))
    found = outcome(make_model("blur"), make_model("blur", tmp_path / "other.onnx"), PHOTO, "--tile", "32")
    assert found.code == 3
    assert "is shifted 1 pixel down (undone: equal there)" in found.reasons[0]


def test_sides_that_were_calibrated_otherwise_are_cut_alike(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported file advises an overlap, the checkpoint that it came from none."""
    file = open_probe(tiny.onnx)
    manifest = dataclasses.replace(file.manifest, tiling=Tiling(tile=32, overlap=8, psnr=100.0))
    monkeypatch.setattr(file.session, "manifest", manifest)
    run = compare([file], tiny.checkpoint, [PHOTO], tile=32, keep_images=True)
    assert run.good, run.reasons
    assert not any("different tiles" in line for line in run.comparisons[0].notices)
    plan = run.images[0].tiles
    assert plan is not None
    assert len(plan.tiles) == 12  # 3 x 4; by itself, the checkpoint's would overlap by 16.


#: Found, by their numbers; no cause of another kind is named for them.
FOUND: dict[str, Plant] = {
    "TF32": tiny_kgt.ten_bits,
    "a weight": set_weight("body.1.layers.0.ffn.expand.weight", 3, lambda value: value + 0.05),
    "a weight of the last convolution": set_weight("tail.weight", 40, lambda value: value * 1.05 + 0.001),
}


@pytest.mark.parametrize("fault", FOUND)
@pytest.mark.parametrize("tile", [(), ("--tile", "24")])
def test_a_fault_of_the_arithmetic_is_found_and_not_misnamed(
    tiny: Tiny, tmp_path: Path, outcome: Any, fault: str, tile: tuple[str, ...]
) -> None:
    path = changed(tiny.onnx, tmp_path / "model.onnx", FOUND[fault])
    found = outcome(path, tiny.checkpoint, PHOTO, *tile)
    assert found.code == 3
    assert found.causes == []
    assert "with the same key graphs: error " in found.reasons[-1]
    assert "times what fp32 rounding explains" in found.reasons[-1]


@pytest.mark.parametrize("count", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_many_networks_raise_no_alarm(count: int, tmp_path: Path) -> None:
    """Random weights, in the checkpoint and in the file: fp32 ONNX Runtime against PyTorch, by the default rule."""
    export = tiny_kgt.Reweighted(tmp_path)
    levels = []
    for seed in range(count):
        files = export.make(tmp_path, seed)
        image = np.random.default_rng(seed).random((16, 24, 3), np.float32)
        run = compare(files.onnx, files.checkpoint, [image])
        assert run.good, (seed, run.reasons)
        (comparison,) = run.comparisons
        assert comparison.same_weights
        levels.append(comparison.inputs[0].judged.psnr)
    # Rounding alone; and no two networks are the same.
    assert 110 < min(levels) < max(levels) < math.inf
    assert len(set(levels)) == count
