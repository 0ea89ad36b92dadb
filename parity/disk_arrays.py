"""Arrays on disk, so that a comparison of many images needs memory for those that are in work."""

from __future__ import annotations

import tempfile
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Array = TypeVar("Array", bound=NDArray[Any])


def on_disk(values: Array) -> Array:
    """Return the same array, mapped from an unnamed temporary file that lasts as long as the array.

    The system keeps in memory what fits and is in use. Changes of the result stay in memory.

    Raises
    ------
    InputError
        There is no room in the folder for temporary files.
    """
    try:
        with tempfile.TemporaryFile() as file:
            # Written before it is mapped: a page that a full disk cannot take ends the process.
            np.ascontiguousarray(values).tofile(file)
            file.flush()
            mapped: Any = np.memmap(file, values.dtype, "c", shape=values.shape)
    except OSError as error:
        raise InputError(
            f"cannot keep the images of the comparison in {tempfile.gettempdir()} ({error.strerror or error}); "
            "make room there, name another folder in the environment variable TMPDIR, or compare fewer images at once"
        ) from error
    return cast(Array, np.asarray(mapped))
