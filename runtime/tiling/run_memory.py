"""Measure the memory that runs of a session take, for a budget that its calls share."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from ...errors import KeygraphError
from ..backends.base import Session, image_inputs, resolve_k
from ..device import memory
from ..preprocess.padding import round_up

#: Memory to allow for a run, by what was measured: how much large runs, and runs of several threads at a time, differ
#: (benchmarks/run_memory.py).
_ALLOWED = 1.35

#: Least side of the larger of the two runs, in pixels.
_SIDE = 64

_log = logging.getLogger(__name__)


def measured_bytes_per_pixel(session: Session) -> float | None:
    """Return the memory to allow for each pixel of a run, batch included, from two small runs.

    Run nothing else meanwhile: the growth of the process is measured.

    Returns
    -------
    float | None
        None where the system does not report memory, or the session cannot run.
    """
    manifest = session.manifest
    generator = np.random.default_rng(0)
    k = resolve_k(manifest, None)

    def grown(shape: Sequence[int]) -> int | None:
        batch, height, width = shape
        images, *extras = (
            generator.random((batch, given.channels, height + given.margin[0], width + given.margin[1]), np.float32)
            for given in image_inputs(manifest)
        )
        return memory.growth(lambda: session.run(images, k, *extras))

    try:
        if manifest.shape is not None:
            shapes: list[Sequence[int]] = [manifest.shape]
        elif manifest.profiles:
            profile = manifest.profiles[0]
            shapes = [(profile.batch[1], profile.height[1], profile.width[1])]
        else:
            least = manifest.least_side
            large = round_up(max(_SIDE, 2 * least), manifest.size_multiple)
            shapes = [(1, least, least), (1, large, large)]
        growths = [grown(shape) for shape in shapes]
    except KeygraphError as error:
        _log.debug("the memory of a run cannot be measured: %s", error)
        return None
    total = 0
    for growth in growths:
        if growth is None:
            return None
        total += growth  # Engines keep what the first run took, and take the rest in the second.
    return _ALLOWED * total / math.prod(shapes[-1])
