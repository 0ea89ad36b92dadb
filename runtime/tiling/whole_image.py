"""How large an image, or a batch of tiles, one run of a model may be so that it fits into memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ...errors import InputError
from ...manifest import Manifest
from ..backends.base import Session, image_inputs
from ..device import memory
from .tile_size import WHOLE_PIXELS, TileChoice, choose, least_chosen, smaller

#: Share of the free memory that one run may use. The estimate of its use is accurate to about 25 %, and other programs
#: need memory as well.
SHARE = 0.6

#: A size that the user gave is refused where even this share of the estimate is more than the free memory.
CERTAIN = 0.75

#: Bytes per pixel assumed for a model whose file does not say. KGTs take 3 to 6 KiB with keygraph's operators, 20 to 45
#: in PyTorch or from the functions in the file; together with `SHARE` this allows for 13 and 46. The released
#: Restormers take 55; they have global statistics.
ASSUMED_BYTES_OPERATORS = 8 << 10
ASSUMED_BYTES = 28 << 10
ASSUMED_BYTES_GLOBAL = 56 << 10

#: Batches whose inputs and results are in host memory at a time, where a GPU computes: two, and the one being cut.
_BATCHES_IN_FLIGHT = 3

#: Larger than the number of pixels of any image.
NO_LIMIT = 2**62


def run_pixels(manifest: Manifest, session: Session, most: int = NO_LIMIT) -> int:
    """Return how many pixels one run may have, batch included, so that it fits into memory.

    On a CPU the limit is computed in advance, because the operating system kills a process that uses too much memory.
    A GPU reports that it is out of memory, so there any size is tried.

    Parameters
    ----------
    manifest
        The model's manifest.
    session
        The session that restores the images.
    most
        Most pixels that a budget allows.
    """
    free = memory.available() if on_cpu(session) else None
    return most if free is None else min(most, int(max(0, free) / run_bytes_per_pixel(manifest, session)))


def pixels_at_a_time(manifest: Manifest, session: Session, choice: TileChoice, planes: int = 1) -> int:
    """Return the number of pixels of what runs at a time.

    Parameters
    ----------
    manifest
        The model's manifest.
    session
        The session that restores the images.
    choice
        The tiles.
    planes
        Images of a tile that run together at least, `Channels.planes`.
    """
    count = choice.plan.count
    tiles = min(max(1, choice.batch // planes), count)
    together = tiles * planes if manifest.shape is None else max(tiles * planes, manifest.shape[0])
    runs = min(runs_at_a_time(session), math.ceil(count / tiles))
    return together * runs * choice.tile[0] * choice.tile[1]


def fitted_to_budget(
    manifest: Manifest,
    size: tuple[int, int],
    choice: TileChoice,
    need: Callable[[TileChoice], int],
    budget: int,
) -> TileChoice:
    """Return a choice that needs at most a budget of memory.

    Parameters
    ----------
    manifest
        The model's manifest.
    size
        Height and width of the image in pixels.
    choice
        The tiles to begin with. Batches are halved, and then tiles that were chosen automatically, down to
        `least_chosen`.
    need
        Returns the bytes that a choice needs in all.
    budget
        Bytes.

    Raises
    ------
    InputError
        There is no such choice; the message has the least budget.
    """
    fitting: TileChoice | None = choice
    while fitting is not None and (bytes_needed := need(fitting)) > budget:
        choice, fitting = fitting, smaller(manifest, *size, fitting)
        least = least_chosen(manifest)
        if fitting is not None and fitting.tile != choice.tile and max(fitting.tile) < least:
            fitting = None
            if not manifest.profiles and max(choice.tile) > least:
                fitting = replace(choose(manifest, *size, tile=least, batch=1), automatic=True)
    if fitting is not None:
        return fitting
    tile = " x ".join(map(str, choice.tile))
    advice = "" if choice.automatic else ", or choose a smaller tile or auto"
    raise InputError(
        f"an image of {size[0]} x {size[1]} in tiles of {tile} needs about {memory.bytes_text(bytes_needed)} of "
        f"memory, and the budget is {memory.bytes_text(budget)}; give --memory {math.ceil(bytes_needed / 2**20)}M (in "
        f"Python: memory=) or more{advice}"
    )


def whole_pixels(manifest: Manifest, session: Session, most: int = NO_LIMIT) -> int:
    """Return the number of pixels up to which images are restored whole, unless `run_pixels` is less.

    Tiles change the result of a model with global statistics, so its images are restored whole while they fit.

    Parameters
    ----------
    manifest
        The model's manifest.
    session
        The session that restores the images.
    most
        As for `run_pixels`.
    """
    if not manifest.global_statistics:
        return WHOLE_PIXELS
    if on_cpu(session) and (_measured(manifest) is None or memory.available() is None):
        return WHOLE_PIXELS
    return run_pixels(manifest, session, most)


def check_fits(manifest: Manifest, session: Session, choice: TileChoice) -> None:
    """Check that a run with a tile that the user gave fits into memory, as far as this can be known.

    Parameters
    ----------
    manifest
        The model's manifest; nothing is checked where it does not say what a run takes.
    session
        The session that restores the images; nothing is checked for a GPU.
    choice
        The tiles.

    Raises
    ------
    InputError
        It does not.
    """
    measured = _measured(manifest)
    if choice.automatic or measured is None or not on_cpu(session):
        return
    runs = min(runs_at_a_time(session), math.ceil(choice.plan.count / choice.batch))
    need = measured * choice.tile[0] * choice.tile[1] * choice.batch * runs
    if (free := memory.available()) is not None and CERTAIN * need > free:
        pixels = f"{runs * choice.batch} x {choice.tile[0]} x {choice.tile[1]} pixels"
        raise InputError(
            f"{pixels} at once need about {memory.bytes_text(need)} of memory, and {memory.bytes_text(free)} are free; "
            "leave tile and batch out, or choose smaller ones"
        )


def runs_at_a_time(session: Session) -> int:
    """Return how many batches of tiles a session computes at a time; a whole image is one run."""
    return getattr(session, "streams", 1)


def on_cpu(session: Session) -> bool:
    """Return whether a session computes in the memory of the host."""
    device = getattr(session, "device", None)
    return device is None or device.kind == "cpu"


def run_bytes_per_pixel(manifest: Manifest, session: Session) -> float:
    """Return the bytes of host memory to allow for each pixel of a run, from what the manifest says."""
    if on_cpu(session):
        return (_measured(manifest) or _assumed(manifest, session)) / SHARE
    return transfer_bytes_per_pixel(manifest)


def transfer_bytes_per_pixel(manifest: Manifest) -> float:
    """Return the bytes of host memory for each pixel of a run without the network's own values: inputs and results."""
    inputs = sum(given.channels for given in image_inputs(manifest))
    return float(_BATCHES_IN_FLIGHT * 4 * (inputs + manifest.out_channels * manifest.scale**2))


def _assumed(manifest: Manifest, session: Session) -> int:
    """Return the bytes per pixel to allow for where they were not measured."""
    if manifest.global_statistics:
        return ASSUMED_BYTES_GLOBAL
    return ASSUMED_BYTES_OPERATORS if getattr(session, "runs_library", False) else ASSUMED_BYTES


def _measured(manifest: Manifest) -> float | None:
    """Return the bytes per pixel of a run, as measured at export; None where they were not."""
    return manifest.statistics.memory if manifest.statistics is not None else None
