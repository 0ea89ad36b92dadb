"""Folders of images: decoding, computing and encoding overlapped, against one after the other.

Both ways run in one process on the same files, in turn, round by round. CPU use is the process's time on all cores over
the time that passed, so it means something on an idle machine only. The sum of the times in which the model computed is
what a folder would take if decoding, encoding and everything else cost nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
from keygraph.runtime.device.processor import usable_cores
from keygraph.runtime.io import images
from keygraph.runtime.io.image_folders import read_folder
from keygraph.runtime.io.images import Picture
from keygraph.runtime.reports import Report
from keygraph.runtime.restore_files import run_jobs
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.restore_plan import plan_jobs
from keygraph.runtime.restorer import Restorer
from timing import features

CHECKPOINT = Path(__file__).parents[1] / "examples" / "kgt-denoise-tiny.ckpt"

#: Name -> number of images, height, width, and what is promised.
CASES = {
    "photos": (60, 864, 1152, "CPU use above 95 %"),
    "small": (200, 96, 96, "at most 1.1 times the sum of the session's times"),
}

#: Name -> threads that decode and encode, as `run_jobs` takes them.
WAYS = {"in turn": 0, "overlapped": None}


def noisy(height: int, width: int, seed: int) -> np.ndarray[Any, Any]:
    """Return a smooth image with noise of sigma 25, which a PNG compresses as badly as a noisy photograph.

    Parameters
    ----------
    height, width
        Size in pixels.
    seed
        Of the noise.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 3, height)[:, None, None], np.linspace(0, 4, width)[:, None]
    clean = 128 + 90 * np.sin(rows + columns + random.uniform(0, 6, 3))
    return np.clip(clean + random.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)


def measure(restorer: Restorer, folder: Path, target: Path, threads: int | None) -> dict[str, float]:
    """Restore a folder, and return times in seconds.

    Parameters
    ----------
    restorer
        The model.
    folder, target
        The images, and where their results go.
    threads
        As for `run_jobs`.
    """
    jobs = plan_jobs(restorer, read_folder(folder).images, {}, target, RestoreOptions(), into_folder=True).jobs
    wall, processor = time.perf_counter(), time.process_time()
    reports = list(run_jobs(restorer, jobs, fail_fast=True, threads=threads))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    computing = sum(report.seconds for report in reports if isinstance(report, Report))
    return {
        "seconds": wall,
        "processor_seconds": processor,
        "computing_seconds": computing,
        "cpu_use": processor / wall / usable_cores(),
        "over_computing": wall / computing,
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported file; without one, the demo's checkpoint is exported")
    parser.add_argument("--case", choices=CASES, action="append", help="by default all")
    parser.add_argument("--images", type=int, help="another number of images")
    parser.add_argument("--suffix", default=".png", help="format of the images")
    parser.add_argument("--threads", type=int, help="threads per operator, as for `keygraph restore`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "folders.json")
    arguments = parser.parse_args()

    report: dict[str, Any] = {"machine": features(usable_cores()), "suffix": arguments.suffix, "cases": {}}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = arguments.model
        if model is None:
            from keygraph.export import export
            from keygraph.models import load_checkpoint

            model = place / "model.onnx"
            export(load_checkpoint(CHECKPOINT), model, verification=False)
        restorer = keygraph.load(model, threads=arguments.threads)
        for case in arguments.case or CASES:
            count, height, width, promise = CASES[case]
            folder = place / case
            folder.mkdir()
            for index in range(arguments.images or count):
                picture = Picture(noisy(height, width, index))
                images.write(folder / f"{index:03}{arguments.suffix}", picture)
            restorer.restore(noisy(height, width, 0))  # The first run allocates.
            rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for index in range(arguments.rounds):
                for way, threads in WAYS.items():
                    rounds[way].append(measure(restorer, folder, place / f"{case} {way} {index}", threads))
            report["cases"][case] = {"height": height, "width": width, "promise": promise, "rounds": rounds}
            print(f"{case}: {arguments.images or count} of {width} x {height}; promised: {promise}")
            for way, measured in rounds.items():
                middle = sorted(measured, key=lambda one: one["seconds"])[len(measured) // 2]
                print(
                    f"  {way:11} {middle['seconds']:7.2f} s, {middle['processor_seconds']:7.2f} s of the processor "
                    f"({middle['cpu_use']:.1%} of {usable_cores()} cores), "
                    f"{middle['over_computing']:.3f} times the sum of the session's times"
                )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(arguments.output)


if __name__ == "__main__":
    main()
