"""``keygraph compare``: exit codes, what is printed, and bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_kgt
from keygraph.cli import main
from keygraph.runtime import images
from keygraph.runtime.images import Picture
from tiny_kgt import Tiny, changed, set_weight


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with tiny_kgt.one_thread():
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_kgt.make_tiny(tmp_path_factory.getbasetemp())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, shape in {"a.png": (20, 30, 3), "b[1].png": (16, 16), "c.tif": (9, 9, 3)}.items():
        images.write(folder / name, Picture(random.integers(0, 256, shape).astype(np.uint8)))
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments: object) -> int:
    return main(["compare", *map(str, arguments)])


def test_agreement_on_one_screen(tiny: Tiny, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny.onnx, tiny.checkpoint, "--inputs", photos / "a.png", photos / "b[1].png", "--k", 20) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 24
    for part in (
        "tiny.onnx",
        "tiny.ckpt",
        "ONNX Runtime",
        "PyTorch",
        "k 20",
        "a.png",
        "b[1].png",
        "30x20",
        "same graphs",
    ):
        assert part in said
    for part in ("body.0", "body.1", "Jaccard", "beyond tolerance", "AGREE: the rule is: every value finite", "note: "):
        assert part in said


def test_difference_is_exit_code_3_and_says_why(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = changed(tiny.onnx, tmp_path / "wrong.onnx", tiny_kgt.fewer_neighbours)
    assert run(wrong, tiny.checkpoint) == 3
    said = capsys.readouterr()
    assert "DIFFERENT: the rule is" in said.out
    assert "body.0: the candidate keeps 15 neighbours of each node, the reference 16" in said.out
    assert said.err == ""
    assert run(wrong, tiny.checkpoint, "--quiet") == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("body.0: the candidate keeps 15")
    assert run(tiny.onnx, tiny.checkpoint, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_json_is_strict_also_where_numbers_are_none(
    tiny: Tiny, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def strict(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    broken = changed(tiny.onnx, tmp_path / "nan.onnx", set_weight("tail.weight", 0, lambda _value: math.nan))
    assert run(broken, tiny.checkpoint, "--inputs", photos, "--json") == 3
    values = json.loads(capsys.readouterr().out, parse_constant=strict)
    assert [Path(result["name"]).name for result in values["inputs"]] == ["a.png", "b[1].png", "c.tif"]
    assert values["inputs"][0]["as_run"]["psnr"] is None
    assert values["inputs"][0]["as_run"]["nonfinite_candidate"] > 0
    assert values["verdict"]["good"] is False
    assert run(tiny.onnx, tiny.onnx, "--json") == 0
    values = json.loads(capsys.readouterr().out, parse_constant=strict)
    assert values["inputs"][0]["as_run"]["psnr"] == 200
    assert values["stages"][0]["jaccard"] == 1
    assert values["candidate"]["weights_sha256"] == values["reference"]["weights_sha256"]
    assert (values["k"], values["verdict"]["good"], values["verdict"]["reasons"]) == (16, True, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("none.onnx tiny.ckpt", "none.onnx does not exist"),
        ("tiny.onnx none.ckpt", "none.ckpt does not exist"),
        ("empty.onnx tiny.ckpt", "is empty"),
        ("half.onnx tiny.ckpt", "cut off"),
        ("tiny.onnx half.ckpt", "incomplete download"),
        ("foreign.onnx tiny.ckpt", "not one that keygraph exported"),
        ("photos/a.png tiny.ckpt", "no model by its name"),
        ("tiny.onnx tiny.ckpt tiny.onnx", "third model"),
        ("tiny.onnx", "REFERENCE"),
        ("tiny.onnx tiny.ckpt --k 0", "k is 0"),
        ("tiny.onnx tiny.ckpt --k -3", "k is -3"),
        ("tiny.onnx tiny.ckpt --k many", "'--k'"),
        ("tiny.onnx tiny.ckpt --k 65", "from 1 to 64"),
        ("tiny.onnx tiny.ckpt --inputs none.png", "none.png does not exist"),
        ("tiny.onnx tiny.ckpt --inputs half.png", "damaged, cut off"),
        ("tiny.onnx tiny.ckpt --inputs empty.png", "is empty"),
        ("tiny.onnx tiny.ckpt --inputs nothing", "holds no image"),
        ("tiny.onnx tiny.ckpt --inputs photos/notes.txt", "no image"),
        ("other.ckpt tiny.ckpt", "are different networks: scale is 2 and 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tiny: Tiny,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    import onnx

    monkeypatch.chdir(tmp_path)
    for path in tiny:
        Path(path.name).write_bytes(path.read_bytes())
        Path("half" + path.suffix).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Path("half.png").write_bytes((photos / "a.png").read_bytes()[:300])
    for name in ("empty.onnx", "empty.png"):
        Path(name).touch()
    Path("nothing").mkdir()
    foreign = onnx.load(tiny.onnx)
    del foreign.metadata_props[:]
    onnx.save(foreign, "foreign.onnx")
    tiny_kgt.save_network(
        Path("other.ckpt"), tiny_kgt.KGTConfig(layers=(1,), channels=8, heads=2, window=8, k=9, scale=2)
    )
    before = sorted(tmp_path.rglob("*"))
    assert run(*arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    assert words in said.err
    assert sorted(tmp_path.rglob("*")) == before
