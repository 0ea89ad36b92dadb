"""Make the images of two how-to guides: `make screenshots`, or python docs/images/make_screenshots.py.

docs/how-to/read-the-report.md: the report of a real run, the demo's network as exported, and once more with a fault
planted in one block, both against the checkpoint, on a photograph that was not used in training.
docs/how-to/use-the-page.md: the page of a service that restores the same photograph. Needs Chromium and its driver
(docs/how-to/read-the-report.md), and Poppler. The optional argument is the folder where the report is kept.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import pyvips
from keygraph.cli import main as keygraph
from keygraph.export import export
from keygraph.models import load_checkpoint
from keygraph.runtime.io.images import Picture, write
from onnx import ModelProto, numpy_helper

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHECKPOINT = ROOT / "examples/kgt-denoise-tiny.ckpt"

#: What the fault changes, and by which factor.
WEIGHT, FACTOR = "body.1.layers.1.ffn.reduce.weight", 1.2

OPTIONS = "--inputs chelsea.png --clean clean.png --tile 128 --blocks --report report.html".split()  # noqa: SIM905

WIDTH, HEIGHT = 1280, 900

sys.path += [str(ROOT / "examples"), str(ROOT / "tests"), str(ROOT / "tests/serving")]


def main() -> None:
    """Make all images."""
    from browser import chromium

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = compared(folder)
        with chromium(folder / "profile", WIDTH, HEIGHT) as browser:
            draw_report(browser, report)
            draw_page(browser, folder / "kgt.onnx", folder / "chelsea.png")


def draw_report(browser: Any, report: Path) -> None:
    """Make the images of the report."""
    from browser import prefer, resize

    browser.get(report.as_uri())
    wait(browser, "0")
    choose(browser, "1")
    browser.find_element("id", "tiles").click()
    shot(browser, "report-light.jpg", "header", "#pictures")
    prefer(browser, "dark")
    shot(browser, "report-dark.jpg", "#histogram", "#blocks")
    prefer(browser, "light")
    resize(browser, 420, HEIGHT)
    shot(browser, "report-narrow.jpg", "#pictures", "#histogram")
    resize(browser, WIDTH, HEIGHT)
    sheet = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    report.with_name("sheet.pdf").write_bytes(base64.b64decode(sheet["data"]))
    printed(report.with_name("sheet.pdf"))


def draw_page(browser: Any, model: Path, picture: Path) -> None:
    """Make the images of the service's page."""
    from browser import prefer, resize
    from selenium.webdriver.support.wait import WebDriverWait
    from service_process import Service

    with tempfile.TemporaryDirectory() as folder, Service(model, Path(folder)) as service:
        browser.get(service.url)
        browser.find_element("id", "file").send_keys(str(picture))
        WebDriverWait(browser, 300).until(lambda one: one.find_element("id", "download").is_displayed())
        browser.execute_script("document.activeElement.blur()")
        resize(browser, 960, HEIGHT)
        shot(browser, "page-light.jpg", "header", "#facts")
        prefer(browser, "dark")
        shot(browser, "page-dark.jpg", "header", "#facts")
        prefer(browser, "light")
        resize(browser, 390, 780)
        shot(browser, "page-narrow.jpg", "header", "#facts")
        resize(browser, WIDTH, HEIGHT)


def compared(folder: Path) -> Path:
    """Run the comparison in `folder`, so that the page shows no paths of this machine, and return the page."""
    from photos import add_noise, unseen_photo

    clean = unseen_photo()[40:232, 80:368]
    for path, picture in ((folder / "chelsea.png", add_noise(clean, 25.0, seed=0)), (folder / "clean.png", clean)):
        write(path, Picture(picture))
    (folder / "kgt.ckpt").write_bytes(CHECKPOINT.read_bytes())
    export(load_checkpoint(CHECKPOINT), folder / "kgt.onnx", verification=False)
    model = onnx.load(folder / "kgt.onnx")
    plant(model)
    onnx.save(model, folder / "kgt-faulty.onnx")
    here = Path.cwd()
    os.chdir(folder)
    try:
        keygraph(["compare", "kgt.onnx", "kgt-faulty.onnx", "kgt.ckpt", *OPTIONS])
    finally:
        os.chdir(here)
    if len(sys.argv) > 1:
        shutil.copy(folder / "report.html", sys.argv[1])
    return folder / "report.html"


def plant(model: ModelProto) -> None:
    """Multiply the weights of one layer by `FACTOR`."""
    (tensor,) = (one for one in model.graph.initializer if one.name == WEIGHT)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * FACTOR, WEIGHT))


def wait(browser: Any, candidate: str) -> None:
    """Wait until the page shows a candidate, by its number."""
    from selenium.webdriver.support.wait import WebDriverWait

    ready = "return document.getElementById('viewer').dataset.ready?.endsWith(arguments[0])"
    WebDriverWait(browser, 60).until(lambda one: one.execute_script(ready, f" {candidate}"))


def choose(browser: Any, candidate: str) -> None:
    """Select a candidate, by its number."""
    browser.execute_script(
        "const one = document.getElementById('candidate'); one.value = arguments[0];"
        "one.dispatchEvent(new Event('change'))",
        candidate,
    )
    wait(browser, candidate)


def shot(browser: Any, name: str, first: str, last: str) -> None:
    """Take a screenshot from the top of one element to the bottom of another.

    Parameters
    ----------
    browser
        Shows the page.
    name
        File to write, in this folder.
    first, last
        CSS selectors of the elements.
    """
    from browser import resize

    width = browser.execute_script("return innerWidth")
    resize(browser, width, browser.execute_script("return document.documentElement.scrollHeight"))
    script = (
        "return arguments[0].map((s, i) => document.querySelector(s).getBoundingClientRect()[i ? 'bottom' : 'top'])"
    )
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    top, bottom = browser.execute_script(script, [first, last])
    clip = {"x": 0, "y": max(0, top - 24), "width": width, "height": bottom - top + 48, "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
    save(pyvips.Image.new_from_buffer(base64.b64decode(taken["data"]), "")[:3], name)
    resize(browser, width, HEIGHT)


def printed(sheet: Path) -> None:
    """Draw the first pages of a PDF side by side, with Poppler (apt-get install poppler-utils)."""
    subprocess.run(["pdftoppm", "-r", "60", "-png", "-l", "4", str(sheet), str(sheet.with_suffix(""))], check=True)
    sheets = [pyvips.Image.new_from_file(str(path)) for path in sorted(sheet.parent.glob("sheet-*.png"))]
    save(pyvips.Image.arrayjoin(sheets, across=len(sheets), shim=12, background=[190]), "report-print.jpg")


def save(image: Any, name: str) -> None:
    """Write an image into this folder, and print its size."""
    image.write_to_file(str(HERE / name), Q=80, strip=True)
    print(f"{name}: {image.width} x {image.height}, {(HERE / name).stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
