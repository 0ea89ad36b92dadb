"""Measure Ray Data for work like that of `keygraph batch`: when the driver learns of results, and what deaths cost.

    .venv/bin/python benchmarks/ray_data.py

Pieces of work of 0.1 s in an actor pool of 2, in blocks of 10 pieces and of 1. Prints for each: seconds from the end of
a piece to the driver's knowledge of it; pieces done twice after a worker was killed; and what becomes of 59 pieces when
one kills its worker each time. A killed driver loses what it does not know of.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data
from keygraph.distributed.cluster import LOCAL, connected

PIECES = 60
POISON = 17


class Work:
    """An actor of Ray Data's pool."""

    def __init__(self, log: str) -> None:
        self._log = log

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.1)
        if row["poison"]:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self._log, "a", encoding="ascii") as log:
            log.write(f"{row['id']}\n")
        return {**row, "done": time.time(), "worker": os.getpid()}


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in the block after so many seconds."""

    def end(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def measure(blocks: int, *, kill: bool, poison: bool, limit: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        rows = [{"id": one, "poison": poison and one == POISON} for one in range(PIECES)]
        data: Any = ray.data.from_items(rows, override_num_blocks=blocks)
        pool = ray.data.ActorPoolStrategy(size=2)
        data = data.map(Work, fn_constructor_args=(str(log),), compute=pool, num_cpus=0.5)
        began, lags, killed = time.time(), list[float](), False
        with contextlib.suppress(TimeoutError), time_limit(limit):
            for row in data.iter_rows():
                lags.append(time.time() - row["done"])
                if kill and not killed and len(lags) > PIECES // 4:
                    killed = True
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(row["worker"], signal.SIGKILL)
        done = Counter(log.read_text().split())
    return {
        "pieces in a block": PIECES // blocks,
        "a worker is killed": kill,
        "a piece kills its workers": poison,
        "pieces that the driver got": len(lags),
        "median lag, s": round(statistics.median(lags), 2),
        "longest lag, s": round(max(lags), 2),
        "done twice": sum(count - 1 for count in done.values()),
        "seconds": round(time.time() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100, help="seconds after which one is given up")
    limit = parser.parse_args().limit
    with connected(LOCAL):
        ray.data.DataContext.get_current().enable_progress_bars = False
        for blocks in (PIECES // 10, PIECES):
            for kill in (False, True):
                print(json.dumps(measure(blocks, kill=kill, poison=False, limit=limit)), flush=True)
        print(json.dumps(measure(PIECES, kill=False, poison=True, limit=limit)), flush=True)


if __name__ == "__main__":
    main()
