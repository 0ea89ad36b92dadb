"""What is said about how an image is restored, and the choice of less memory where it ran out."""

from __future__ import annotations

from ..errors import InputError
from ..manifest import Manifest
from .errors import SessionMemoryError
from .tiling.tile_size import TileChoice, smaller


def smaller_choice(
    manifest: Manifest, height: int, width: int, choice: TileChoice, error: SessionMemoryError | MemoryError
) -> tuple[TileChoice, str]:
    """Return a choice that needs less memory, and the notice about it.

    Parameters
    ----------
    manifest
        The model's manifest.
    height, width
        Size of the image in pixels.
    choice
        What did not fit.
    error
        How that was noticed.

    Raises
    ------
    InputError
        There is no smaller one.
    """
    said = str(error) if isinstance(error, SessionMemoryError) else out_of_memory(error)
    less = smaller(manifest, height, width, choice)
    tile = " x ".join(map(str, choice.tile))
    if less is None:
        advice = "free memory, or use a machine with more" if choice.automatic else "choose a smaller tile, or auto"
        raise InputError(f"{said} with tiles of {tile} one by one; {advice}") from error
    if less.batch < choice.batch:
        return less, f"{said} with {choice.batch} tiles of {tile} together: went on with {less.batch}"
    return less, f"{said} with tiles of {tile}: went on with tiles of {' x '.join(map(str, less.tile))}"


def out_of_memory(error: MemoryError) -> str:
    """Return a `MemoryError` of NumPy or Python in words."""
    return f"out of memory ({error})" if str(error) else "out of memory"


def k_notices(manifest: Manifest, k: int | None) -> list[str]:
    """Return a notice where k is outside the range that the model was trained with."""
    trained = manifest.neighbours.trained if manifest.neighbours else ()
    if k is None or not trained or min(trained) <= k <= max(trained):
        return []
    known = f"{min(trained)} to {max(trained)}" if len(set(trained)) > 1 else f"{trained[0]}"
    return [f"k is {k}, but the model was trained with {known}: the quality is unknown there"]


def tile_notices(manifest: Manifest, choice: TileChoice) -> list[str]:
    """Return notices about what blended tiles change."""
    if choice.plan.count == 1:
        return []
    notices = []
    if manifest.global_statistics:
        measured = manifest.statistics.tilings if manifest.statistics is not None else ()
        nearest = min(measured, key=lambda tiling: abs(tiling.tile - max(choice.tile)), default=None)
        cost = f" (tiles of {nearest.tile}: {nearest.psnr:.0f} dB, as measured at export)" if nearest else ""
        notices.append(f"this model takes statistics over the whole image: tiles change its result{cost}")
    if choice.overlap == 0:
        notices.append("tiles do not overlap: seams are possible")
    return notices
