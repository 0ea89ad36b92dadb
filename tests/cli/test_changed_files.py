"""Files that other tools rewrote after export: what every command says of them, and whether they still run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import keygraph
import numpy as np
import onnx
import onnxruntime
import onnxscript.optimizer
import pytest
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.runtime.backends.onnx_file import read_onnx_file
from keygraph.runtime.notices import KeygraphWarning
from onnx import ModelProto, numpy_helper
from PIL import Image
from tiny_kgt import Tiny

OLD = Path(__file__).parents[1] / "compatibility" / "data"
HOLDS_NOT = "precision and verification do not hold"

Rewrite = Callable[[Callable[[ModelProto], ModelProto | None]], Path]


@pytest.fixture
def rewrite(tiny: Tiny, tmp_path: Path) -> Rewrite:
    """Write the tiny KGT as a tool left it, with its checkpoint beside it."""

    def write(change: Callable[[ModelProto], ModelProto | None]) -> Path:
        model = onnx.load(tiny.onnx)
        path = tmp_path / "tiny.onnx"
        onnx.save(change(model) or model, path)
        shutil.copy(tiny.checkpoint, tmp_path / "tiny.ckpt")
        return path

    return write


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)).save(path)
    return path


def one_bit(model: ModelProto) -> None:
    weight = next(weight for weight in model.graph.initializer if len(weight.dims) == 4)
    content = bytearray(weight.raw_data)
    content[8] ^= 1
    weight.raw_data = bytes(content)


def inlined(model: ModelProto) -> ModelProto:
    made: ModelProto = onnxscript.optimizer.optimize(model)
    return made


def fixed(*sizes: int | None) -> Callable[[ModelProto], None]:
    def fix(model: ModelProto) -> None:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        for dim, size in zip(dims, sizes, strict=True):
            if size is not None:
                dim.dim_value = size
        model.graph.ClearField("value_info")
        for dim in model.graph.output[0].type.tensor_type.shape.dim:
            dim.Clear()

    return fix


def external(path: Path, tiny: Tiny, least: int = 256) -> Path:
    """Write the tiny KGT with its weights of at least so many bytes in ``<path>.data``."""
    onnx.save(
        onnx.load(tiny.onnx),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
        size_threshold=least,
    )
    return path


def test_inspect_names_a_flipped_bit(rewrite: Rewrite, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(rewrite(one_bit)), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["integrity"] == f"changed since export (weights): {HOLDS_NOT}"
    assert described["precision"] == "before the change: fp32"
    assert described["weights"].endswith(" (before the change)")
    assert main(["inspect", str(tiny.onnx)]) == 0
    said = capsys.readouterr().out
    assert "as exported" in said
    assert "change" not in said


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("neighbours", "default"), 17),
        (("value_range", 1), 1.5),
        (("weights_sha256",), "1" * 64),
        (("verification",), {}),
        (("precision",), "bf16"),
    ],
)
def test_inspect_names_a_changed_claim(
    rewrite: Rewrite, capsys: pytest.CaptureFixture[str], place: tuple[str | int, ...], value: object
) -> None:
    def change(model: ModelProto) -> None:
        (entry,) = model.metadata_props
        values = found = json.loads(entry.value)
        for key in place[:-1]:
            found = found[key]
        assert found[place[-1]] != value
        found[place[-1]] = value
        entry.value = json.dumps(values)

    path = rewrite(change)
    said = f"changed since export (manifest): {HOLDS_NOT}"
    assert main(["inspect", str(path), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["integrity"] == said
    assert described["precision"].startswith("as the changed manifest says: ")
    assert described["weights"].endswith(" (as the changed manifest says)")
    notices: list[str] = []
    keygraph.load(path, notice=notices.append)
    assert f"{path}: {said}" in notices


def test_other_white_space_in_the_manifest_is_no_change(rewrite: Rewrite) -> None:
    def change(model: ModelProto) -> None:
        (entry,) = model.metadata_props
        values = json.loads(entry.value)
        entry.value = json.dumps({key: values[key] for key in reversed(values)}, indent=1)

    assert read_onnx_file(rewrite(change)).integrity.words == "as exported (SHA-256 of graph, weights and manifest)"


def test_a_file_without_a_digest_of_its_manifest_says_what_was_compared(rewrite: Rewrite) -> None:
    def change(model: ModelProto) -> None:
        (entry,) = model.metadata_props
        values = json.loads(entry.value)
        del values["digest"]["manifest"]
        entry.value = json.dumps(values)

    assert read_onnx_file(rewrite(change)).integrity.words == "as exported (SHA-256 of graph and weights)"


def test_restore_names_a_flipped_bit(
    rewrite: Rewrite, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewrite(one_bit)
    assert main(["restore", str(photo), "-o", str(tmp_path / "out.png"), "--model", str(path)]) == 0
    assert f"{path}: changed since export (weights): {HOLDS_NOT}" in capsys.readouterr().err
    with pytest.warns(KeygraphWarning, match="changed since export"):
        keygraph.load(path)


def test_build_names_a_flipped_bit(rewrite: Rewrite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The folder does not exist, so that nothing is built.
    arguments = ["build", str(rewrite(one_bit)), "--target", "sm_89", "--out", str(tmp_path / "none")]
    assert main(arguments) == 2
    assert f"changed since export (weights): {HOLDS_NOT}" in capsys.readouterr().err


def test_compare_and_its_reports_name_a_flipped_bit(
    rewrite: Rewrite, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewrite(one_bit)
    junit, report = tmp_path / "junit.xml", tmp_path / "report.html"
    options = ["--inputs", str(photo), "--junit", str(junit), "--report", str(report)]
    assert main(["compare", str(path), str(path.with_suffix(".ckpt")), *options, "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    said = f"changed since export (weights): {HOLDS_NOT}"
    assert f"{path}: {said}" in comparison["notices"]
    assert (comparison["candidate"]["integrity"], comparison["reference"]["integrity"]) == ("changed", None)
    assert not comparison["same_weights"]
    assert said in report.read_text()
    properties = ElementTree.parse(junit).findall(".//property")
    assert [(one.get("name"), one.get("value")) for one in properties] == [("candidate file", f"{path}: {said}")]


def test_replay_names_what_changed(
    rewrite: Rewrite, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, saved = rewrite(lambda model: None), tmp_path / "saved"
    assert (
        main(["compare", str(path), str(path.with_suffix(".ckpt")), "--inputs", str(photo), "--save", str(saved)]) == 0
    )
    assert "changed since" not in capsys.readouterr().out
    rewrite(one_bit)
    main(["compare", "--replay", str(saved)])
    assert f"{path}: the weights have changed since" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["image", "clean"])
def test_replay_names_an_input_that_changed(
    tiny: Tiny, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    saved = tmp_path / "saved"
    models = [str(tiny.onnx), str(tiny.checkpoint)]
    assert main(["compare", *models, "--inputs", str(photo), "--clean", str(photo), "--save", str(saved)]) == 0
    assert main(["compare", "--replay", str(saved)]) == 0
    assert "changed since" not in capsys.readouterr().out
    file = saved / "inputs" / f"0-{name}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["compare", "--replay", str(saved)]) == 0
    what = "clean image" if name == "clean" else name
    assert f"input 0 ({photo}): the {what} has changed since" in capsys.readouterr().out
    assert main(["compare", "--replay", str(saved), "--json"]) == 0
    assert any(f"the {what} has changed since" in line for line in json.loads(capsys.readouterr().out)["moved"])


def test_files_of_before_have_no_digest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OLD)
    assert main(["inspect", "tiny.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["integrity"].startswith("no digest in its manifest")
    assert main(["compare", "tiny.onnx", "tiny.ckpt", "--inputs", "photo.png", "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert comparison["candidate"]["integrity"] == "no digest"
    assert any("no digest in its manifest" in line for line in comparison["notices"])


def test_a_file_without_its_operators_says_so(rewrite: Rewrite, capsys: pytest.CaptureFixture[str]) -> None:
    path, notices = rewrite(inlined), list[str]()
    restorer = keygraph.load(path, notice=notices.append)
    assert "libkeygraph" not in restorer.description
    assert restorer.description.endswith("standard operators")
    assert [line.split(":")[0] for line in notices if "no KeyGraph node left" not in line] == [str(path)]
    assert any(line.startswith(f"{path} has no KeyGraph node left") for line in notices)
    assert main(["inspect", str(path), "--json"]) == 0
    assert any("no KeyGraph node left" in line for line in json.loads(capsys.readouterr().out)["faults"])


def test_a_conversion_to_external_data_is_no_change(tiny: Tiny, tmp_path: Path) -> None:
    notices: list[str] = []
    keygraph.load(external(tmp_path / "big.onnx", tiny), notice=notices.append)
    assert notices == []


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((1, 3, 32, 32), "only batch 1, 32 x 32 (height x width)"),
        ((4, 3, 16, 32), "only batch 4, 16 x 32 (height x width)"),
        ((None, 3, 32, None), "only height 32; run with batch 1, 32 x 256 (height x width)"),
        ((4, 3, None, None), "only batch 4; run with batch 4, 256 x 256 (height x width)"),
        ((1, 3, None, None), "batch 1, any height and width within the size rule"),
    ],
)
def test_sizes_that_a_tool_fixed_are_used(
    rewrite: Rewrite, sizes: tuple[int | None, ...], shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewrite(fixed(*sizes))
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == shape
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    restored = keygraph.load(path, notice=lambda line: None).restore(image)
    assert restored.image.shape == image.shape
    assert main(["compare", str(path), str(path.with_suffix(".ckpt"))]) == 0


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1, 3, 30, 32), r"has fixed the height of the image at 30, but this model needs a multiple of 8"),
        (
            (None, 3, 0, None),
            r"has fixed the height of the image at 0, so that no image fits; use the file as exported",
        ),
        ((0, 3, 32, 32), r"has fixed the batch of the image at 0"),
        ((None, 4, None, None), r"its image has 4 channels, and its manifest says 3"),
    ],
)
def test_sizes_that_cannot_run_are_named(rewrite: Rewrite, sizes: tuple[int | None, ...], said: str) -> None:
    path = rewrite(fixed(*sizes))
    with pytest.raises(InputError, match=said):
        keygraph.load(path)


def commands(model: Path, photo: Path) -> list[list[str]]:
    return [
        ["inspect", str(model)],
        ["restore", str(photo), "-o", str(photo.with_name("out.png")), "--model", str(model)],
        ["compare", str(model), str(model)],
        ["build", str(model), "--target", "sm_89"],
    ]


def said_by_all(model: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return what the commands say of a file that none of them can use."""
    said = set()
    for arguments in commands(model, photo):
        assert main(arguments) == 2, arguments
        said.add(capsys.readouterr().err.strip().splitlines()[-1])
    assert not photo.with_name("out.png").exists()
    return said


def test_every_command_says_that_weights_are_missing(
    tiny: Tiny, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = external(tmp_path / "big.onnx", tiny)
    data = tmp_path / "big.onnx.data"
    content = data.read_bytes()
    data.unlink()
    assert said_by_all(model, photo, capsys) == {
        f"error: {data} is missing: it stores weights of big.onnx; keep the two files together"
    }
    data.symlink_to("elsewhere")
    (said,) = said_by_all(model, photo, capsys)
    assert f"{data}, which stores weights of big.onnx, is a broken link to elsewhere" in said
    data.unlink()
    data.write_bytes(content[:1000])
    (said,) = said_by_all(model, photo, capsys)
    assert f"{data} is cut off or belongs to another model: it has 1,000 bytes" in said


def test_weights_behind_links_run_or_are_named(tiny: Tiny, tmp_path: Path) -> None:
    """A download cache links both files to one folder; a link of the data alone is refused by ONNX Runtime."""
    for folder in ("store", "linked", "half"):
        (tmp_path / folder).mkdir()
    model = external(tmp_path / "store" / "big.onnx", tiny)
    for name in ("big.onnx", "big.onnx.data"):
        (tmp_path / "linked" / name).symlink_to(Path("..") / "store" / name)
    notices: list[str] = []
    linked = tmp_path / "linked" / "big.onnx"
    keygraph.load(linked, notice=notices.append)
    assert notices == []
    assert main(["compare", str(linked), str(tiny.onnx)]) == 0
    half = shutil.copy(model, tmp_path / "half")
    os.symlink("../store/big.onnx.data", tmp_path / "half" / "big.onnx.data")
    try:
        onnxruntime.InferenceSession(half)
    except Exception:
        with pytest.raises(InputError, match=r"is a link to a file in another folder, which ONNX Runtime .* refuses"):
            keygraph.load(half)
    else:
        keygraph.load(half)


def test_constants_stored_outside_are_named(tiny: Tiny, tmp_path: Path) -> None:
    """ONNX Runtime needs the constants of shapes in the model itself."""
    with pytest.raises(InputError, match=r"stores constants that determine shapes .* size_threshold"):
        keygraph.load(external(tmp_path / "big.onnx", tiny, least=0))


def two_of_a_name(model: ModelProto) -> None:
    model.graph.node[1].name = model.graph.node[0].name = "twin"


def test_nodes_of_the_same_name_are_named(rewrite: Rewrite, capsys: pytest.CaptureFixture[str]) -> None:
    path = rewrite(two_of_a_name)
    for arguments in (["build", str(path), "--target", "sm_89"], ["compare", str(path), str(path)]):
        assert main(arguments) == 2
        assert "several nodes have the same name (twin)" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"several nodes have the same name \(twin\)"):
        keygraph.load(path)
    assert main(["inspect", str(path), "--json"]) == 0
    assert "several nodes have the same name (twin)" in json.loads(capsys.readouterr().out)["faults"][0]


def newer_ir(model: ModelProto) -> None:
    model.ir_version = 99


def newer_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 99


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (newer_ir, r"has ONNX's IR version 99, and ONNX Runtime \S+ reads versions up to \d+; upgrade it with"),
        (newer_opset, r"uses opset 99 of ai.onnx, and ONNX Runtime \S+ reads opsets up to \d+; upgrade it with"),
    ],
)
def test_what_is_too_new_for_onnx_runtime_is_named(
    rewrite: Rewrite, change: Callable[[ModelProto], None], said: str
) -> None:
    path = rewrite(change)
    with pytest.raises(InputError, match=said):
        keygraph.load(path)


def test_weights_of_another_size_are_named(rewrite: Rewrite) -> None:
    def shorten(model: ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.raw_data = numpy_helper.to_array(weight).tobytes()[:-4]

    path = rewrite(shorten)
    with pytest.raises(InputError, match=r"is damaged: its weight \S+ has [\d,]+ bytes where its shape .* needs"):
        keygraph.load(path)
