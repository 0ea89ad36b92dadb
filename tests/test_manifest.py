"""Manifests of all formats are read, and what is not a manifest is refused with the name of the field."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from keygraph.errors import InputError
from keygraph.installation import upgrade_line
from keygraph.integrity import FileDigest
from keygraph.manifest import (
    FORMAT_VERSION,
    Attention,
    ExactTiling,
    ExtraInput,
    GlobalStatistics,
    HalfPrecision,
    Manifest,
    Neighbours,
    Profile,
    Tiling,
    from_json,
)

#: As keygraph wrote them when these formats were current. Text, not values, because readers get text.
FORMAT_1 = """{"architecture": "kgt", "configuration": {"body": "unet", "channels": 8, "heads": 2, "k_trained":
[10, 20], "layers": [1, 1, 1, 1]}, "format_version": 1, "global_statistics": false, "in_channels": 3,
"made_with": {"keygraph": "0.1.0", "torch": "2.11.0"}, "neighbours": {"default": 20, "maximum": 64, "runtime":
true, "trained": [10, 20]}, "out_channels": 3, "precision": "fp32", "scale": 1, "shape": [1, 64, 48],
"size_multiple": 16, "task": "denoising", "tiling": {"overlap": 32, "psnr": 71.3, "tile": 256}, "value_range":
[0.0, 1.0], "verification": {"functions": {"against": "PyTorch", "checks": [{"k": 20, "links_different": 0.0,
"psnr": 143.1, "shape": [1, 16, 16]}], "tolerance_db": 60.0}}, "weights_sha256": "0123"}"""

FORMAT_2 = """{"architecture": "kgt", "configuration": {}, "format_version": 2, "global_statistics": false,
"half": {"found": ["body.1.conv/Conv"], "half_io": false, "headroom": 12.5, "keep_fp32": ["*Softmax", "tail"],
"largest": [["body.1.layers.0.ffn.reduce/Gemm", 5241.0], ["head/Conv", 3.5]], "nodes": 70, "nodes_fp32": 21,
"pictures": ["cat.png"], "target_psnr": 50.0}, "in_channels": 3, "made_with": {}, "neighbours": null,
"out_channels": 3, "precision": "fp16", "profiles": [{"batch": [1, 1, 4], "height": [16, 512, 1024], "width":
[16, 512, 1024]}], "scale": 2, "shape": null, "size_multiple": 16, "task": "", "tiling": null, "value_range":
[0.0, 1.0], "verification": null, "weights_sha256": "0123"}"""

FORMAT_3 = """{"architecture": "mst", "clamp": [0.0, 1.0], "configuration": {"bands": 28}, "extra_inputs":
[{"channels": 1, "margin": [0, 0], "name": "mask"}], "format_version": 3, "gain": 0.8, "global_statistics":
true, "half": null, "in_channels": 1, "made_with": {}, "margin": [0, 54], "neighbours": null, "normalisation":
"peak", "out_channels": 3, "precision": "fp32", "profiles": [], "scale": 1, "shape": null, "size_multiple": 4,
"statistics": {"exact": {"disk": 448.0, "psnr": 132.4, "sweeps": 6, "tile": 128}, "memory": 5120, "tilings":
[{"overlap": 32, "psnr": 38.4, "tile": 64}]}, "task": "snapshot compressive imaging", "tiling": {"overlap": 32,
"psnr": 45.1, "tile": 256}, "value_range": [0.0, 1.0], "verification": null, "views": ["left", "right"],
"wavelengths": [453.3, 457.6, 462.1], "weights_sha256": "0123"}"""

FORMAT_4 = FORMAT_3.replace('"format_version": 3', '"format_version": 4').replace(
    '"extra_inputs"', '"digest": {"graph": "45", "manifest": "89", "weights": "67"}, "extra_inputs"'
)

FORMAT_5 = FORMAT_4.replace('"format_version": 4', '"format_version": 5').replace(
    '"size_multiple": 4,', '"size_multiple": 4, "smallest": 12,'
)
FORMAT_6 = FORMAT_5.replace('"format_version": 5', '"format_version": 6').replace(
    '"clamp":',
    '"attentions": [{"channels": 8, "heads": 2, "k": 5, "keeps_ties": false, "module": "body.attn", "nodes": 16, '
    '"reason": "", "verdict": "fused"}, {"channels": null, "heads": null, "k": null, "keeps_ties": false, '
    '"module": "tail", "nodes": null, "reason": "it is faster as it is", "verdict": "unchanged"}], "clamp":',
)

EXPECTED = {
    1: Manifest(
        architecture="kgt",
        configuration={"body": "unet", "channels": 8, "heads": 2, "k_trained": [10, 20], "layers": [1, 1, 1, 1]},
        task="denoising",
        scale=1,
        in_channels=3,
        out_channels=3,
        value_range=(0.0, 1.0),
        size_multiple=16,
        global_statistics=False,
        shape=(1, 64, 48),
        neighbours=Neighbours(20, 64, (10, 20), True),
        precision="fp32",
        weights_sha256="0123",
        made_with={"keygraph": "0.1.0", "torch": "2.11.0"},
        verification={
            "functions": {
                "against": "PyTorch",
                "checks": [{"k": 20, "links_different": 0.0, "psnr": 143.1, "shape": [1, 16, 16]}],
                "tolerance_db": 60.0,
            }
        },
        tiling=Tiling(256, 32, 71.3),
        format_version=1,
    ),
    2: Manifest(
        architecture="kgt",
        configuration={},
        task="",
        scale=2,
        in_channels=3,
        out_channels=3,
        value_range=(0.0, 1.0),
        size_multiple=16,
        global_statistics=False,
        shape=None,
        neighbours=None,
        precision="fp16",
        weights_sha256="0123",
        half=HalfPrecision(
            keep_fp32=("*Softmax", "tail"),
            found=("body.1.conv/Conv",),
            target_psnr=50.0,
            nodes=70,
            nodes_fp32=21,
            pictures=("cat.png",),
            headroom=12.5,
            largest=(("body.1.layers.0.ffn.reduce/Gemm", 5241.0), ("head/Conv", 3.5)),
        ),
        profiles=(Profile((1, 1, 4), (16, 512, 1024), (16, 512, 1024)),),
        format_version=2,
    ),
    3: Manifest(
        architecture="mst",
        configuration={"bands": 28},
        task="snapshot compressive imaging",
        scale=1,
        in_channels=1,
        out_channels=3,
        value_range=(0.0, 1.0),
        size_multiple=4,
        global_statistics=True,
        shape=None,
        neighbours=None,
        precision="fp32",
        weights_sha256="0123",
        tiling=Tiling(256, 32, 45.1),
        views=("left", "right"),
        normalisation="peak",
        gain=0.8,
        margin=(0, 54),
        extra_inputs=(ExtraInput("mask", 1),),
        clamp=(0.0, 1.0),
        wavelengths=(453.3, 457.6, 462.1),
        statistics=GlobalStatistics(5120, (Tiling(64, 32, 38.4),), ExactTiling(128, 132.4, 6, 448.0)),
        format_version=3,
    ),
}
EXPECTED[4] = dataclasses.replace(EXPECTED[3], digest=FileDigest("45", "67", "89"), format_version=4)
EXPECTED[5] = dataclasses.replace(EXPECTED[4], smallest=12, format_version=5)
EXPECTED[6] = dataclasses.replace(
    EXPECTED[5],
    attentions=(
        Attention("body.attn", "fused", k=5, nodes=16, heads=2, channels=8),
        Attention("tail", "unchanged", "it is faster as it is"),
    ),
    format_version=6,
)


@pytest.mark.parametrize(
    ("version", "text"),
    [(1, FORMAT_1), (2, FORMAT_2), (3, FORMAT_3), (4, FORMAT_4), (5, FORMAT_5), (6, FORMAT_6)],
)
def test_manifests_of_every_format_are_read(version: int, text: str) -> None:
    manifest = from_json(text, "kgt.onnx")
    assert manifest == EXPECTED[version]
    assert hash(manifest.profiles) == hash(EXPECTED[version].profiles)  # tuples, not lists
    assert from_json(manifest.to_json(), "kgt.onnx") == manifest


def test_reading_and_writing_gives_the_same_text() -> None:
    text = " ".join(FORMAT_6.split("\n"))
    assert from_json(text, "x").to_json() == text
    assert '"memory": 5120,' in text  # a whole number in a field of real numbers stays one


def _change(path: tuple[str | int, ...], value: Any) -> str:
    values: Any = copy.deepcopy(json.loads(FORMAT_6))
    place = values
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("scale",), ..., "scale"),
        (("scale",), "two", "$.scale"),
        (("scale",), 1.5, "$.scale"),
        (("smallest",), 6, "no model has these values: `smallest` is 6"),
        (("neighbours",), ..., "neighbours"),
        (("digest", "graph"), ..., "graph"),
        (("digest", "weights"), 3, "$.digest.weights"),
        (("colour",), 1, "$.colour"),
        (("tiling", "tile"), "64", "$.tiling.tile"),
        (("tiling", "tile"), ..., "$.tiling"),
        (("tiling", "unit"), "px", "$.tiling.unit"),
        (("statistics", "tilings", 0, "unit"), "px", "$.statistics.tilings[0].unit"),
        (("statistics", "exact"), ..., "exact"),
        (("extra_inputs", 0, "margin"), [0], "$.extra_inputs[0].margin"),
        (("value_range",), [0.0, 0.5, 1.0], "$.value_range"),
        (("views",), "left", "$.views"),
        (("made_with",), {"keygraph": 1}, "$.made_with"),
    ],
)
def test_damaged_manifests_are_refused_with_the_field(path: tuple[str | int, ...], value: Any, named: str) -> None:
    damaged = rf"^kgt\.onnx: the keygraph manifest is damaged \(.*{re.escape(named)}.*\); export the model again$"
    with pytest.raises(InputError, match=damaged):
        from_json(_change(path, value), "kgt.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"architecture": "kgt"}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^kgt\.onnx: the keygraph manifest is damaged; export the model again$"):
        from_json(text, "kgt.onnx")


def test_fields_of_newer_formats_are_not_read() -> None:
    with pytest.raises(InputError, match=rf"format {FORMAT_VERSION + 1} is newer.*{re.escape(upgrade_line())}"):
        from_json(_change(("format_version",), FORMAT_VERSION + 1), "kgt.onnx")


def test_the_decoder_is_imported_only_to_read() -> None:
    """`import keygraph.manifest` is part of every start."""
    program = "import sys, keygraph, keygraph.manifest; print('msgspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
