"""The report in a real browser: what moves, what the charts hold, and that nothing is asked of a network."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import numpy as np
import pytest
import tiny_kgt
from browser import key
from keygraph.parity import Run, compare
from keygraph.parity.output.report import write_report
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from tiny_kgt import Tiny, changed, set_weight

#: Of the images; wider than the tests' panes are high, so that both directions can be moved.
HEIGHT, WIDTH = 40, 56


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two candidates, one of them wrong, on two images in overlapping tiles, with blocks."""
    folder = tmp_path_factory.mktemp("run")
    wrong = changed(tiny.onnx, folder / "wrong.onnx", set_weight("tail.weight", 40, lambda value: value + 0.5))
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        images.write(folder / name, Picture(random.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)))
    given = [folder / "a.png", folder / "b.png"]
    with tiny_kgt.one_thread():
        return compare(
            [tiny.onnx, wrong],
            tiny.checkpoint,
            given,
            clean=given,
            tile=24,
            blocks=True,
            keep_images=True,
            command="it",
        )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browsers.chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, run)
    return path


@pytest.fixture
def page(started: Any, file: Path) -> Iterator[Page]:
    browsers.messages(started), browsers.requests(started)
    browsers.resize(started, 1360, 900)
    browsers.prefer(started)
    started.get(file.as_uri())
    shown = Page(started)
    shown.wait()
    yield shown
    assert browsers.messages(started) == []
    asked = browsers.requests(started)
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
    assert [url for url in asked if url.startswith("file:")] == [file.as_uri()]


class Page(browsers.Page):
    """The open report."""

    def wait(self, script: str = "return document.getElementById('viewer').dataset.ready") -> Any:
        return super().wait(script)

    def choose(self, name: str, value: object) -> None:
        self.js(
            "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
            "one.dispatchEvent(new Event('change'))",
            name,
            str(value),
        )

    @property
    def slider(self) -> int:
        return int(self.find("#handle").get_attribute("aria-valuenow"))

    def place(self, layer: str = "right") -> tuple[float, float, float]:
        """Where a picture is in its pane: left, top, and pixels of the screen to one of its own."""
        numbers = re.findall(r"-?[\d.]+(?:e-?\d+)?", self.find(f"#{layer}-picture").value_of_css_property("transform"))
        scale, _, _, _, x, y = map(float, numbers)
        return x, y, scale


def test_it_opens_with_the_worst_image_and_both_verdicts(page: Page, run: Run) -> None:
    assert page.find("h1").text == "1 of 2 candidates agree with tiny.ckpt"
    good, bad = page.browser.find_elements("css selector", ".verdict")
    assert "good" in good.get_attribute("class")
    assert run.comparisons[1].verdict.reasons[0] in bad.text
    worst = min(run.comparisons[1].inputs, key=lambda result: result.judged.psnr)
    assert page.js("const s = document.getElementById('image'); return s.selectedOptions[0].text") == worst.name
    assert page.find("#repeat pre").text == "it"
    assert page.js("return document.querySelectorAll('tr.failing.why').length") == 2
    natural = "const i = document.getElementById(arguments[0]); return [i.naturalWidth, i.naturalHeight]"
    assert page.js(natural, "left-picture") == page.js(natural, "right-picture") == [WIDTH, HEIGHT]


def test_the_slider_moves_by_keys_and_by_mouse(page: Page) -> None:
    assert page.slider == 50
    page.keys("#handle", key("ARROW_RIGHT"), key("ARROW_RIGHT"), key("ARROW_LEFT"))
    assert page.slider == 51
    page.keys("#handle", key("PAGE_DOWN"))
    assert page.slider == 41
    assert page.find("#handle").get_attribute("aria-valuetext").startswith("41 % candidate: ")
    page.keys("#handle", key("HOME"))
    assert page.slider == 0
    page.keys("#handle", key("END"))
    assert page.slider == 100
    handle, pane = page.find("#handle"), page.box("#compare")
    page.actions().click_and_hold(handle).move_by_offset(-round(pane["width"] / 4), 0).release().perform()
    assert page.slider == pytest.approx(75, abs=1)
    assert page.box("#handle")["x"] + 18 == pytest.approx(pane["x"] + 0.75 * pane["width"], abs=2)
    clip = page.find("#left-layer").value_of_css_property("clip-path")
    assert float(max(re.findall(r"([\d.]+)px", clip), key=float)) == pytest.approx(pane["width"] / 4, abs=2)
    # With all in sight, pressing anywhere moves it.
    page.actions().move_to_element_with_offset(page.find("#compare"), -round(pane["width"] / 4), 50).click().perform()
    assert page.slider == pytest.approx(25, abs=1)


def test_zoom_and_pan_move_both_panes(page: Page) -> None:
    _, _, fitted = page.place()
    page.keys("#compare", "+", "+")
    x, y, scale = page.place()
    assert scale == pytest.approx(fitted * 2.25, rel=1e-3)
    assert page.place("difference") == page.place("left") == (x, y, scale)
    page.keys("#difference", key("ARROW_LEFT"))
    assert page.place()[0] > x
    page.keys("#compare", "0")
    assert page.place()[2] == pytest.approx(fitted)
    # The wheel: what is under it stays there.
    pane = page.find("#compare")
    page.js("arguments[0].focus()", pane)
    x, y, scale = page.place()
    px, py = page.box("#compare")["width"] / 2 + 100, page.box("#compare")["height"] / 2 - 60
    before = (px - x) / scale, (py - y) / scale
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    origin = ScrollOrigin.from_element(pane, 100, -60)
    page.actions().scroll_from_origin(origin, 0, -240).perform()
    x, y, scale = page.wait("return document.querySelector('.zoomed') && 1") and page.place()
    assert scale == pytest.approx(2 * fitted, rel=1e-3)
    assert ((px - x) / scale, (py - y) / scale) == pytest.approx(before, abs=0.1)
    # Dragging.
    page.actions().move_to_element_with_offset(pane, 120, 80).click_and_hold().move_by_offset(
        -40, -20
    ).release().perform()
    assert page.place() == pytest.approx((x - 40, y - 20, scale), abs=0.5)
    page.find("#pixels").click()
    assert page.find("#zoom").text == "100 %" or page.place()[2] == pytest.approx(fitted)  # never smaller than fitted
    page.find("#fit").click()
    assert page.place()[2] == pytest.approx(fitted)
    for _ in range(3):
        page.find("#zoom-in").click()
    assert page.place()[2] == pytest.approx(fitted * 1.5**3, rel=1e-3)
    page.find("#zoom-out").click()
    assert page.place()[2] == pytest.approx(fitted * 1.5**2, rel=1e-3)


def test_a_wheel_that_passes_by_scrolls_the_page(page: Page) -> None:
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    page.js("document.getElementById('pictures').scrollIntoView(); document.activeElement.blur()")
    before, scale = page.js("return scrollY"), page.place()[2]
    page.actions().scroll_from_origin(ScrollOrigin.from_element(page.find("#compare")), 0, 120).perform()
    page.wait(f"return scrollY > {before}")
    assert page.place()[2] == scale


def test_the_difference_is_what_the_run_has(page: Page, run: Run) -> None:
    index = int(page.find("#image").get_attribute("value"))
    image = run.images[index]
    page.choose("candidate", 1)
    page.wait("return document.getElementById('viewer').dataset.ready.endsWith(' 1')")
    steps = 255 * np.abs(image.candidates[1] - image.reference).max(axis=2)
    y, x = np.unravel_index(steps.argmax(), steps.shape)
    left, top, scale = page.place("difference")
    box = page.box("#difference")
    where = round(left + (x + 0.5) * scale - box["width"] / 2), round(top + (y + 0.5) * scale - box["height"] / 2)
    page.actions().move_to_element_with_offset(page.find("#difference"), *where).perform()
    said = page.find("#readout").text
    assert said.startswith(f"x {x}, y {y}: ")
    assert float(re.findall(r": ([\d.,]+) steps of 8 bits", said)[0].replace(",", "")) == pytest.approx(
        steps[y, x], rel=0.06
    )

    def pixel(row: int, column: int) -> list[int]:
        colour: list[int] = page.js(
            "return [...document.getElementById('difference-picture').getContext('2d')"
            ".getImageData(arguments[1], arguments[0], 1, 1).data.slice(0, 3)]",
            int(row),
            int(column),
        )
        return colour

    row, column = map(int, np.unravel_index(np.where(steps > 0, steps, np.inf).argmin(), steps.shape))
    absolute = pixel(row, column)
    assert sum(pixel(y, x)) > sum(absolute)
    assert page.find("#legend .scale").get_attribute("aria-label").startswith("Colours from ")
    page.choose("colours", "fit")
    assert sum(pixel(row, column)) < sum(absolute)
    assert page.find("#right").get_attribute("value") == "reference"
    assert page.find("#left").get_attribute("value") == "candidate-1"
    page.choose("right", "clean")
    page.wait("return document.getElementById('right-picture').alt === 'clean image'")


def test_tiles_are_drawn_where_they_are(page: Page, run: Run) -> None:
    plan = run.images[0].tiles
    assert plan is not None
    assert len(plan.tiles) > 1
    rects = (
        "return [...document.querySelectorAll('#compare .grid .tile')]"
        ".map(tile => ['x', 'y', 'width'].map(name => Number(tile.getAttribute(name))))"
    )
    assert not page.find("#compare .grid").is_displayed()
    page.find("#tiles").click()
    assert page.find("#tiles").get_attribute("aria-pressed") == "true"
    assert page.find("#compare .grid").is_displayed()
    assert page.find("#difference .grid").is_displayed()
    expected = [[x, y, min(plan.columns.tile, WIDTH - x)] for y, x in plan.tiles]
    assert page.js(rects) == expected
    assert "At the tile borders" in page.find("#tiles-note").text
    page.find("#tiles").click()
    assert not page.find("#compare .grid").is_displayed()


def test_the_charts_have_the_data(page: Page, run: Run) -> None:
    def table(section: str) -> list[list[str]]:
        cells: list[list[str]] = page.js(
            "return [...document.querySelectorAll(`#${arguments[0]} details tbody tr`)]"
            ".map(row => [...row.cells].map(cell => cell.textContent))",
            section,
        )
        return cells

    def marks(section: str, label: str, shape: str) -> int:
        count: int = page.js(
            "return document.querySelectorAll(arguments[0]).length", f"#{section} svg [aria-label='{label}'] {shape}"
        )
        return count

    for candidate, comparison in enumerate(run.comparisons):
        page.choose("candidate", candidate)
        page.choose("image", 1)
        counts = comparison.inputs[1].judged.histogram.counts
        rows = table("histogram")
        assert [int(row[1].replace(",", "")) for row in rows] == list(counts[: len(rows)])
        assert sum(counts) == sum(counts[: len(rows)])
        assert marks("histogram", "bar", "> *") == sum(count > 0 for count in counts)
        assert [row[0] for row in table("stages")] == [stage.name for stage in comparison.stages]
        ties = [int(row[3].replace(",", "")) for row in table("stages")]
        assert ties == [stage.near_ties for stage in comparison.stages]
        assert marks("stages", "dot", "path") == sum(tie > 0 for tie in ties)
        blocks = comparison.blocks
        assert [row[0] for row in table("blocks")] == [block.name for block in blocks]
        assert [row[-1] for row in table("blocks")] == ["yes" if block.over_tolerance else "no" for block in blocks]
        # Where the difference starts is marked, and said.
        divergence = comparison.first_divergence
        assert divergence is not None
        assert divergence.words[1:] in page.find("#blocks-note").text
    assert page.js("return document.querySelectorAll('#blocks svg').length") == 2
    assert "fp16 ends: 65,504" in page.find("#blocks svg:nth-of-type(2)").text
    page.wait("return document.getElementById('viewer').dataset.ready.endsWith('b.png 1')")


def test_a_row_of_the_table_shows_its_pictures(page: Page, run: Run) -> None:
    page.js('document.querySelector(\'button[data-candidate="1"][data-image="1"]\').click()')
    page.wait("return document.getElementById('viewer').dataset.ready.endsWith('b.png 1')")
    assert page.find("#candidate").get_attribute("value") == "1"
    assert page.find("#image").get_attribute("value") == "1"


def test_every_control_is_reached_by_tab_and_has_a_name(page: Page) -> None:
    reached = set()
    page.js("document.body.focus()")
    for _ in range(60):
        page.actions().send_keys(key("TAB")).perform()
        reached.add(page.js("return document.activeElement.id"))
    assert {
        *("candidate", "image", "left", "right", "colours", "compare", "handle", "difference"),
        *("zoom-out", "zoom-in", "fit", "pixels", "tiles"),
    } <= reached
    nameless = page.js(
        "return [...document.querySelectorAll('button, select, [tabindex]')].filter(one => !one.labels?.length &&"
        " !one.ariaLabel && !one.getAttribute('aria-labelledby') && !one.textContent.trim()).map(one => one.outerHTML)"
    )
    assert nameless == []
    page.keys("#handle", key("ARROW_RIGHT"))
    assert page.js("return getComputedStyle(document.querySelector('#handle span')).outlineStyle") == "solid"


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_text_has_contrast_in_light_and_dark(page: Page, scheme: str, dark: bool) -> None:
    browsers.prefer(page.browser, scheme)
    ground = luminance(page.find("body").value_of_css_property("background-color"))
    assert (ground < 0.05) is dark
    for selector in (
        "body",
        ".hint",
        ".rule",
        "thead th",
        "button.link",
        "#stages-chart svg text",
        "#blocks-chart svg",
    ):
        colour = page.js("const s = getComputedStyle(document.querySelector(arguments[0])); return s.color", selector)
        lighter, darker = sorted((luminance(colour), ground), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector


def test_on_paper_the_pictures_lie_side_by_side(page: Page) -> None:
    pdf = base64.b64decode(page.browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    browsers.prefer(page.browser, "dark", media="print")
    assert luminance(page.find("body").value_of_css_property("background-color")) == 1
    left, right = page.box("#left-picture"), page.box("#right-picture")
    assert left["right"] <= right["left"]
    assert left["width"] == pytest.approx(right["width"], abs=1)
    assert not page.find("#handle").is_displayed()
    assert not page.find(".tools").is_displayed()
    names = page.js("return [...document.querySelectorAll('.print-names span')].map(s => s.textContent)")
    assert names == ["candidate: tiny.onnx", "reference: tiny.ckpt"]


def test_a_narrow_screen_needs_no_sideways_scrolling(page: Page) -> None:
    browsers.resize(page.browser, 400, 800)
    page.wait("return document.querySelector('#blocks svg').getBoundingClientRect().width < 400")
    assert page.js("return document.documentElement.scrollWidth") <= 400
    assert (
        page.js("const one = document.querySelector('#numbers .scroll'); return one.scrollWidth - one.clientWidth") == 0
    )
    cell = page.js(
        "const one = document.querySelector('.numbers td[data-label=SSIM]');"
        "return getComputedStyle(one, '::before').content"
    )
    assert "SSIM" in cell  # The table's head is not shown here.
    assert page.box("#compare")["bottom"] <= page.box("#difference")["top"]


def test_every_block_has_its_own_limit(page: Page, run: Run) -> None:
    """The chart draws a band from what rounding explains to the limit, and no common one."""
    assert page.js("return document.querySelectorAll('#blocks-chart .marks .band').length") == 1
    titles = page.js("return [...document.querySelectorAll('#blocks-chart svg title')].map((one) => one.textContent)")
    (own,) = (text for text in titles if text.startswith("body.1.conv: rounding explains "))
    assert "the limit is 4 times that" in own
    words = page.js("return [...document.querySelectorAll('#blocks-chart svg text')].map((one) => one.textContent)")
    assert "tolerance" not in words
    assert sum(": rounding explains " in text for text in titles) == len(run.comparisons[0].blocks)
