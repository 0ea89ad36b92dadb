"""Import OpenVINO without its telemetry, which has no setting of its own but a file in the user's home."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TELEMETRY = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Hide the package openvino-telemetry while OpenVINO is imported in the block.

    OpenVINO imports it if it is installed, makes a client id in the user's home, and sends events for every process and
    every model. Without the package it uses a stub. There is no effect where OpenVINO was imported before.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say that there is none.
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
