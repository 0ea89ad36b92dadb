"""How soon the report of a large image can be looked at, in a real Chromium.

.venv/bin/python benchmarks/report.py [--megapixels 4] [--runs 5]

The image is a photograph with noise, which compresses badly. Measured is the time from the navigation's start to the
first paint (the verdict and the numbers), and to the pictures and their difference being decoded and drawn; and the
processor time of the page's main thread till then, which a busy machine does not change much.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data
from keygraph.export import export
from keygraph.models import load_checkpoint
from keygraph.parity import ComparedImage, Run, compare
from keygraph.parity.output.report import write_report
from keygraph.runtime.tiling.blend import Plan, cut

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "examples/kgt-denoise-tiny.ckpt"

#: Resolves when the first two pictures and the difference are there and a frame has been drawn.
READY = """
const done = arguments[0], viewer = document.getElementById("viewer");
const painted = () => requestAnimationFrame(() => requestAnimationFrame(() => done({
  paint: performance.getEntriesByName("first-contentful-paint")[0].startTime, ready: performance.now() })));
if (viewer.dataset.ready) painted();
else new MutationObserver(painted).observe(viewer, { attributeFilter: ["data-ready"] });
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = enlarged(round((arguments.megapixels * 1e6) ** 0.5))
        page = Path(folder) / "report.html"
        began = time.perf_counter()
        write_report(page, run)
        print(f"{arguments.megapixels:g} MP: {page.stat().st_size / 1e6:.1f} MB, ", end="")
        print(f"written in {time.perf_counter() - began:.1f} s")
        measured = [measure(page, Path(folder) / f"profile-{index}") for index in range(arguments.runs)]
    for name, words in (("paint", "first paint"), ("ready", "pictures drawn"), ("main", "main thread")):
        values = [one[name] for one in measured]
        print(f"{words:<15} median {statistics.median(values):6.0f} ms, worst {max(values):6.0f} ms of {len(values)}")


def enlarged(side: int) -> Run:
    """A real comparison of a small image, with a large one put in its place."""
    with tempfile.TemporaryDirectory() as folder:
        export(load_checkpoint(CHECKPOINT), Path(folder) / "kgt.onnx", verification=False)
        run = compare([Path(folder) / "kgt.onnx"], CHECKPOINT)
    photo = skimage.data.coffee()
    clean = (
        np.tile(photo, (-(-side // photo.shape[0]), -(-side // photo.shape[1]), 1))[:side, :side].astype(np.float32)
        / 255
    )
    random = np.random.default_rng(0)

    def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
        return image + np.float32(sigma) * random.standard_normal(image.shape, np.float32)

    reference = noisy(clean, 2 / 255)
    given = np.rint(np.clip(noisy(clean, 25 / 255), 0, 1) * 255).astype(np.uint8)
    plan = Plan(cut(side, 512, 64, 32), cut(side, 512, 64, 32))
    image = ComparedImage("photo.png", given, reference, (noisy(reference, 1e-4),), clean, plan)
    (comparison,) = run.comparisons
    result = dataclasses.replace(comparison.inputs[0], name=image.name, height=side, width=side)
    return dataclasses.replace(run, comparisons=(dataclasses.replace(comparison, inputs=(result,)),), images=(image,))


def measure(page: Path, profile: Path) -> dict[str, float]:
    """Milliseconds in a browser that has just started and knows nothing of the page."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import chromium

    with chromium(profile) as browser:
        browser.set_script_timeout(120)
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.get(page.as_uri())
        found: dict[str, float] = browser.execute_async_script(READY)
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    (seconds,) = (one["value"] for one in metrics if one["name"] == "TaskDuration")
    return found | {"main": 1e3 * seconds}


if __name__ == "__main__":
    main()
