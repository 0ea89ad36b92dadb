"""``keygraph compare``: exit codes, what is printed, and bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny_kgt
from keygraph.cli import main
from keygraph.models.kgt import KGTConfig
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from tiny_kgt import Tiny, changed, set_weight

pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert len(said.splitlines()) <= 28
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
    for part in (
        "body.0",
        "body.1",
        "Jaccard",
        "near ties: harmless",
        "beyond: a bug",
        "SSIM",
        "steps apart",
        "note: ",
    ):
        assert part in said
    for part in (
        "AGREE: the rule is: every value finite, an error of at most 4 times what fp32 rounding explains with the same",
    ):
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
    run_values = json.loads(capsys.readouterr().out, parse_constant=strict)
    assert run_values["good"] is False
    assert {"python", "torch", "onnxruntime", "numpy"} <= run_values["versions"].keys()
    assert run_values["command"].startswith("keygraph compare ")
    (values,) = run_values["comparisons"]
    assert [Path(result["name"]).name for result in values["inputs"]] == ["a.png", "b[1].png", "c.tif"]
    assert values["inputs"][0]["as_run"]["psnr"] is None
    assert values["inputs"][0]["as_run"]["nonfinite_candidate"] > 0
    assert values["verdict"]["good"] is False
    assert run(tiny.onnx, tiny.onnx, "--json") == 0
    (values,) = json.loads(capsys.readouterr().out, parse_constant=strict)["comparisons"]
    assert values["inputs"][0]["as_run"]["psnr"] == 200
    assert values["inputs"][0]["as_run"]["ssim"] == pytest.approx(1)
    assert values["stages"][0]["jaccard"] == 1
    assert values["candidate"]["weights_sha256"] == values["reference"]["weights_sha256"]
    assert (values["k"], values["verdict"]["good"], values["verdict"]["reasons"]) == (16, True, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("none.onnx tiny.ckpt", "none.onnx does not exist"),
        ("tiny.onnx none.ckpt", "none.ckpt does not exist"),
        ("empty.onnx tiny.ckpt", "is empty"),
        ("half.onnx tiny.ckpt", "truncated"),
        ("tiny.onnx half.ckpt", "incomplete download"),
        ("foreign.onnx tiny.ckpt", "not one that keygraph exported"),
        ("photos/a.png tiny.ckpt", "cannot tell the model type"),
        ("tiny.onnx", "REFERENCE"),
        ("", "REFERENCE"),
        ("tiny.onnx --inputs photos/a.png photos/c.tif", "REFERENCE"),
        ("tiny.onnx@fp16 tiny.ckpt", "an ONNX file cannot be run as 'fp16'; after @ give functions, cpu"),
        ("tiny.onnx tiny.ckpt@functions", "after @ give fp32, fp16, bf16, cpu"),
        ("tiny.onnx tiny.ckpt@fp16@bf16", "specifies its precision twice"),
        ("tiny.onnx@functions@functions tiny.ckpt", "specifies its functions twice"),
        ("none.plan tiny.ckpt", "none.plan"),
        ("tiny.onnx tiny.ckpt --device gpu", "give cpu, cuda"),
        ("tiny.onnx tiny.ckpt --provider rocm", "give one of cpu, cuda"),
        ("tiny.onnx tiny.ckpt --tile big", "--tile is 'big'"),
        ("tiny.onnx tiny.ckpt --tile 12", "multiple"),
        ("tiny.onnx tiny.ckpt --fail-under loud", "give decibels, for instance 50dB"),
        ("tiny.onnx tiny.ckpt --fail-under -3dB", "'-3dB'"),
        ("tiny.onnx tiny.ckpt --clean photos", "--clean goes with images"),
        ("tiny.onnx tiny.ckpt --inputs photos --clean photos/a.png", "one file for 3 images"),
        ("tiny.onnx tiny.ckpt --inputs photos --clean nothing", "holds no a.png"),
        ("tiny.onnx tiny.ckpt --inputs photos/a.png --clean none.png", "--clean none.png does not exist"),
        ("tiny.onnx tiny.ckpt --inputs photos/a.png --clean photos/c.tif", "the clean image has the shape (9, 9, 3)"),
        ("tiny.onnx tiny.ckpt --baseline none.json", "none.json does not exist"),
        ("tiny.onnx tiny.ckpt --baseline photos/notes.txt", "is not the result of a comparison"),
        ("tiny.onnx tiny.ckpt --junit none/out.xml", "the folder none does not exist"),
        ("tiny.onnx tiny.ckpt --report none/out.html", "the folder none does not exist"),
        ("tiny.onnx tiny.ckpt --report photos", "give a name that ends with .html"),
        ("tiny.onnx tiny.ckpt --report out.pdf", "give a name that ends with .html"),
        ("tiny.onnx tiny.ckpt --save photos", "photos exists and is not a saved run"),
        ("tiny.onnx tiny.ckpt --save none/run", "the folder none does not exist"),
        ("--replay photos", "photos is not a saved run"),
        ("tiny.onnx tiny.ckpt --replay photos", "leave out models"),
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
    tiny_kgt.save_network(Path("other.ckpt"), KGTConfig(layers=(1,), channels=8, heads=2, window=8, k=9, scale=2))
    before = sorted(tmp_path.rglob("*"))
    assert run(*arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = (line for line in said.err.splitlines() if not line.startswith("note: not read in "))
    assert line.startswith("error: ")
    assert words in line
    assert sorted(tmp_path.rglob("*")) == before


def test_several_candidates_each_in_its_own_way(tiny: Tiny, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidates = [f"{tiny.onnx}@functions", f"{tiny.checkpoint}@fp16", f"{tiny.checkpoint}@bf16", tiny.onnx]
    assert run(*candidates, tiny.checkpoint, "--inputs", photos / "a.png", photos / "c.tif", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    found = values["comparisons"]
    assert [one["candidate"]["name"] for one in found] == [str(name) for name in candidates]
    assert [one["candidate"]["precision"] for one in found] == ["fp32", "fp16", "bf16", "fp32"]
    assert {one["reference"]["precision"] for one in found} == {"fp32"}
    assert "functions in the file" in found[0]["candidate"]["description"]
    assert "bfloat16" in found[2]["candidate"]["description"]
    rules = [one["verdict"]["rule"].partition("what ")[2].partition(" explains")[0] for one in found]
    assert rules == ["fp32 rounding", "fp16 rounding", "bf16 rounding", "fp32 rounding"]
    assert all(0 < result["rounding"]["times"] < 2 for one in found for result in one["inputs"])
    psnrs = [one["inputs"][0]["same_graphs"]["psnr"] for one in found]
    assert psnrs[0] > 110 > psnrs[1] > psnrs[2] > 40
    assert [one["inputs"][1]["as_run"]["histogram"]["bits"] for one in found] == [8] * 4
    assert all(one["same_weights"] for one in found)
    # One that is wrong is enough, and its name is said.
    assert run(*candidates, tiny.checkpoint, "--inputs", photos / "a.png", "--fail-under", "100dB", "--quiet") == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{candidates[1]}: {photos / 'a.png'}: ")
    assert lines[1].startswith(str(candidates[2]))


def test_the_threshold_that_was_asked_for_is_stated(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny.onnx, tiny.checkpoint, "--fail-under", "50 dB") == 0
    assert "at least 50 dB (requested, in place of what rounding explains)" in capsys.readouterr().out
    assert run(tiny.onnx, tiny.checkpoint, "--fail-under", "200dB") == 3
    assert "less than 200 dB" in capsys.readouterr().out
    assert run(tiny.checkpoint, f"{tiny.checkpoint}@fp16", "--fail-under", "90", "--quiet") == 3


@pytest.mark.parametrize("tile", ["16", "none", "auto"])
def test_the_tiled_pipeline(tiny: Tiny, photos: Path, tile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny.onnx, tiny.checkpoint, "--inputs", photos / "a.png", "--tile", tile, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert f"--tile {tile}" in values["command"]
    (result,) = values["comparisons"][0]["inputs"]
    assert result["same_graphs"]["psnr"] > 110
    # 20 x 30 becomes 24 x 32 pixels; tiles of 16 that overlap by 8 are 2 x 3.
    assert result["stages"][0]["rows"] == (2 * 3 * 16 * 16 if tile == "16" else 24 * 32)


def test_a_tile_of_nan_is_named(make_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.full((32, 40, 3), 100, np.uint8)
    image[20, 30] = 250
    images.write(tmp_path / "bright.png", Picture(image))
    models = make_model("bright_nan"), make_model("identity")
    assert run(*models, "--inputs", tmp_path / "bright.png", "--tile", "16") == 3
    said = capsys.readouterr().out
    assert "the model gave NaN or infinity in the tile at row 8, column 16" in said
    assert "the candidate gives 3 NaN or infinite values" in said
    assert "the 3 NaN or infinite values all lie in the tile at row 8, column 16 (tile 3 of row 2)" in said
    assert run(*models, "--inputs", tmp_path / "bright.png", "--quiet") == 3
    assert "the candidate gives 3 NaN" in capsys.readouterr().err


def test_clean_images_tell_what_is_gained(tiny: Tiny, photos: Path, tmp_path: Path, capsys: Any) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    for name in ("a.png", "b[1].png", "c.tif"):
        images.write(clean / name, images.read(photos / name))
    half = f"{tiny.checkpoint}@bf16"
    assert run(half, tiny.checkpoint, "--inputs", photos, "--clean", clean, "--json") == 0
    for result in json.loads(capsys.readouterr().out)["comparisons"][0]["inputs"]:
        found = result["clean"]
        assert found["change"] == pytest.approx(found["candidate"] - found["reference"])
        assert 0 < abs(found["change"]) < 1
    assert run(tiny.onnx, tiny.checkpoint, "--inputs", photos / "a.png", "--clean", clean / "a.png") == 0
    said = capsys.readouterr().out
    assert "clean dB" in said
    assert "0.0000" in said


def test_a_report_is_written_beside_what_is_printed(
    tiny: Tiny, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = changed(tiny.onnx, tmp_path / "wrong.onnx", set_weight("tail.weight", 40, lambda value: value + 0.5))
    page, arguments = tmp_path / "report.html", (wrong, tiny.checkpoint, "--inputs", photos / "a.png")
    assert run(*arguments) == 3
    said = capsys.readouterr()
    assert run(*arguments, "--report", page) == 3
    assert capsys.readouterr() == said
    text = page.read_text()
    assert f"keygraph compare {wrong} {tiny.checkpoint} --inputs {photos / 'a.png'}</code>" in text
    assert 'id="picture-0-difference-0"' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "report.html", "wrong.onnx"]


def test_junit_has_a_case_for_each_candidate_and_image(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    wrong = changed(tiny.onnx, tmp_path / "wrong&<.onnx", tiny_kgt.fewer_neighbours)
    report = tmp_path / "out.xml"
    assert run(tiny.onnx, wrong, tiny.checkpoint, "--inputs", photos, "--junit", report, "--quiet") == 3
    root = ElementTree.parse(report).getroot()
    assert (root.tag, root.attrib["tests"], root.attrib["failures"]) == ("testsuites", "6", "3")
    good, bad = root
    assert [suite.attrib["name"] for suite in root] == [str(tiny.onnx), str(wrong)]
    cases = [case.attrib["name"] for case in bad.iter("testcase")]
    assert cases == [str(photos / name) for name in ("a.png", "b[1].png", "c.tif")]
    assert good.findall("testcase/failure") == []
    assert len(bad.findall("testcase/failure")) == int(bad.attrib["failures"]) == 3
    failure = bad.find("testcase/failure")
    assert failure is not None
    assert "keeps 15 neighbours" in failure.attrib["message"]
    assert "PSNR" in (good.findtext("testcase/system-out") or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.xml", "photos", "wrong&<.onnx"]


GREEN = '<?xml version="1.0"?><testsuites tests="1" failures="0" errors="0"/>'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{onnx} {tmp}/absent.ckpt --junit {xml}", "absent.ckpt"),
        ("{onnx} --junit={xml}", "alone cannot be compared"),
        ("--junit {xml} {onnx} {ckpt} --no-such-option", "--no-such-option"),
        ("--junit {xml} {onnx} {ckpt} --k 1000", "k is 1000"),
        ("{onnx} {ckpt} --fail-under 3m --junit {xml} --quiet", "--fail-under"),
    ],
)
def test_without_a_result_junit_is_red(tiny: Tiny, tmp_path: Path, arguments: str, message: str) -> None:
    """A CI service reads the file whatever the exit code was: one of an earlier run must not stay."""
    xml = tmp_path / "out.xml"
    xml.write_text(GREEN)
    names = {"onnx": tiny.onnx, "ckpt": tiny.checkpoint, "tmp": tmp_path, "xml": xml}
    assert run(*arguments.format(**names).split()) == 2
    root = ElementTree.parse(xml).getroot()
    assert (root.attrib["tests"], root.attrib["errors"]) == ("1", "1")
    error = root.find("testsuite/testcase/error")
    assert error is not None
    assert message in error.attrib["message"]


def test_junit_is_red_while_the_comparison_runs(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed, for its memory or its time, leaves that."""
    xml = tmp_path / "out.xml"
    xml.write_text(GREEN)
    seen = []

    def look(*_: object, **__: object) -> None:
        seen.append(ElementTree.parse(xml).getroot().attrib["errors"])
        raise MemoryError

    monkeypatch.setattr("keygraph.cli.compare.compare_models", look)
    assert run(tiny.onnx, tiny.checkpoint, "--junit", xml) == 1
    assert seen == ["1"]
    assert "out of memory" in xml.read_text()


def test_junit_is_red_before_the_command_is_imported(tmp_path: Path) -> None:
    """The imports take seconds on a busy machine."""
    xml = tmp_path / "out.xml"
    program = (
        "import os, sys\n"
        "from keygraph.cli import main\n"
        "class Killed:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('typer', 'numpy', 'torch', 'keygraph.cli.compare'):\n"
        "            os.kill(os.getpid(), 9)\n"
        "sys.meta_path.insert(0, Killed())\n"
        "main(sys.argv[1:])\n"
    )
    for option, errors in (
        (["--junit", str(xml)], "1"),
        ([f"--junit={xml}"], "1"),
        (["--junit", str(xml), "--help"], "0"),
    ):
        xml.write_text(GREEN)
        arguments = ["compare", "a.onnx", "b.onnx", *option]
        assert subprocess.run([sys.executable, "-c", program, *arguments]).returncode == -9
        assert ElementTree.parse(xml).getroot().attrib["errors"] == errors


def test_junit_replaces_nothing_but_xml(tiny: Tiny, tmp_path: Path) -> None:
    model = tmp_path / "model.ckpt"
    model.write_bytes(before := tiny.checkpoint.read_bytes())
    for arguments in ((tiny.onnx, "--junit", model), (tiny.onnx, tiny.checkpoint, "--junit", model)):
        assert run(*arguments) == 2
        assert model.read_bytes() == before


def test_a_baseline_fails_on_regressions_only(
    tiny: Tiny, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(name: str, change: float) -> Path:
        return changed(tiny.onnx, tmp_path / name, set_weight("tail.weight", 40, lambda value: value + change))

    image, before, junit = ("--inputs", photos / "a.png"), tmp_path / "before.json", tmp_path / "out.xml"
    assert run(wrong("model.onnx", 0.01), tiny.checkpoint, *image, "--json") == 3
    before.write_text(capsys.readouterr().out)
    # As bad as it was, and better.
    assert run(wrong("model.onnx", 0.01), tiny.checkpoint, *image, "--baseline", before, "--junit", junit) == 0
    said = capsys.readouterr().out
    assert "DIFFERENT" in said
    assert "NOT WORSE than the baseline, by more than 1 dB" in said
    assert ElementTree.parse(junit).getroot().attrib["failures"] == "0"
    assert run(tiny.onnx, tiny.checkpoint, *image, "--baseline", before, "--quiet") == 0
    # Worse.
    arguments = wrong("model.onnx", 0.02), tiny.checkpoint, *image, "--baseline", before, "--junit", junit
    assert run(*arguments) == 3
    said = capsys.readouterr().out
    assert "\nWORSE than the baseline" in said
    assert "with the same key graphs, was" in said
    assert ElementTree.parse(junit).getroot().attrib["failures"] == "1"
    assert run(*arguments, "--quiet") == 3
    assert "with the same key graphs, was" in capsys.readouterr().err
    # What the baseline does not have is judged by the rule.
    assert run(*arguments[:2], "--inputs", photos / "c.tif", "--baseline", before, "--quiet") == 3
    assert "(not in the baseline)" in capsys.readouterr().err


def test_a_saved_run_is_repeated(
    tiny: Tiny, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, model = tmp_path / "run", tmp_path / "model.onnx"
    model.write_bytes(tiny.onnx.read_bytes())
    arguments = (model, tiny.checkpoint, "--inputs", photos, "--clean", photos, "--k", 9, "--fail-under", "80dB")
    assert run(*arguments, "--save", folder, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in folder.iterdir()) == ["inputs", "run.json"]
    assert len(list((folder / "inputs").iterdir())) == 6
    for path in photos.iterdir():
        path.unlink()
    assert run("--replay", folder, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["moved"] == []
    assert again["comparisons"] == first["comparisons"]
    assert again["settings"] == first["settings"] == {"k": 9, "tile": None, "at_least": 80.0, "blocks": False}
    # Another model in the same place: the numbers move, and that is said.
    changed(tiny.onnx, model, set_weight("tail.weight", 40, lambda value: value + 0.0001))
    assert run("--replay", folder, "--save", folder) in (0, 3)
    said = capsys.readouterr().out
    assert "REPEATED: " in said
    assert "same graphs: psnr was" in said
    assert run("--replay", folder) in (0, 3)
    assert "REPEATED: the same numbers as then" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "photos", "run"]
    (folder / "inputs" / "0-image.npy").write_bytes(b"half")
    assert run("--replay", folder) == 2
    assert "cannot read" in capsys.readouterr().err


def test_a_script_for_polygraphy(
    tiny: Tiny, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "script.py"
    assert run(tiny.onnx, f"{tiny.checkpoint}@bf16", tiny.checkpoint, "--inputs", photos, "--k", 8, *EMIT) == 0
    assert capsys.readouterr().out == "wrote script.py; run it with: python script.py\n"
    text = script.read_text()
    compile(text, "script.py", "exec")
    assert 'IMAGES = [HERE / "photos/a.png", HERE / "photos/b[1].png", HERE / "photos/c.tif"]' in text
    assert "K = 8\n" in text
    assert "--k 8 --emit-polygraphy script.py\n" in text
    script.unlink()
    assert run(tiny.onnx, tiny.checkpoint, "--quiet", *EMIT) == 0
    assert capsys.readouterr() == ("", "")
    script.unlink()
    for wrong, words in (
        ((tiny.onnx, tiny.checkpoint, "--emit-polygraphy", "script.txt"), "give one that ends with .py"),
        ((tiny.onnx, tiny.checkpoint, "--k", "65", *EMIT), "tiny.onnx: k is 65"),
        ((tiny.onnx, tmp_path / "none.ckpt", *EMIT), "none.ckpt does not exist"),
        ((tiny.onnx, tiny.checkpoint, "--tile", "auto", *EMIT), "--emit-polygraphy goes with"),
    ):
        assert run(*wrong) == 2
        assert words in capsys.readouterr().err
        assert not list(tmp_path.glob("*script*"))


EMIT = ("--emit-polygraphy", "script.py")


def test_what_is_written_replaces_nothing_that_is_read(
    tiny: Tiny, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in tiny:
        Path(path.name).write_bytes(path.read_bytes())
    image = Path("a.png")
    image.write_bytes((photos / "a.png").read_bytes())
    Path("report.html").symlink_to(image)
    assert run("tiny.onnx", "tiny.ckpt", "--inputs", "a.png", "--save", "run") == 0
    Path("base.json").write_bytes(Path("run/run.json").read_bytes())
    Path("base.html").symlink_to("base.json")
    Path("saved.html").symlink_to("run/inputs/0-image.npy")
    (models, images) = (["tiny.onnx", "tiny.ckpt"], ["--inputs", "a.png"])
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    capsys.readouterr()
    for arguments, message in (
        ([*models, *images, "--junit", "tiny.onnx"], "would replace a file that is not XML"),
        ([*models, *images, "--junit", "a.png"], "would replace a file that is not XML"),
        ([*models, *images, "--report", "report.html"], "report.html is the input itself"),
        ([*models, *images, "--clean", "a.png", "--report", "report.html"], "report.html is the input itself"),
        ([*models, *images, "--baseline", "base.json", "--report", "base.html"], "base.html is the input itself"),
        ([*models, *images, "--junit", "r.html", "--report", "r.html"], "r.html is named for two outputs"),
        ([*models, *images, "--emit-polygraphy", "tiny.ckpt"], "tiny.ckpt is the input itself"),
        (
            [*models, "--inputs", "run/inputs/0-image.npy", "--save", "run"],
            "run would be replaced, and holds the input",
        ),
        (["--replay", "run", "--report", "saved.html"], "saved.html is the input itself"),
        ([*models, *images, "--junit", "/dev/null"], "it is a device or a pipe"),
    ):
        assert run(*arguments) == 2, arguments
        assert message in capsys.readouterr().err
    Path("run/notes.txt").touch()
    assert run(*models, *images, "--save", "run") == 2
    assert "run holds notes.txt, which is no part of the saved run there" in capsys.readouterr().err
    Path("run/notes.txt").unlink()
    Path("r.html").unlink()  # Red, as after every exit without a result.
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
