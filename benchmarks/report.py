"""Time until the HTML report of a large image is usable, in a real Chromium.

    .venv/bin/python benchmarks/report.py [--megapixels 4] [--runs 5]

The image is a photograph with noise, which compresses badly. Measured are the time from the start of navigation to the
first paint (the verdict and the numbers) and until the images and their difference are decoded and drawn, and the CPU
time of the page's main thread until then, which a busy machine changes little.
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
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "examples/kgt-denoise-tiny.ckpt"

Picture = NDArray[np.float32]

#: Resolves when the first two pictures and the difference are there and a frame has been drawn.
READY = """
const done = arguments[0], viewer = document.getElementById("viewer");
const painted = () => requestAnimationFrame(() => requestAnimationFrame(() => done({
  paint: performance.getEntriesByName("first-contentful-paint")[0].startTime, ready: performance.now() })));
if (viewer.dataset.ready) painted();
else new MutationObserver(painted).observe(viewer, { attributeFilter: ["data-ready"] });
"""


def main() -> None:
    """Run the benchmark from the command line."""
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
    """Return a real comparison of a small image, in which a large image takes its place."""
    with tempfile.TemporaryDirectory() as folder:
        export(load_checkpoint(CHECKPOINT), Path(folder) / "kgt.onnx", verification=False)
        run = compare([Path(folder) / "kgt.onnx"], CHECKPOINT)
    photo: NDArray[np.uint8] = skimage.data.coffee()
    repeats = (-(-side // photo.shape[0]), -(-side // photo.shape[1]), 1)
    clean: Picture = np.tile(photo, repeats)[:side, :side].astype(np.float32) / np.float32(255)
    random = np.random.default_rng(0)

    def noisy(image: Picture, sigma: float) -> Picture:
        noise: Picture = random.standard_normal(image.shape, np.float32)
        result: Picture = image + np.float32(sigma) * noise
        return result

    reference = noisy(clean, 2 / 255)
    given = np.rint(np.clip(noisy(clean, 25 / 255), 0, 1) * 255).astype(np.uint8)
    plan = Plan(cut(side, 512, 64, 32), cut(side, 512, 64, 32))
    image = ComparedImage("photo.png", given, reference, (noisy(reference, 1e-4),), clean, plan)
    (comparison,) = run.comparisons
    result = dataclasses.replace(comparison.inputs[0], name=image.name, height=side, width=side)
    return dataclasses.replace(run, comparisons=(dataclasses.replace(comparison, inputs=(result,)),), images=(image,))


def measure(page: Path, profile: Path) -> dict[str, float]:
    """Return the milliseconds in a browser that was just started and has nothing of the page in its cache."""
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
