"""How many steps an export takes: what its progress bar is as long as."""

from __future__ import annotations

from ..errors import MissingDependencyError
from ..manifest import Manifest
from ..plugins import library
from .calibrate import STATISTICS_TILES
from .verify import verification_cases, verification_contents

#: Tracing, and writing the file.
_WRITING = 2


def count_steps(manifest: Manifest, *, operators: bool, verification: bool, images: int) -> int:
    """Count the lines that an export tells its `progress`, from tracing on.

    Where a file fails verification and is made again, or a precision is searched, it is more.

    Parameters
    ----------
    manifest
        Of the file.
    operators
        Whether it has operators of keygraph.
    verification
        Whether it is verified, and its tiles calibrated.
    images
        Number of calibration images that it is verified on.
    """
    half = manifest.half is not None
    steps = _WRITING + int(half and images > 0)
    if not verification:
        return steps
    runs = len(verification_cases(manifest)) * len(verification_contents(manifest)) + images
    configurations = (1 + _has_library() if operators else 1) + (manifest.precision == "fp16")
    steps += configurations * runs
    if not manifest.global_statistics:
        return steps + 1
    return steps if manifest.shape is not None else steps + len(STATISTICS_TILES) + 2


def _has_library() -> bool:
    try:
        library("onnxruntime")
    except MissingDependencyError:
        return False
    return True
