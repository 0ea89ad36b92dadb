"""Errors that running a model can raise, and the check that its output is finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import KeygraphError


class SessionMemoryError(KeygraphError):
    """A session ran out of memory; raised only for genuine out-of-memory failures."""


class ClosedError(KeygraphError):
    """A model was used after it had been closed."""

    def __init__(self, message: str = "this model has been closed; load it again") -> None:
        super().__init__(message)


class NotFiniteError(KeygraphError):
    """A model's output contains NaN or infinity; the message says where."""


def require_finite(values: NDArray[Any], where: str) -> None:
    """Check that a model's output is finite.

    Parameters
    ----------
    values
        Array of any shape and any real dtype.
    where
        Location for the message, for instance ``"in the tile at row 0, column 64"``.

    Raises
    ------
    NotFiniteError
        A value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NotFiniteError(
            f"the model gave NaN or infinity {where}; "
            "look for the cause with: keygraph compare MODEL CHECKPOINT --inputs IMAGE"
        )
