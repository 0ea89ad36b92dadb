"""The largest image that is restored without tiles."""

from __future__ import annotations

from ...manifest import Manifest
from ..backends.base import Session
from ..device import memory
from .tile_size import WHOLE_PIXELS

#: Share of the free memory that one run may use. The estimate of its use is accurate to about 25 %, and other programs
#: need memory as well.
SHARE = 0.6

#: Larger than the number of pixels of any image.
NO_LIMIT = 2**62


def whole_pixels(manifest: Manifest, session: Session) -> int:
    """Return the number of pixels up to which images are restored whole.

    Tiles change the result of a model with global statistics, so its images are restored whole while they fit into
    memory. On a CPU the limit is computed in advance, because the operating system kills a process that uses too much
    memory. A GPU reports that it is out of memory, so there a whole image is tried.

    Parameters
    ----------
    manifest
        The model's manifest.
    session
        The session that restores the images.
    """
    if not manifest.global_statistics:
        return WHOLE_PIXELS
    device = getattr(session, "device", None)
    if device is not None and device.kind != "cpu":
        return NO_LIMIT
    free = memory.available()
    if manifest.statistics is None or manifest.statistics.memory is None or free is None:
        return WHOLE_PIXELS
    return max(WHOLE_PIXELS, int(SHARE * free / manifest.statistics.memory))
