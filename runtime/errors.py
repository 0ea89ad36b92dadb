"""Checking that what a model gives is finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import KeygraphError


class NotFiniteError(KeygraphError):
    """A model gave NaN or infinity; the message says where."""


def require_finite(values: NDArray[Any], where: str) -> None:
    """Check what a model gave.

    Parameters
    ----------
    values
        Of any shape and real type.
    where
        Where they belong, for the message: ``"in the tile at row 0, column 64"``.

    Raises
    ------
    NotFiniteError
        One of them is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NotFiniteError(
            f"the model gave NaN or infinity {where}; "
            "look for the cause with: keygraph compare MODEL CHECKPOINT --inputs IMAGE"
        )
