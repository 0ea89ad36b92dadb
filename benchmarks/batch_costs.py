"""Measure what `batch_simulation.py` simulates with: the driver's, a worker's and Ray's costs on this machine."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
from folders import noisy
from keygraph.distributed.cluster import LOCAL, connected
from keygraph.distributed.run import opened
from keygraph.manifest import Manifest
from keygraph.runtime.io.images import Picture, streaming, write
from keygraph.runtime.io.input_files import InputFile
from keygraph.runtime.journal.job_folder import JobFolder
from keygraph.runtime.journal.part_file import read_tile, write_part
from keygraph.runtime.preprocess.request import make_request
from keygraph.runtime.reports import Report
from keygraph.runtime.restore_in_memory import compute, decode, encode
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.restore_plan import plan_jobs
from keygraph.runtime.results_file import Recipe, ResultsFile
from keygraph.runtime.tiling.run import restore_tiles
from keygraph.runtime.tiling.tile_size import choose

SIDE, IMAGES, CALLS = 256, 8, 200

#: Side of the picture that is streamed and blended.
LARGE = 4096


def measure(model: Path) -> dict[str, Any]:
    """Return costs in seconds of the CPU; `worker_start_s` and `call_s` take in other processes, and are wall time.

    Parameters
    ----------
    model
        An exported file for pictures.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "about": f"measured on this machine's CPU, images of {SIDE} x {SIDE} as PNG",
            "image_pixels": SIDE * SIDE,
            **_of_images(model, folder),
            **_of_a_picture(folder, keygraph.load(model).manifest),
            **_of_ray(model),
        }


def _cpu(call: Callable[[], Any], times: int = 1) -> float:
    """Return the CPU time of a call, one of several."""
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times


def _of_images(model: Path, folder: Path) -> dict[str, float]:
    restorer = keygraph.load(model, threads=1)
    images = []
    for number in range(IMAGES):
        file = folder / f"{number}.png"
        write(file, Picture(noisy(SIDE, SIDE, number)))
        images.append(InputFile(file))
    options = RestoreOptions()
    began = time.process_time()
    plan = plan_jobs(restorer, images, {}, folder / "out", options, into_folder=True)
    planned = time.process_time() - began
    tracemalloc.start()
    again = plan_jobs(restorer, images, {}, folder / "out", options, into_folder=True)
    kept = tracemalloc.get_traced_memory()[0] / len(again.jobs)
    tracemalloc.stop()
    decoded = [decode(plan.jobs[0])]
    times = {"plan_s": planned / IMAGES, "decode_s": 0.0, "tile_s": 0.0, "encode_s": 0.0}
    compute(restorer, plan.jobs[0], decoded[0], None)
    for job in plan.jobs:
        began = time.process_time()
        image = decode(job)
        read = time.process_time()
        computed = compute(restorer, job, image, None)
        ran = time.process_time()
        encode(restorer, job, computed)
        steps = {"decode_s": read - began, "tile_s": ran - read, "encode_s": time.process_time() - ran}
        times |= {name: times[name] + seconds / IMAGES for name, seconds in steps.items()}
    report = Report("a", str(folder / "a"), 1, 1, 1, 1, (1, 1), 0, 1, False, 0, 0.0, restorer.description, ())
    results = ResultsFile(folder, Recipe.of(restorer, options))
    times["plan_bytes"] = kept
    times["record_s"] = _cpu(lambda: results.append(report), CALLS)
    results.close()
    return times


def _of_a_picture(folder: Path, manifest: Manifest) -> dict[str, float]:
    file, megapixels = folder / "large.tif", LARGE * LARGE / 1e6
    write(file, Picture(np.tile(noisy(1024, 1024, 0), (LARGE // 1024, LARGE // 1024, 1))))
    with ExitStack() as files:
        began = time.process_time()
        picture = streaming.read(file, folder, files)
        decoded = time.process_time() - began
        began = time.process_time()
        streaming.write(folder / "result.tif", picture, folder)
        encoded = time.process_time() - began
        blended, written = _blending(folder, manifest, picture)
    return {
        "decode_s_per_megapixel": decoded / megapixels,
        "encode_s_per_megapixel": encoded / megapixels,
        "blend_s": blended,
        "part_write_s": written,
    }


def _blending(folder: Path, manifest: Manifest, picture: Any) -> tuple[float, float]:
    """Return the CPU time per tile of the driver that blends, and of a worker that writes its part file."""
    request = make_request(manifest, picture.pixels)
    choice = choose(manifest, LARGE, LARGE, tile=256, overlap=32)
    count = len(choice.plan.tiles)
    tile = np.random.default_rng(0).random((3, 256, 256), np.float32)
    began = time.process_time()
    part = write_part(folder, 0, (tile for _ in range(64)))
    written = (time.process_time() - began) / 64

    class Kept:
        """A session whose tiles are in a part file already."""

        description = "kept"
        manifest: Any

        def run(self, *_: Any) -> Any:
            raise NotImplementedError

        def kept_tiles(self, *_: Any) -> Iterator[Any]:
            for number in range(count):
                yield read_tile(folder, part, number % 64)

    session = Kept()
    session.manifest = manifest
    target = JobFolder(folder / "blended.tif", {}, (LARGE, LARGE, 3), np.dtype(np.uint8), 1)
    began = time.process_time()
    restore_tiles(session, request, target, choice, None, checkpoint=target)
    blended = (time.process_time() - began) / count
    target.remove()
    target.close()
    return blended, written


def _of_ray(model: Path) -> dict[str, float]:
    with connected(LOCAL):
        began = time.perf_counter()
        with opened(model, LOCAL, print, workers=1) as (_, workers):
            started = time.perf_counter()
            calls = [workers.submit("check") for _ in range(CALLS)]
            for call in calls:
                call.result()
            called = time.perf_counter()
    return {"call_s": (called - started) / CALLS, "worker_start_s": started - began}
