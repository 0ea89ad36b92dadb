"""What the C++ runtime refuses, in the words of the Python runtime where the case is the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import pytest
from keygraph.errors import InputError, KeygraphError
from keygraph.manifest import FORMAT_VERSION, METADATA_KEY, ExtraInput
from restore_stream import CppRestorer

ModelFile = Callable[..., Path]

SANITIZED = "KEYGRAPH_LIBRARY_DIR" in os.environ
BLACK = np.zeros((40, 40, 3), np.uint8)
NEIGHBOURS = {"default": 64, "maximum": 256, "trained": (), "runtime": True}


def message(error: pytest.ExceptionInfo[KeygraphError]) -> str:
    """What both sides say; then Python names its own remedy."""
    return re.split(r"; (?:give|leave|if the last)|, or [a-z]+ it again", str(error.value))[0]


@pytest.mark.parametrize(
    ("kind", "changes", "image", "options"),
    [
        ("add_k", {"neighbours": NEIGHBOURS}, BLACK, {"k": 0}),
        ("add_k", {"neighbours": NEIGHBOURS}, BLACK, {"k": 257}),
        ("identity", {"neighbours": {**NEIGHBOURS, "runtime": False}}, BLACK, {"k": 8}),
        ("identity", {}, BLACK, {"k": 8}),
        ("identity", {}, BLACK, {"tile": 20}),
        ("identity", {}, BLACK, {"tile": 0}),
        ("identity", {}, BLACK, {"tile": -8}),
        ("identity", {}, BLACK, {"tile": 16, "overlap": 16}),
        ("identity", {}, BLACK, {"tile": 16, "overlap": 3}),
        ("identity", {}, BLACK, {"batch": 0}),
        ("identity", {"shape": (2, 16, 16)}, BLACK, {"batch": 3}),
        ("identity", {"shape": (2, 16, 16)}, BLACK, {"tile": 24}),
        ("identity", {}, BLACK[:, :, :2], {}),
        ("identity", {}, np.full((8, 8, 3), 255, np.float32), {}),
        ("identity", {}, np.full((8, 8, 3), np.nan, np.float32), {}),
        ("identity", {}, np.full((8, 8, 3), -np.inf, np.float32), {}),
        ("identity", {}, np.zeros((0, 8, 3), np.float32), {}),
        ("identity", {"margin": (0, 40)}, BLACK, {}),
        ("identity", {}, BLACK, {"inputs": {"mask": BLACK}}),
        ("bright_nan", {}, np.full((8, 8, 3), 250, np.uint8), {}),
        ("masked", {"extra_inputs": (ExtraInput("mask", 1),)}, BLACK, {}),
        ("masked", {"extra_inputs": (ExtraInput("mask", 1),)}, BLACK, {"inputs": {"mask": BLACK}}),
        ("identity", {"scale": 2}, BLACK, {}),
    ],
)
def test_an_image_or_option_that_is_refused(
    program: Path, make_model: ModelFile, kind: str, changes: dict[str, Any], image: Any, options: dict[str, Any]
) -> None:
    model = make_model(kind, **changes)
    with pytest.raises(KeygraphError) as expected:
        keygraph.load(model, threads=1).restore(image, **options)
    with CppRestorer(program, model) as cpp:
        with pytest.raises(KeygraphError) as found:
            cpp.restore(image, **options)
        assert isinstance(found.value, InputError) == isinstance(expected.value, InputError)
        assert numbers_joined(message(found)) == numbers_joined(message(expected))
        if not changes:  # And goes on.
            np.testing.assert_array_equal(cpp.restore(BLACK).image, BLACK)


def numbers_joined(text: str) -> str:
    """Python's (1, 2) as 1 x 2."""
    return re.sub(r"\(([\d, ]+)\)", lambda shape: shape[1].replace(", ", " x "), text)


@pytest.mark.parametrize(
    "content", [None, b"", b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"\x08\x07garbage"]
)
def test_a_file_that_is_no_model(program: Path, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    said = []
    for open_model in (keygraph.load, lambda path: CppRestorer(program, path)):
        with pytest.raises(InputError) as error:
            open_model(file)
        said.append(str(error.value))
    if content and content.startswith(b"\x08"):
        assert "not an ONNX file" in said[1]
    else:
        assert said[0] == said[1]
    with pytest.raises(InputError, match="is a folder"):
        CppRestorer(program, tmp_path)


def test_a_file_that_was_cut_off(program: Path, make_model: ModelFile) -> None:
    model = make_model("blur")
    model.write_bytes(model.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated"):
        CppRestorer(program, model)


def edited(model: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the manifest's JSON in a file."""
    proto = onnx.load(model)
    (entry,) = (entry for entry in proto.metadata_props if entry.key == METADATA_KEY)
    values = json.loads(entry.value)
    text = change(values)
    entry.value = text if isinstance(text, str) else json.dumps(values)
    onnx.save(proto, model)
    return model


def set_field(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        target: Any = values
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


#: Changes that damage a manifest, and those that do not.
DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown field": set_field("future", value=1),
    "unknown field inside": set_field("tiling", "future", value=1),
    "no scale": lambda values: values.pop("scale") and None,
    "no neighbours": lambda values: values.pop("neighbours"),
    "no format": lambda values: values.pop("format_version") and None,
    "format is text": set_field("format_version", value="6"),
    "scale 0": set_field("scale", value=0),
    "scale is text": set_field("scale", value="1"),
    "scale is half": set_field("scale", value=1.5),
    "multiple is true": set_field("size_multiple", value=True),
    "multiple -8": set_field("size_multiple", value=-8),
    "smallest": set_field("smallest", value=12),
    "range of three": set_field("value_range", value=[0, 1, 2]),
    "empty range": set_field("value_range", value=[1, 1]),
    "infinite range": set_field("value_range", value=[0, float("inf")]),
    "normalisation": set_field("normalisation", value="mean"),
    "overlap as large as a tile": set_field("tiling", "overlap", value=48),
    "image twice": set_field("extra_inputs", value=[{"name": "image", "channels": 1, "margin": [0, 0]}]),
    "profile": set_field("profiles", value=[{"batch": [1, 2, 1], "height": [8, 8, 8], "width": [8, 8, 8]}]),
    "k": set_field("neighbours", value={"default": 9, "maximum": 8}),
    "wavelengths": set_field("wavelengths", value=[400.0]),
    "a list": lambda values: "[]",
    "no JSON": lambda values: "{",
    "more than JSON": lambda values: json.dumps(values) + " 1",
    "a comma": lambda values: json.dumps(values).replace("}", ",}"),
    "deep": lambda values: json.dumps(values)[:-1] + ', "configuration": ' + "[" * 100_000 + "]" * 100_000 + "}",
}
HARMLESS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda values: None,
    "spaces": lambda values: json.dumps(values, indent=2),
    "escapes": set_field("architecture", value='\u00e9\n\U0001f600\\"/'),
    "as UTF-8": lambda values: json.dumps({**values, "architecture": "\u00e9\U0001f600"}, ensure_ascii=False),
    "infinite PSNR": set_field("tiling", "psnr", value=float("inf")),
    "whole numbers as reals": set_field("value_range", value=[0, 1]),
    "an exponent": lambda values: json.dumps(values).replace('"gain": 1.0', '"gain": 1.0E+0'),
    "a large number": set_field("configuration", value={"seed": 10**30}),
    "an older format": lambda values: [values.pop(name) for name in ("digest", "attentions", "smallest", "clamp")][:0],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest(program: Path, make_model: ModelFile, damage: str) -> None:
    model = edited(make_model("identity", tiling={"tile": 48, "overlap": 24, "psnr": 90.0}), DAMAGE[damage])
    for open_model in (keygraph.load, lambda path: CppRestorer(program, path)):
        with pytest.raises(InputError, match=r"manifest is damaged.*; export the model again"):
            open_model(model)


@pytest.mark.parametrize("change", HARMLESS)
def test_a_manifest_as_python_reads_it(program: Path, make_model: ModelFile, change: str) -> None:
    model = edited(make_model("identity", tiling={"tile": 48, "overlap": 24, "psnr": 90.0}), HARMLESS[change])
    keygraph.load(model)
    with CppRestorer(program, model) as cpp:
        np.testing.assert_array_equal(cpp.restore(BLACK).image, BLACK)


def test_a_newer_format_is_refused(program: Path, make_model: ModelFile) -> None:
    def newer(values: dict[str, Any]) -> None:
        values |= {"format_version": FORMAT_VERSION + 1, "future": 1}

    model = edited(make_model("identity"), newer)
    with pytest.raises(InputError, match=f"manifest format {FORMAT_VERSION + 1} is newer than this keygraph reads"):
        CppRestorer(program, model)


def test_a_model_of_somebody_else_or_changed(program: Path, make_model: ModelFile) -> None:
    model = edited(make_model("identity"), set_field("extra_inputs", value=[{"name": "mask", "channels": 1}]))
    with pytest.raises(InputError, match="are not those of its manifest"):
        CppRestorer(program, model)
    proto = onnx.load(model)
    del proto.metadata_props[:]
    onnx.save(proto, model)
    with pytest.raises(InputError, match="not one that keygraph exported"):
        CppRestorer(program, model)


def test_libraries_that_are_missing(program: Path, make_model: ModelFile, tmp_path: Path) -> None:
    model = make_model("identity")
    text = tmp_path / "text.so"
    text.write_text("no library")
    for library, words in ((tmp_path / "none.so", "does not exist"), (text, "does not load")):
        with pytest.raises(InputError, match=f"{words}.*give another library, or none"):
            CppRestorer(program, model, library)
    with pytest.raises(InputError, match=r"text.so cannot be loaded as ONNX Runtime .*give another library"):
        CppRestorer(program, model, onnxruntime=str(text))
    with pytest.raises(InputError, match="threads is 5000"):
        CppRestorer(program, model, threads=5000)


@pytest.mark.skipif(SANITIZED, reason="a sanitizer reserves all of the address space")
def test_smaller_tiles_where_memory_runs_out(program: Path, make_model: ModelFile) -> None:
    model = make_model("outer", in_channels=1, out_channels=1)
    image = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    with CppRestorer(program, model, None, address_space=4 << 30) as cpp:
        restored = cpp.restore(image)
        np.testing.assert_array_equal(restored.image, image)
        assert restored.notices[0].startswith(
            "ONNX Runtime ran out of memory with tiles of 256 x 256: went on with tiles of"
        )
        with pytest.raises(InputError, match="one by one; choose a smaller tile"):
            cpp.restore(image, tile=256)


def fixed(model: Path, sizes: tuple[int, int, int]) -> Path:
    """Fix batch, height and width of the image as a tool does; 0 leaves a size free."""
    proto = onnx.load(model)
    for dimension, size in zip((0, 2, 3), sizes, strict=True):
        if size:
            proto.graph.input[0].type.tensor_type.shape.dim[dimension].dim_value = size
    onnx.save(proto, model)
    return model


@pytest.mark.parametrize("sizes", [(1, 0, 0), (2, 32, 0), (0, 16, 24), (1, 48, 48)])
def test_sizes_that_a_tool_fixed(program: Path, make_model: ModelFile, sizes: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    model = fixed(make_model("blur"), sizes)
    with CppRestorer(program, model) as cpp, keygraph.load(model, threads=1) as python:
        expected, restored = python.restore(image), cpp.restore(image)
        np.testing.assert_array_equal(restored.image, expected.image)
        assert (restored.tile, restored.batch) == (expected.tile, expected.batch)


def test_a_size_that_the_model_cannot_have(program: Path, make_model: ModelFile) -> None:
    with pytest.raises(InputError, match="a tool has fixed the height of the image at 20"):
        CppRestorer(program, fixed(make_model("blur"), (1, 20, 24)))


def test_only_the_interface_is_exported(program: Path) -> None:
    linked = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    library = next(line.split()[2] for line in linked.splitlines() if "libkeygraph_runtime" in line)
    symbols = subprocess.run(
        ["nm", "-DC", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split(maxsplit=2)[2] for line in symbols.splitlines()]
    ours = re.compile(r"(typeinfo (name )?for |vtable for )?keygraph::(Restorer|Error|InputError)\b")
    assert names
    assert [name for name in names if not ours.match(name)] == []
