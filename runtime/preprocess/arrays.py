"""What users pass as an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError


def as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return an array, a nested list, or a tensor of another package that NumPy can read, as an array.

    Parameters
    ----------
    values
        What the user gave.
    name
        Its name, for the message.

    Raises
    ------
    InputError
        NumPy cannot read it: a tensor on a GPU, in bfloat16, or that requires grad; lists of different lengths. Or it
        has a mask, which would be lost.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"the {name} is a masked array, and its mask would be lost; give {name}.filled(...)")
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        kind = type(values)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the {name} is a {kind.__module__}.{kind.__qualname__} that NumPy cannot read ({reason[0].rstrip('.')}); "
            "give a NumPy array, which tensor.detach().float().cpu().numpy() makes of a PyTorch tensor"
        ) from error
