"""Memory of models: estimated before a run, so that one that does not fit is not tried, and measured."""

from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ..errors import KeygraphError
from ..instrumentation.synthetic import synthetic_inputs
from ..runtime.backends.base import Session, resolve_k
from ..runtime.device import memory
from ..runtime.device.cuda_driver import used_memory
from .configurations import RunConfiguration


class MemoryNeed:
    """Estimates the memory of runs on the CPU, where the system kills a process that takes too much.

    Parameters
    ----------
    tile, k
        Side of the tiles in pixels, and neighbours of each node.
    most
        Largest batch.
    """

    def __init__(self, tile: int, k: int | None, most: int) -> None:
        self._tile, self._k, self._most = tile, k, most
        self._per_pixel: dict[RunConfiguration, float | None] = {}

    def check(self, one: RunConfiguration, session: Session | None, batch: int, held: int = 0) -> None:
        """Check that a run fits into memory.

        Parameters
        ----------
        one
            The configuration.
        session
            Runs it; None where it was estimated before.
        batch
            Tiles that run together.
        held
            Bytes that earlier runs of this configuration keep for the next.

        Raises
        ------
        InputError
            It does not.
        """
        # Compiled for each size that it runs with, so a small run would change what is measured; eager, it takes more.
        key = dataclasses.replace(one, name="", compiled=False)
        if key not in self._per_pixel and session is not None:
            self._per_pixel[key] = None if one.compiled or one.gpu() else self._estimate(session)
        per_pixel = self._per_pixel.get(key)
        if per_pixel is not None:
            need = memory.MARGIN * per_pixel * batch * self._tile**2
            memory.require(int(need) - held, "it", "give a smaller --batch or --tile")

    def _estimate(self, session: Session) -> float | None:
        manifest = session.manifest
        if manifest.shape is not None or manifest.profiles:
            return None  # No small run is possible.
        k = resolve_k(manifest, self._k)

        def run(side: int) -> None:
            images, *extras = synthetic_inputs(manifest, (1, side, side))
            session.run(images, k, *extras)

        return memory.bytes_per_pixel(run, manifest.least_side, self._most * self._tile**2)


def measure_memory(configuration: RunConfiguration, tile: int, batch: int, k: int | None) -> tuple[float, float | None]:
    """Measure the memory of one run, in a process of its own.

    Parameters
    ----------
    configuration
        What runs.
    tile
        Side of the tiles in pixels.
    batch
        Number of tiles that run together.
    k
        Neighbours of each node; None for a model without a key graph.

    Returns
    -------
    tuple
        Peak MiB of the process, and MiB of the GPU that it took; None on the CPU.

    Raises
    ------
    KeygraphError
        The process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_memory, configuration, tile, batch, k).result()
        except BrokenProcessPool as error:
            raise KeygraphError("the process that measured it was killed") from error


def _memory(configuration: RunConfiguration, tile: int, batch: int, k: int | None) -> tuple[float, float | None]:
    """Return the peak MiB of this process, and the MiB of the GPU that it took; None on the CPU."""
    device = configuration.gpu()
    before = 0 if device is None else used_memory(device)
    session = configuration.open()
    images, *extras = synthetic_inputs(session.manifest, (batch, tile, tile))
    session.run(images, k, *extras)
    on_gpu = None if device is None else (used_memory(device) - before) / 2**20
    return _peak_memory(), on_gpu


def _peak_memory() -> float:
    """Return the peak resident MiB of this process; `getrusage` would count its parent's as well."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    raise KeygraphError("this system does not report the peak memory of a process")
