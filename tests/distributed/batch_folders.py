"""Folders of images, and what must be equal in the results of `restore` and `batch`."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from keygraph.cli import main
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from keygraph.runtime.results_file import RESULTS_FILE


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        pixels = noise(24 + 8 * (number % 3), 40, number)
        images.write(folder / f"{number:03d}.png", Picture(pixels))


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, hidden ones included, without the record."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RESULTS_FILE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS_FILE).read_text().splitlines()]


def comparable(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a folder without what differs between runs: times, and the folder itself."""
    lines = {}
    for line in records(folder):
        states = line.get("written", [])
        line |= {"seconds": 0, "target": "", "written": [state["bytes"] for state in states]}
        lines[line["source"]] = line
    return lines


def each_once(folder: Path) -> bool:
    return set(Counter(line["name"] for line in records(folder) if "name" in line).values()) == {1}


def workers(of: psutil.Process) -> list[psutil.Process]:
    """Return the processes of the workers that a driver's Ray has started."""
    return [process for process in of.children(recursive=True) if _title(process).startswith("ray::Worker")]


def _title(process: psutil.Process) -> str:
    try:
        return str((process.cmdline() or [""])[0])
    except psutil.Error:  # It has ended.
        return ""


@contextmanager
def killing(folder: Path, after: list[int], of: psutil.Process) -> Iterator[list[int]]:
    """Kill a worker each time so many results are recorded; yield the list of those killed."""
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        for count in after:
            while not ended.wait(0.01):
                if (folder / RESULTS_FILE).exists() and len((folder / RESULTS_FILE).read_bytes().splitlines()) >= count:
                    break
            alive = [one for one in workers(of) if one.pid not in killed]
            if ended.is_set() or not alive:
                return
            os.kill(alive[len(killed) % len(alive)].pid, signal.SIGKILL)
            killed.append(alive[len(killed) % len(alive)].pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()
