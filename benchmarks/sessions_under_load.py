"""How ONNX Runtime's threads should wait for work: time and processor time under the loads of folders and services.

The threads of an operator wait for the next one by spinning or by sleeping. A thread that spins starts at once, but
takes a core from everything else: decoding and encoding files, other threads that use the same model, other processes.

One process holds a restorer for each setting, and every round runs each of them once in a new random order, so that a
busy machine slows all alike. Ratios are those to ONNX Runtime's default. Three loads:

- files: small PNG files, restored into PNG files one after the other. `over_session` is the whole time over the least
  sum of session runs of any setting.
- tiles: one photo, in tiles.
- threads: several threads call one restorer with small images.

With `--busy N`, N processes compute beside it at the same priority.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import keygraph
import numpy as np
import onnxruntime
import pyvips
from keygraph.runtime.backends import onnx_providers
from keygraph.runtime.backends import onnxruntime as backend
from keygraph.runtime.restore_files import restore_file
from keygraph.runtime.restorer import Restorer
from pipeline import CHECKPOINT, Timed, photo
from timing import features

#: Setting -> microseconds for which an idle thread spins (-1: ONNX Runtime's default), and further entries of the
#: session's configuration.
SETTINGS: dict[str, tuple[int, dict[str, str]]] = {
    "onnxruntime's default": (-1, {}),
    "no spinning": (onnx_providers.SPIN, {"session.intra_op.allow_spinning": "0"}),
    "stop after a run": (-1, {"session.force_spinning_stop": "1"}),
    "spin for 200 us": (200, {}),
    "keygraph's default": (onnx_providers.SPIN, {}),
}
BASE = "onnxruntime's default"
#: Time after a load in which threads that still spin are counted to it.
_AFTER = 0.01


def opened(model: Path, spin: int, entries: dict[str, str], threads: int | None) -> tuple[Restorer, Timed]:
    """Return a restorer with one of `SETTINGS`, and the timer of its runs.

    Parameters
    ----------
    model
        An exported file.
    spin, entries
        The setting.
    threads
        Threads per operator; None for one per core.
    """

    def options(count: int | None = None) -> onnxruntime.SessionOptions:
        made = onnx_providers.session_options(count)
        for key, value in entries.items():
            made.add_session_config_entry(key, value)
        return made

    with patch.object(onnx_providers, "SPIN", spin), patch.object(backend, "session_options", options):
        session = keygraph.load(model, threads=threads).session
    timed = Timed(session.manifest, session.run)
    return Restorer(timed), timed


def loads(folder: Path, files: int, megapixels: float, callers: int) -> dict[str, Callable[[Restorer], object]]:
    """Return the loads, each as a function of the restorer.

    Parameters
    ----------
    folder
        Where the files are written.
    files
        Number of small images.
    megapixels
        Size of the photo.
    callers
        Threads that call one restorer.
    """
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(files)]
    sources = [folder / f"{number}.png" for number in range(files)]
    for image, source in zip(small, sources, strict=True):
        pyvips.Image.new_from_array(image).write_to_file(str(source))
    large = photo(megapixels)

    def in_threads(restorer: Restorer) -> None:
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(restorer, small))

    return {
        "files": lambda restorer: [restore_file(restorer, file, folder / "restored.png") for file in sources],
        "tiles": lambda restorer: restorer.restore(large, tile=256),
        "threads": in_threads,
    }


def measure(
    restorers: dict[str, tuple[Restorer, Timed]], load: Callable[[Restorer], object], rounds: int
) -> dict[str, dict[str, float]]:
    """Return medians of seconds, processor seconds and session seconds by setting, and ratios to `BASE` by round."""
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in restorers}
    for _ in range(rounds):
        for name in random.sample(list(restorers), len(restorers)):
            restorer, timed = restorers[name]
            time.sleep(_AFTER)
            timed.seconds = 0.0
            wall, processor = time.perf_counter(), time.process_time()
            load(restorer)
            wall = time.perf_counter() - wall
            time.sleep(_AFTER)
            taken[name].append((wall, time.process_time() - processor, timed.seconds))
    sums = {name: statistics.median(session for _, _, session in times) for name, times in taken.items()}
    rows = {}
    for name, times in taken.items():
        wall, processor = (statistics.median(column) for column in list(zip(*times, strict=True))[:2])
        ratios = [
            statistics.median(one[column] / base[column] for one, base in zip(times, taken[BASE], strict=True))
            for column in (0, 1)
        ]
        rows[name] = {
            "seconds": wall,
            "processor_seconds": processor,
            "session_seconds": sums[name],
            "ratio": ratios[0],
            "processor_ratio": ratios[1],
            "over_session": wall / min(sums.values()),
        }
    return rows


def _compute() -> None:
    while True:
        np.ones((64, 64)) @ np.ones((64, 64))


@contextmanager
def busy(processes: int) -> Any:
    """Run processes that compute all the time."""
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=_compute, daemon=True) for _ in range(processes)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        for process in running:
            process.terminate()


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported file; without one, the demo's checkpoint is exported")
    parser.add_argument("--threads", type=int, help="threads per operator; by default one per core")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--megapixels", type=float, default=1)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes that compute at the same time")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "sessions_under_load.json")
    arguments = parser.parse_args()

    report: dict[str, Any] = {"machine": features(arguments.threads or 0), "busy": arguments.busy, "loads": {}}
    with tempfile.TemporaryDirectory() as name, busy(arguments.busy):
        model = arguments.model
        if model is None:
            from keygraph.export import export
            from keygraph.models import load_checkpoint

            model = Path(name) / "model.onnx"
            export(load_checkpoint(CHECKPOINT), model, verification=False)
        restorers = {key: opened(model, *setting, arguments.threads) for key, setting in SETTINGS.items()}
        for restorer, _ in restorers.values():
            restorer(np.zeros((96, 96, 3), np.uint8))
        for key, load in loads(Path(name), arguments.files, arguments.megapixels, arguments.callers).items():
            rows = report["loads"][key] = measure(restorers, load, arguments.rounds)
            print(f"\n{key:34s}{'s':>8s}{'CPU s':>8s}{'ratio':>8s}{'CPU':>8s}{'/session':>10s}")
            for setting, row in rows.items():
                print(
                    f"  {setting:32s}{row['seconds']:8.2f}{row['processor_seconds']:8.2f}{row['ratio']:8.3f}"
                    f"{row['processor_ratio']:8.3f}{row['over_session']:10.3f}",
                    flush=True,
                )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    main()
