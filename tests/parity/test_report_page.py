"""What the report's file holds, without a browser: its pictures, its numbers, and nothing from elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import keygraph.parity.output.report
import numpy as np
import pytest
import pyvips
from keygraph.errors import InputError
from keygraph.manifest import ExtraInput
from keygraph.parity import PrecisionSearch, Run, compare
from keygraph.parity.output.report import check_report, encoding, pictures, write_report
from keygraph.runtime.io.images import Picture, write
from keygraph.runtime.preprocess.normalization import from_model

VENDOR = Path(keygraph.parity.output.report.__file__).parent / "vendor"


class Parsed(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.words = ""
        self._id: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._id = dict(attributes).get("id") if tag in ("script", "div") else None

    def handle_endtag(self, tag: str) -> None:
        self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self.texts[self._id] = self.texts.get(self._id, "") + data
        self.words += data

    def handle_comment(self, data: str) -> None:
        if self._id is not None:
            self.texts[self._id] = data

    @property
    def data(self) -> Any:
        return json.loads(self.texts["data"])

    def picture(self, name: str) -> Any:
        found: Any = pyvips.Image.new_from_buffer(base64.b64decode(self.texts[name]), "").numpy()
        return found


Report = Callable[[Run], Parsed]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    def make(run: Run) -> Parsed:
        write_report(tmp_path / "report.html", run)
        return Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))

    return make


@pytest.fixture
def run_of(make_model: Any, tmp_path: Path) -> Callable[..., Run]:
    """Compare a hand-made model with the identity, or with itself."""

    def make(kind: str, *inputs: Any, reference: str = "", tile: Any = None, clean: Any = (), **changes: Any) -> Run:
        ours = make_model(kind, tmp_path / f"ours-{kind}.onnx", **changes)
        theirs = make_model(reference or kind, tmp_path / "reference.onnx", **changes)
        return compare([ours], theirs, list(inputs), keep_images=True, tile=tile, clean=clean)

    return make


def image(height: int, width: int, *more: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *more)).astype(np.uint8)


def test_the_file_holds_everything_and_asks_for_nothing(run_of: Any, report: Report) -> None:
    page = report(run_of("blur", image(24, 32, 3), reference="identity"))
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not {"src", "href", "srcset", "data", "action", "poster"} & attributes.keys(), tag
    assert not re.search(r"@import|url\(", (VENDOR.parent / "report.css").read_text())
    # The licences of what is inside go along.
    assert "Copyright 2010-2023 Mike Bostock" in page.words
    assert "Observable, Inc." in page.words


def test_what_is_vendored_is_what_was_published() -> None:
    rows = re.findall(r"\| `(\S+)` \| .* \| `([0-9a-f]{64})` \|", (VENDOR / "README.md").read_text())
    assert {name for name, _ in rows} == {path.name for path in VENDOR.glob("*.js")}
    for name, digest in rows:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    assert sum(path.stat().st_size for path in VENDOR.parent.rglob("*.*")) < 3e6


def test_pictures_are_what_was_compared(run_of: Any, report: Report) -> None:
    given = image(20, 27, 3)
    run = run_of("blur", given, reference="identity", clean=[given])
    (compared,) = run.images
    page = report(run)
    manifest = run.comparisons[0].reference.manifest
    for name, values in (
        ("reference", compared.reference),
        ("candidate-0", compared.candidates[0]),
        ("clean", compared.clean),
    ):
        np.testing.assert_array_equal(
            page.picture(f"picture-0-{name}"), from_model(values, manifest, np.dtype(np.uint8)), err_msg=name
        )
    np.testing.assert_array_equal(page.picture("picture-0-input"), given)
    difference = np.abs(compared.candidates[0] - compared.reference).max(axis=2)
    codes = page.picture("picture-0-difference-0").astype(float)
    decoded = 10 ** (((codes - 1) / 253 - 1) * page.data["decades"])
    np.testing.assert_allclose(decoded[codes > 0], difference[codes > 0], rtol=0.04)
    np.testing.assert_array_equal(codes == encoding.EQUAL, difference == 0)
    titles = {key: value["title"] for key, value in page.data["images"][0]["pictures"].items()}
    assert list(titles) == ["candidate-0", "reference", "input", "clean", "difference-0"]
    assert titles["reference"].endswith("reference.onnx")


def test_differences_are_coded_by_their_logarithm() -> None:
    values = np.array([[0, 1e-12, 1e-8, 1e-4, 1, 7, np.nan]], np.float32)
    codes = encoding.logarithmic(values, 1.0)
    assert codes.tolist() == [[encoding.EQUAL, 1, 1, 128, 254, 254, encoding.NOT_FINITE]]
    assert encoding.logarithmic(np.array([[2.0, 2e-4]], np.float32), 2.0).tolist() == [[254, 128]]
    ours, theirs = np.zeros((1, 3, 2), np.float32), np.zeros((1, 3, 2), np.float32)
    ours[0, 0], theirs[0, 0] = (0.1, -0.3), (0.1, 0.1)
    ours[0, 1, 0] = np.inf
    theirs[0, 1, 0] = np.inf
    found = encoding.largest_difference(ours, theirs)
    assert found[0, 0] == pytest.approx(0.4)
    assert np.isnan(found[0, 1])
    assert found[0, 2] == 0


def test_what_is_not_finite_is_marked(run_of: Any, report: Report) -> None:
    given = np.full((16, 16, 3), 100, np.uint8)
    given[3, 5] = 255
    page = report(run_of("bright_nan", given, reference="identity"))
    codes = page.picture("picture-0-difference-0")
    assert codes[3, 5] == encoding.NOT_FINITE
    assert (codes == encoding.NOT_FINITE).sum() == 1
    assert "NO: 3 and 0" in page.words
    assert page.picture("picture-0-candidate-0")[3, 5].tolist() == [0, 0, 0]


def test_a_gray_image_and_a_deep_one(run_of: Any, report: Report) -> None:
    deep = image(16, 20, seed=1).astype(np.uint16) * 256
    page = report(run_of("identity", image(16, 20), deep, in_channels=1, out_channels=1))
    for index in (0, 1):
        assert page.picture(f"picture-{index}-reference").shape[:2] == (16, 20)
        assert page.picture(f"picture-{index}-input").shape[:2] == (16, 20)
    bits = [result["histogram"]["bits"] for result in page.data["candidates"][0]["results"]]
    assert bits == [8, 16]


def test_a_cube_is_seen_in_its_colours(run_of: Any, report: Report) -> None:
    wavelengths = tuple(float(nm) for nm in range(400, 710, 10))
    run = run_of("bands", image(16, 24, 3), out_channels=31, wavelengths=wavelengths)
    page = report(run)
    colours = page.picture("picture-0-reference").astype(int)
    assert colours.shape == (16, 24, 3)
    # This cube's bands rise with the wavelength: it is redder than it is blue.
    assert colours[:, :, 0].mean() > colours[:, :, 2].mean() + 20
    np.testing.assert_array_equal(page.picture("picture-0-candidate-0"), colours)
    unknown = report(run_of("bands", image(16, 24, 3), out_channels=31)).picture("picture-0-reference")
    assert unknown.shape == (16, 24)  # no wavelengths, no colours


def test_views_and_other_inputs_are_shown(run_of: Any, report: Report) -> None:
    mask = np.linspace(0, 1, 16 * 24, dtype=np.float32).reshape(16, 24)
    given = {"image": image(16, 24, 3), "mask": mask}
    page = report(run_of("masked", given, extra_inputs=(ExtraInput("mask", 1),)))
    shown = page.picture("picture-0-beside-mask")
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)
    assert page.data["images"][0]["pictures"]["beside-mask"]["title"] == "mask"


def test_both_views_of_dual_pixels_are_shown(run_of: Any, report: Report) -> None:
    left, right = image(16, 24, 3), image(16, 24, 3, seed=1)
    given = {"image": left, "right": right}
    page = report(run_of("bands", given, in_channels=6, out_channels=3, views=("left", "right")))
    np.testing.assert_array_equal(page.picture("picture-0-input"), left)
    np.testing.assert_array_equal(page.picture("picture-0-beside-right"), right)


def test_a_measurement_is_wider_than_its_cube(run_of: Any, report: Report) -> None:
    run = run_of("bands", image(16, 24, 3), out_channels=28, normalisation="peak")
    measured = np.linspace(0, 5, 16 * 78, dtype=np.float32).reshape(16, 78)
    page = report(dataclasses.replace(run, images=(dataclasses.replace(run.images[0], input=measured),)))
    picture = page.picture("picture-0-input")
    assert picture.shape == (16, 78)
    assert (picture.min(), picture.max()) == (0, 255)
    assert page.data["images"][0]["width"] == 24


def test_a_larger_result_and_its_input_lie_over_each_other(run_of: Any, report: Report) -> None:
    page = report(run_of("nearest", image(16, 24, 3), scale=2))
    shown = page.data["images"][0]
    assert (shown["height"], shown["width"]) == (32, 48)
    given = shown["pictures"]["input"]
    assert (given["height"], given["width"], given["scale"]) == (16, 24, 2)


def test_of_a_large_image_the_worst_part_is_shown(run_of: Any, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURE_PIXELS", 32 * 32)
    given = np.full((120, 90, 3), 100, np.uint8)
    given[100, 70] = 255  # which a blur spreads
    page = report(run_of("blur", given, reference="identity", tile=64))
    (shown,) = page.data["images"]
    assert shown["height"] * shown["width"] <= 32 * 32
    assert shown["top"] <= 100 < shown["top"] + shown["height"]
    assert shown["left"] <= 70 < shown["left"] + shown["width"]
    codes = page.picture("picture-0-difference-0")
    assert codes.shape == (shown["height"], shown["width"])
    assert codes[100 - shown["top"], 70 - shown["left"]] == codes.max()
    assert "Only 32 × 32 of 90 × 120 pixels are shown" in shown["part"]
    assert page.picture("picture-0-input").shape[:2] == codes.shape


def test_too_many_images_leave_the_worst(run_of: Any, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PAGE_PIXELS", 4 * 16 * 16)
    quiet, loud = np.full((16, 16, 3), 90, np.uint8), image(16, 16, 3)
    page = report(run_of("blur", quiet, loud, quiet, reference="identity"))
    assert [one["shown"] for one in page.data["images"]] == [False, True, False]
    assert page.data["first"] == 1
    assert "2 of 3 images are listed without pictures" in page.words
    assert page.texts.keys() >= {"picture-1-reference"}
    assert "picture-0-reference" not in page.texts


def test_seams_are_told(run_of: Any, report: Report) -> None:
    page = report(run_of("identity", image(64, 64, 3), reference="identity", tile=32))
    tiles = page.data["images"][0]["tiles"]
    assert tiles["rows"]["origins"][0] == 0
    assert tiles["rows"]["tile"] == 32
    assert tiles["seams"] == [1.0]
    assert report(run_of("identity", image(64, 64, 3))).data["images"][0]["tiles"] is None


def test_names_are_text_and_never_markup(run_of: Any, report: Report) -> None:
    run = run_of("identity", image(16, 16, 3))
    name = "</script><b onclick=x>&amp;'\".onnx"
    (comparison,) = run.comparisons
    result = dataclasses.replace(comparison.inputs[0], name=name)
    side = dataclasses.replace(comparison.candidate, name=name)
    run = dataclasses.replace(
        run, comparisons=(dataclasses.replace(comparison, inputs=(result,), candidate=side),), command=name
    )
    page = report(run)
    assert "b" not in {tag for tag, attributes in page.elements if "onclick" in attributes}
    assert page.data["candidates"][0]["name"] == page.data["images"][0]["name"] == name
    assert page.words.count(name) >= 3


def test_what_would_mend_a_candidate_is_said(run_of: Any, report: Report) -> None:
    run = run_of("identity", image(16, 16, 3))
    search = PrecisionSearch(True, ("head",), 70.0, "it takes head in FP32", "keygraph export a.ckpt --keep-fp32 head")
    page = report(
        dataclasses.replace(run, comparisons=(dataclasses.replace(run.comparisons[0], precision_search=search),))
    )
    assert "Precision search it takes head in FP32" in page.words
    assert search.command is not None
    assert search.command in page.words


def test_a_run_without_pictures_has_its_numbers(run_of: Any, report: Report) -> None:
    run = dataclasses.replace(run_of("blur", image(16, 16, 3), reference="identity"), images=())
    page = report(run)
    assert "This run has no pictures" in page.words
    assert f"{run.comparisons[0].inputs[0].as_run.psnr:.2f}" in page.words


def test_the_file_is_whole_or_not_there(run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("identity", image(16, 16, 3))
    monkeypatch.setattr("keygraph.parity.output.report.writing.encode", lambda _pixels: 1 / 0)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "report.html", run)
    assert sorted(tmp_path.iterdir()) == before
    write(tmp_path / "a.png", Picture(image(8, 8, 3)))
    with pytest.raises(InputError, match=r"give a name that ends with \.html"):
        check_report(tmp_path / "a.png")
    with pytest.raises(InputError, match="does not exist"):
        check_report(tmp_path / "none" / "a.html")
