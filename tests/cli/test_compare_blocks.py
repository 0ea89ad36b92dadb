"""``keygraph compare --blocks`` and ``--bisect``: what is printed, and bad input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_kgt
from keygraph.cli import main
from keygraph.cli.comparison_tables import ROWS, show_run
from keygraph.export.precision_search import comparison as comparison_search
from keygraph.export.precision_search.checkpoint import SearchResult
from keygraph.models.kgt import KGT
from keygraph.parity import BlockDifference, FirstDivergence, compare
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from tiny_kgt import CONFIG, Tiny, changed, set_weight

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def wrong(tiny: Tiny, tmp_path: Path) -> Path:
    return changed(tiny.onnx, tmp_path / "wrong.onnx", set_weight("body.1.conv.weight", 3, lambda value: value + 0.1))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    images.write(path, Picture(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)))
    return path


def run(*arguments: object) -> int:
    return main(["compare", *map(str, arguments)])


def test_the_table_says_where_it_starts(
    tiny: Tiny, wrong: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(wrong, tiny.checkpoint, "--inputs", photo, "--blocks") == 3
    lines = capsys.readouterr().out.splitlines()
    (title,) = (line for line in lines if line.startswith("block "))
    assert re.split(r" {2,}", title)[1:] == ["PSNR dB", "alone dB", "x rounding", "max abs", "largest", "reference's"]
    (fault,) = (line for line in lines if line.endswith("starts here"))
    assert fault.split()[:2] == ["body.1.conv", "fp32"]
    assert " OVER " in fault
    (before,) = (line for line in lines if line.startswith("body.1.layers.0 "))
    assert " OVER " not in before
    assert any(
        line.startswith("  the difference starts in body.1.conv: the block before it agrees at 1") for line in lines
    )


def test_json_and_replay_keep_the_blocks(
    tiny: Tiny, wrong: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(wrong, tiny.checkpoint, "--inputs", photo, "--blocks", "--save", tmp_path / "run", "--json") == 3
    first = json.loads(capsys.readouterr().out)
    (values,) = first["comparisons"]
    assert [block["name"] for block in values["blocks"]][-2:] == ["body.1", "tail"]
    assert values["origin"]["block"] == "body.1.conv"
    assert values["precision_search"] is None
    assert first["settings"]["blocks"] is True
    assert first["command"].endswith(" --blocks")
    assert run("--replay", tmp_path / "run", "--json") == 3
    assert json.loads(capsys.readouterr().out)["comparisons"] == first["comparisons"]


def test_a_large_network_has_the_blocks_that_say_the_most(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(tiny.checkpoint, tiny.checkpoint, [np.zeros((8, 8, 3), np.float32)])
    blocks = tuple(
        BlockDifference(f"layers.{i}", 140.0 - i / 10, 1e-6, 1.0, "fp16", i > 260, 150.0, 0, 1.0) for i in range(300)
    )
    divergence = FirstDivergence("block", "layers.71", "the difference starts in layers.71")
    comparison = found.comparisons[0]
    object.__setattr__(comparison, "blocks", blocks)
    object.__setattr__(comparison, "first_divergence", divergence)
    show_run(found)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("layers.", "... "))]
    assert len(table) <= 2 * ROWS
    shown = [line.split()[0] for line in table]
    assert {f"layers.{i}" for i in (0, 69, 70, 71, 72, 73, 260, 261, 262, 299)} <= set(shown)
    hidden = sum(int(line.split()[1]) for line in table if line.startswith("... "))
    assert hidden + sum(name.startswith("layers.") for name in shown) == 300


def test_what_cannot_be_asked_for(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny.onnx, tiny.checkpoint, "--blocks", "--emit-polygraphy", tmp_path / "script.py") == 2
    assert run(tiny.onnx, tiny.checkpoint, "--bisect", "--emit-polygraphy", tmp_path / "script.py") == 2
    assert capsys.readouterr().err.count("--emit-polygraphy goes with") == 2
    assert run(tiny.onnx, tiny.onnx, "--bisect") == 2
    said = capsys.readouterr().err
    assert "which takes the checkpoint that it was exported from; give that as the reference" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("command", ["--bisect"])
def test_a_precision_search_without_a_solution(
    tiny: Tiny, wrong: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(tiny.onnx, tiny.checkpoint, "--inputs", photo, command) == 0
    assert "PRECISION SEARCH: not needed: the candidate passes as it is" in capsys.readouterr().out
    assert run(wrong, tiny.checkpoint, "--inputs", photo, command) == 3
    assert (
        "PRECISION SEARCH: no FP32 pattern makes it pass: the candidate computes in FP32 already"
        in capsys.readouterr().out
    )

    def change(network: KGT) -> None:
        network.head.weight[0, 0] += 0.5

    other = tiny_kgt.save_network(tmp_path / "other.ckpt", CONFIG, change)
    assert run(f"{other}@fp16", tiny.checkpoint, "--inputs", photo, command) == 3
    said = capsys.readouterr().out
    assert f"PRECISION SEARCH: no FP32 pattern makes it pass: {other} in FP32 fails as well (" in said
    assert "precision is not the cause" in said


def test_a_precision_search_repairs_an_overflow_and_its_command_exports_a_file_that_passes(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_kgt.save_network(tmp_path / "hot.ckpt", CONFIG, tiny_kgt.overflowing)
    assert run(f"{checkpoint}@fp16", checkpoint, "--inputs", photo, "--bisect", "--json") == 3
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    mending = comparison["precision_search"]
    assert mending["possible"] is True
    assert set(mending["fp32_patterns"]) == {"body.1.layers.0.ffn.reduce", "body.1.layers.0/Add_1", "body.1.conv/Conv"}
    assert mending["psnr"] > 50
    assert mending["words"].startswith("with body.1")
    assert "the PSNR rises from values that are not finite to " in mending["words"]
    words = mending["command"].split()
    assert words[:3] == ["keygraph", "export", str(checkpoint)]
    assert main([*words[1:], "--no-verify", "--quiet"]) == 0
    assert run(checkpoint.with_suffix(".onnx"), checkpoint, "--inputs", photo) == 0


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (SearchResult(76.0, (), 76.0), "no --keep-fp32 is needed: the blocks that keygraph export keeps in FP32 by"),
        (
            SearchResult(-math.inf, None, -math.inf),
            "no FP32 pattern makes it pass: the PSNR stays below 95 dB even with every block in FP32",
        ),
    ],
)
def test_outcomes_of_a_precision_search(
    tiny: Tiny,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: SearchResult,
    words: str,
) -> None:
    asked: list[Any] = []

    def search(*arguments: Any) -> SearchResult:
        asked.append(arguments)
        return found

    monkeypatch.setattr(comparison_search, "search_checkpoint", search)  # It traces the network, which takes long.
    assert run(f"{tiny.checkpoint}@bf16", tiny.checkpoint, "--inputs", photo, "--fail-under", "95", "--bisect") == 3
    said = capsys.readouterr().out
    assert f"PRECISION SEARCH: {words}" in said
    ((_, precision, kept, windows, target, k, _),) = asked
    assert (precision, target, k) == ("bf16", 95, CONFIG.k)
    assert "tail" in kept
    (window,) = windows
    (image,) = window.inputs
    assert window.name == str(photo)
    assert image.shape == (1, 3, 24, 32)
