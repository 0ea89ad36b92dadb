"""The page of the service in a real browser, with a real service behind it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import httpx
import numpy as np
import pytest
from browser import key
from keygraph.manifest import Neighbours
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from service_process import Service, until
from small_models import manifest_for, model_bytes

API_KEY = "0123456789abcdef"
HEIGHT, WIDTH = 40, 56

#: What the original's and the result's pixel in the middle is, as the browser decodes it.
MIDDLE = """
const image = document.getElementById(arguments[0]);
const context = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
context.drawImage(image, 0, 0);
return context.getImageData(image.naturalWidth / 2, image.naturalHeight / 2, 1, 1).data[0];
"""
RESTORED = "return document.getElementById('status').textContent.startsWith('Restored in')"


def write(path: Path, level: int, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """Write a picture of noise around a level that is exact in the middle."""
    pixels = np.random.default_rng(0).integers(level - 9, level + 9, (height, width, 3)).astype(np.uint8)
    pixels[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4] = level
    images.write(path, Picture(pixels))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page")
    for name in ("a.png", "b.webp", "it's.png", "c.tif"):
        write(made / name, 100)
    write(made / "big.png", 100, 1600, 1600)
    (made / "damaged.png").write_bytes((made / "a.png").read_bytes()[:200])
    (made / "large.png").write_bytes(bytes(30_000_000))
    return made


@pytest.fixture(scope="module")
def brighter(folder: Path) -> Iterator[str]:
    """A service whose model has a k: it adds k / 1000."""
    model = folder / "brighter.onnx"
    neighbours = Neighbours(default=100, maximum=400, trained=(100,), runtime=True)
    model.write_bytes(model_bytes("add_k", manifest_for(neighbours=neighbours, task="denoising")))
    with Service(model, folder / "brighter", "--max-bytes", "20M") as service:
        yield f"{service.url}/"


@pytest.fixture(scope="module")
def doubling(folder: Path) -> Iterator[str]:
    """A service with a key, whose model enlarges and has no k."""
    model = folder / "doubling.onnx"
    model.write_bytes(model_bytes("nearest", manifest_for(scale=2)))
    with Service(model, folder / "doubling", environment={**os.environ, "KEYGRAPH_API_KEY": API_KEY}) as service:
        yield f"{service.url}/"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browsers.chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


class Page(browsers.Page):
    """The open page."""

    def open(self, address: str) -> None:
        browsers.resize(self.browser, 1280, 900)
        browsers.prefer(self.browser)
        browsers.messages(self.browser), browsers.requests(self.browser)
        self.browser.get(address)
        self.wait("return document.title.includes('.onnx') || !document.getElementById('error').hidden")

    def drop(self, *files: Path) -> None:
        """Drop files as from a file manager."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            place = {"type": kind, "x": 200, "y": 300, "data": data}
            self.browser.execute_cdp_cmd("Input.dispatchDragEvent", place)

    def restored(self) -> int:
        """Wait for the result; return its level in the middle."""
        self.wait(RESTORED)
        return int(self.js(MIDDLE, "after"))

    def error(self) -> str:
        self.wait("return !document.getElementById('error').hidden")
        return str(self.find("#error-text").text)

    def notices(self) -> list[str]:
        return [one.text for one in self.browser.find_elements("css selector", "#notices li")]

    @property
    def share(self) -> float:
        """Share of the pane's visible picture that shows the original, by what is cut of it."""
        box, cut = self.box("#before"), self.find("#before").value_of_css_property("clip-path")
        return 1 - float(cut.split()[1].removesuffix("px")) / box["width"]


@pytest.fixture
def page(started: Any) -> Iterator[Page]:
    yield Page(started)
    # Neither violations of the Content-Security-Policy nor exceptions; refused requests are on the console, too.
    assert [line for line in browsers.messages(started) if "the server responded with a status of 4" not in line] == []


def test_a_dropped_picture_is_restored_beside_the_original(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    assert page.find("h1").text == "brighter.onnx"
    assert "denoising" in page.find("#about").text
    assert "20 MiB and 50 megapixels" in page.find("#about").text
    page.drop(folder / "a.png")
    assert page.restored() == pytest.approx(100 + 0.1 * 255, abs=1)
    assert page.js(MIDDLE, "before") == 100
    assert page.box("#before") == page.box("#after")
    facts = page.find("#facts").text
    assert facts.startswith(f"a.png · {WIDTH} × {HEIGHT} pixels · k 100 · ")
    assert "in the service" in facts
    assert page.find("#progress").is_displayed() is False
    # Everything came from the service.
    assert [url for url in browsers.requests(page.browser) if not url.startswith((brighter, "blob:"))] == []


def test_two_files_are_not_dropped_in_silence(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.drop(folder / "b.webp", folder / "a.png")
    page.restored()
    assert page.notices()[0] == "2 files were given; this is the first, b.webp."
    assert page.find("#download").text == "Download WEBP"


def test_the_last_of_two_pictures_counts_though_the_first_takes_longer(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.drop(folder / "big.png")
    page.drop(folder / "a.png")
    page.restored()
    page.js(
        "const status = document.getElementById('status'); window.said = [];"
        "new MutationObserver(() => window.said.push(status.textContent))"
        ".observe(status, {childList: true, characterData: true, subtree: true})"
    )
    page.js("document.getElementById('k').dispatchEvent(new Event('input'))")  # a round trip later
    page.wait("return window.said.some((line) => line.startsWith('Restoring a.png'))")
    page.restored()
    assert page.find("#facts").text.startswith(f"a.png · {WIDTH} × {HEIGHT} pixels")
    assert page.js("return document.getElementById('before').naturalWidth") == WIDTH


def test_a_picture_is_pasted_and_text_is_refused(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    paste = (
        "const data = new DataTransfer(); if (arguments[0]) data.items.add(new File("
        "[Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt())], 'image.png', { type: 'image/png' }));"
        "document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))"
    )
    page.js(paste, "")
    assert page.error() == "There is no picture in the clipboard."
    page.js(paste, base64.b64encode((folder / "a.png").read_bytes()).decode())
    assert page.restored() == pytest.approx(126, abs=1)


def test_the_slider_moves_by_keys_mouse_and_touch(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.drop(folder / "a.png")
    page.restored()
    assert page.share == pytest.approx(0.5, abs=0.01)
    page.keys("#split", key("HOME"))
    assert page.share == pytest.approx(0, abs=0.01)
    page.keys("#split", key("END"), key("ARROW_LEFT"), key("ARROW_LEFT"))
    assert page.share == pytest.approx(0.99, abs=0.001)
    assert page.find("#split").get_attribute("aria-valuetext") == "99 % original"
    # Wherever the picture is pressed, the line goes there; the result is narrower than the pane.
    picture = page.box("#after")
    assert picture["width"] < page.box("#pane")["width"] - 100
    page.actions().move_to_element_with_offset(page.find("#pane"), round(-picture["width"] / 4), 20).click().perform()
    assert page.share == pytest.approx(0.25, abs=0.01)
    assert page.box(".handle")["x"] + 1 == pytest.approx(picture["x"] + picture["width"] / 4, abs=3)
    middle = picture["y"] + picture["height"] / 2
    for kind, share in (("touchStart", 0.25), ("touchMove", 0.5), ("touchMove", 0.75), ("touchEnd", None)):
        points = [] if share is None else [{"x": picture["x"] + picture["width"] * share, "y": middle}]
        page.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.share == pytest.approx(0.75, abs=0.02)


def test_an_enlarged_picture_scrolls_under_the_slider(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.drop(folder / "big.png")
    page.restored()
    page.find("[data-zoom='2']").click()
    assert page.box("#after")["width"] == page.box("#before")["width"] == 3200
    line = page.box(".handle")["x"]
    cut = 3200 * page.share
    page.keys("#stage", key("ARROW_RIGHT"), key("ARROW_RIGHT"))
    page.wait("return document.getElementById('stage').scrollLeft > 20")
    page.actions().move_to_element_with_offset(page.find("#pane"), 200, 100).click_and_hold().move_by_offset(
        -100, 0
    ).release().perform()
    left = page.wait("const at = document.getElementById('stage').scrollLeft; return at > 110 && at")
    page.wait("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    assert page.box(".handle")["x"] == line
    left = page.js("return document.getElementById('stage').scrollLeft")
    assert 3200 * page.share == pytest.approx(cut + left, abs=2)


def test_turning_the_dial_cancels_the_last_request(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.drop(folder / "big.png")
    page.wait("return !document.getElementById('progress').hidden")
    # In the page, so that each begins before the last one has come back, however slow the machine is.
    page.browser.execute_async_script(
        """
        const [ks, done] = arguments, dial = document.getElementById("k"), status = document.getElementById("status");
        (async () => {
          for (const k of ks) {
            dial.value = k;
            dial.dispatchEvent(new Event("input"));
            while (!status.textContent.includes(`k = ${k}`)) await new Promise((resolve) => setTimeout(resolve, 1));
          }
          done();
        })();
        """,
        [50, 150, 300],
    )
    assert page.find("#k-number").get_attribute("value") == "300"
    assert page.restored() == pytest.approx(100 + 0.3 * 255, abs=1)
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = {
        event["params"]["requestId"]: event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent" and "/v1/restore" in event["params"]["request"]["url"]
    }
    cancelled = [
        asked[event["params"]["requestId"]]
        for event in events
        if event["method"] == "Network.loadingFailed" and event["params"].get("canceled")
    ]
    assert [url.split("k=")[1] for url in cancelled] == ["100", "50", "150"]
    # The number does the same, and one out of range comes back in words.
    page.js("document.getElementById('k-number').value = ''")
    page.keys("#k-number", "200")
    page.wait("return document.getElementById('status').textContent.includes('k = 200')")
    assert page.restored() == pytest.approx(100 + 0.2 * 255, abs=1)
    page.keys("#k-number", "0", key("TAB"))
    assert page.find("#status").text == "k goes from 1 to 400, in whole numbers; it is 200 as before."
    assert page.find("#k-number").get_attribute("value") == "200"


def test_a_request_is_stopped(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.drop(folder / "big.png")
    page.wait("return !document.getElementById('stop').hidden")
    page.find("#stop").click()
    assert page.find("#status").text == "Stopped."
    assert not page.find("#progress").is_displayed()
    page.find("#other").click()
    assert page.find("#drop").is_displayed()


def test_errors_are_in_words(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.drop(folder / "damaged.png")
    assert "png" in page.error().lower()
    assert page.find("#error").get_attribute("role") == "alert"
    assert not page.find("#again").is_displayed()
    page.drop(folder / "large.png")  # not sent
    assert page.error() == "large.png has 28.6 MiB; the service takes at most 20 MiB."
    page.drop(folder)
    assert page.error().startswith(f"{folder.name} cannot be read: folders")
    page.drop(folder / "a.png")
    page.restored()
    assert not page.find("#error").is_displayed()


def test_a_service_that_is_gone_is_said(page: Page, folder: Path, started: Any) -> None:
    with Service(folder / "brighter.onnx", folder / "gone") as service:
        page.open(f"{service.url}/")
    page.drop(folder / "a.png")
    assert page.error().startswith("The service does not answer.")
    assert page.find("#again").is_displayed()
    assert all("ERR_CONNECTION_REFUSED" in line for line in browsers.messages(started))


def test_a_tiff_is_shown_as_png_and_downloaded_as_tiff(page: Page, brighter: str, folder: Path, tmp_path: Path) -> None:
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.open(brighter)
    page.drop(folder / "c.tif")
    assert page.restored() == pytest.approx(126, abs=1)
    assert page.notices()[0].startswith("This browser cannot show c.tif, so the original is missing here.")
    assert not page.find("#split").is_displayed()
    assert not page.find("#before").is_displayed()
    page.find("#download").click()
    page.find("#download-own").click()
    page.wait("return document.getElementById('status').textContent.includes('download begins')")
    for name in ("c-restored.png", "c-restored.tif"):
        until((tmp_path / name).is_file, f"{name} was downloaded")
        assert images.read(tmp_path / name).pixels[HEIGHT // 2, WIDTH // 2, 0] == pytest.approx(126, abs=1)


def test_a_model_that_enlarges_shows_both_at_one_size_and_asks_for_its_key(
    page: Page, doubling: str, folder: Path
) -> None:
    page.open(doubling)
    form = page.find("#key-form")
    assert form.is_displayed()
    assert page.js("return document.activeElement.id") == "key"
    page.keys("#key", "wrong", key("ENTER"))
    page.drop(folder / "a.png")
    assert "key" in page.error()
    assert form.is_displayed()
    page.keys("#key", API_KEY, key("ENTER"))  # the request that was refused goes on
    assert page.restored() == 100
    assert page.js("return Object.values(sessionStorage)") == [API_KEY]
    assert page.js("return localStorage.length") == 0
    assert f"{WIDTH} × {HEIGHT} → {2 * WIDTH} × {2 * HEIGHT} pixels" in page.find("#facts").text
    assert page.box("#before") == page.box("#after")
    assert not page.find("#k-dial").is_displayed()
    assert API_KEY not in page.js("return document.documentElement.outerHTML")


def test_it_is_used_by_keys_alone(page: Page, brighter: str, folder: Path) -> None:
    page.open(brighter)
    page.actions().send_keys(key("TAB")).perform()
    chooser = page.browser.switch_to.active_element
    assert chooser.get_attribute("id") == "file"
    assert page.js("return getComputedStyle(document.querySelector('.drop .button')).outlineStyle") == "solid"
    chooser.send_keys(str(folder / "a.png"))  # what the dialog of the system does
    page.restored()
    assert page.js("return document.activeElement.id") == "other"  # what had the focus is gone
    reached = []
    for keys in [key("SHIFT") + key("TAB")] * 6 + [key("TAB")] * 8:
        page.browser.switch_to.active_element.send_keys(keys)
        focused = page.browser.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.get_attribute("data-zoom") or focused.tag_name)
        assert page.js("return arguments[0].matches(':focus-visible')", focused), reached
    order = ["split", "k", "k-number", "fit", "1", "2", "other", "download", "summary"]
    assert reached == [*order[5::-1], *order[1:]]
    named = (
        "return [...document.querySelectorAll('button, input, [role]')].filter((one) =>"
        " one.checkVisibility({ visibilityProperty: true }))"
    )
    for element in page.js(named):
        assert element.accessible_name or element.aria_role in ("status", "alert"), element.get_attribute("outerHTML")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways(page: Page, brighter: str, folder: Path, scheme: str) -> None:
    page.open(brighter)
    browsers.prefer(page.browser, scheme)
    browsers.resize(page.browser, 390, 844)
    fits = "return document.documentElement.scrollWidth <= innerWidth"
    assert page.js(fits)
    page.drop(folder / "c.tif")
    page.restored()
    assert page.js(fits)
    page.drop(folder / "it's.png")
    page.wait("return document.getElementById('facts').textContent.startsWith(\"it's\")")
    page.find("summary").click()
    assert page.js(fits)
    small = (
        "return [...document.querySelectorAll('button, .button, input:not(.unseen)')].filter((one) =>"
        " one.checkVisibility() && one.getBoundingClientRect().height < 36).map((one) => one.id)"
    )
    assert page.js(small) == []
    ground = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


def test_the_files_of_the_page_hide_no_address(brighter: str) -> None:
    assert httpx.get(f"{brighter}v1/restore").status_code == 405
    assert httpx.get(f"{brighter}nothing.js").status_code == 404
    assert httpx.head(brighter).status_code == 200
    script = httpx.get(f"{brighter}page.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert script.headers["Cache-Control"] == "no-cache"
    asked = {"If-None-Match": script.headers["ETag"]}
    assert httpx.get(f"{brighter}page.js", headers=asked).status_code == 304


def test_the_line_for_a_shell_does_the_same(page: Page, brighter: str, folder: Path, tmp_path: Path) -> None:
    page.open(brighter)
    page.drop(folder / "it's.png")
    page.restored()
    line = page.js("return document.getElementById('command').textContent")
    (tmp_path / "it's.png").write_bytes((folder / "it's.png").read_bytes())
    subprocess.run(line, shell=True, check=True, cwd=tmp_path, capture_output=True)
    assert images.read(tmp_path / "it's-restored.png").pixels[HEIGHT // 2, WIDTH // 2, 0] == pytest.approx(126, abs=1)
