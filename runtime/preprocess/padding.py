"""Padding by reflection at the bottom and the right edge, up to the sizes that a model takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def round_up(length: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `length`."""
    return -(-length // multiple) * multiple


def reflected(length: int, padded: int) -> NDArray[np.intp]:
    """Return which source position each position of a padded axis shows.

    Reflection does not repeat the edge: 0 1 2 | 1 0 1 2 ... It continues as far as needed, so that an axis may be
    padded to many times its length; an axis of one pixel is repeated.

    Parameters
    ----------
    length
        Size of the axis, at least 1.
    padded
        Size after padding, at least `length`.

    Returns
    -------
    intp[padded], values in [0, length).
    """
    period = max(2 * (length - 1), 1)
    position = np.arange(padded) % period
    return np.minimum(position, period - position) if length > 1 else np.zeros(padded, dtype=np.intp)
