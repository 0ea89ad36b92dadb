"""Peak memory of runs of a session against the estimate for a memory budget, each case in its own process.

A case is a tile and a number of threads, which each run the session four times: the second run of a size may take more
than the first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
from keygraph.runtime.backends.base import image_inputs, resolve_k
from keygraph.runtime.device import memory
from keygraph.runtime.tiling.run_memory import measured_bytes_per_pixel

#: Runs of each thread.
_RUNS = 4


def estimate(model: Path) -> float | None:
    """Return the bytes per pixel that a budget allows for, as a new process measures them."""
    return measured_bytes_per_pixel(keygraph.load(model, threads=1).session)


def peak(model: Path, tile: int, threads: int) -> float | None:
    """Return the bytes per pixel by which this process grew at its peak.

    Parameters
    ----------
    model
        An exported file.
    tile
        Side of an image in pixels.
    threads
        Threads that run the session at the same time.
    """
    session = keygraph.load(model, threads=1).session
    manifest = session.manifest
    generator = np.random.default_rng(0)
    images, *extras = (
        generator.random((1, given.channels, tile + given.margin[0], tile + given.margin[1]), np.float32)
        for given in image_inputs(manifest)
    )
    k = resolve_k(manifest, None)

    def runs() -> None:
        for _ in range(_RUNS):
            session.run(images, k, *extras)

    def all_threads() -> None:
        started = [threading.Thread(target=runs) for _ in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    grown = memory.growth(all_threads)
    return None if grown is None else grown / (threads * tile**2)


def _in_new_process(*words: object) -> Any:
    line = [sys.executable, __file__, *map(str, words)]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+", help="exported files")
    parser.add_argument("--tiles", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        model = given.models[0]
        print(json.dumps(peak(model, given.tiles[0], given.threads[0]) if given.tiles[0] else estimate(model)))
        return
    for model in given.models:
        allowed = _in_new_process("--child", model, "--tiles", 0)
        for tile in given.tiles:
            for threads in given.threads:
                taken = _in_new_process("--child", model, "--tiles", tile, "--threads", threads)
                row = {"model": model.name, "tile": tile, "threads": threads, "bytes_per_pixel": round(taken)}
                print(json.dumps({**row, "allowed": round(allowed), "ratio": round(allowed / taken, 2)}), flush=True)


if __name__ == "__main__":
    main()
