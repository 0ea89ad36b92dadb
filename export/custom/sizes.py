"""Find the sizes that a module takes, by running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import InputError
from .trial import ResultError, Trial

#: Sides that are tried until one runs. A window or stride of up to 64, or a small multiple of 3, 5 or 7, divides one.
FIRST_SIDES = (64, 96, 112, 128, 160, 192, 224, 256)

#: Size multiples that are tried, in this order.
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 3, 6, 12, 24, 48, 96, 5, 10, 20, 40, 7, 14, 28, 56)

#: Least side, in pixels, of the images on which a size multiple is tried.
_TRIED = 32


@dataclass(frozen=True)
class Sizes:
    """The sizes that a module takes.

    Attributes
    ----------
    multiple
        Height and width are multiples of this.
    smallest
        Least height and width, a multiple of `multiple`.
    """

    multiple: int
    smallest: int


def find_sizes(trial: Trial, channels: int, scale: int, given: int | None = None) -> Sizes:
    """Find the smallest size multiple with which a module runs, and its least size.

    Each multiple is tried with three images whose sides have no common factor but the multiple, so that one that only
    suits them by chance is not taken.

    Parameters
    ----------
    trial
        The module.
    channels, scale
        Of its images.
    given
        The multiple that the user says; None to find it.

    Raises
    ------
    InputError
        The module runs with no multiple, or not with the given one.
    """

    def error(height: int, width: int) -> InputError | None:
        try:
            result = trial.run(trial.image(1, channels, height, width))
        except ResultError:
            raise
        except InputError as failed:
            return failed
        if tuple(result.shape[2:]) != (height * scale, width * scale):
            got = " x ".join(map(str, result.shape[2:]))
            return InputError(f"{trial.name} returns {got} for {height} x {width} pixels")
        if not bool(result.isfinite().all()):
            return InputError(f"{trial.name} returns values that are not finite for {height} x {width} pixels")
        return None

    def failed(multiple: int) -> InputError | None:
        return next((found for size in shapes(multiple) if (found := error(*size)) is not None), None)

    if given is not None:
        reason = failed(given)
        if reason is not None:
            raise InputError(f"--size-multiple {given} does not hold: {reason}")
        multiple = given
    else:
        taken = next((multiple for multiple in MULTIPLES if failed(multiple) is None), None)
        if taken is None:
            raise InputError(
                f"{trial.name} runs with some sizes, but with no size multiple of: {', '.join(map(str, MULTIPLES))} "
                f"(with the last: {failed(MULTIPLES[-1])}); give its own with --size-multiple, or export one size with "
                "--shape, for instance --shape 1x256x256"
            )
        multiple = taken
    least = _least(lambda side: error(side, side) is None, multiple)
    return Sizes(multiple, least)


def shapes(multiple: int, smallest: int = 1) -> list[tuple[int, int]]:
    """Return three sizes (H, W) that have no common factor but `multiple`, none of them square.

    Parameters
    ----------
    multiple
        Height and width are multiples of this.
    smallest
        Least height and width.
    """
    units = max(1, -(-max(_TRIED, smallest) // multiple)) | 1  # Odd.
    a, b, c = (multiple * (units + more) for more in (0, 2, 4))
    return [(a, b), (b, a), (c, a)]


def _least(runs: Callable[[int], bool], multiple: int) -> int:
    """Return the least side that runs, with all sides tried above it, in steps of the multiple."""
    units = max(1, -(-_TRIED // multiple))
    good = units + 1
    low = units
    while low >= 1 and runs(low * multiple):
        good, low = low, low // 2
    # Between a side that fails and one that runs, all are tried from above: the first that fails is the limit.
    for side in range(good - 1, low, -1):
        if not runs(side * multiple):
            break
        good = side
    return good * multiple
