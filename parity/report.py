"""Former name of `output.report`, kept because the documentation named `keygraph.parity.report.write_report`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    from .output import report

    if name.startswith("_") or not hasattr(report, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now {report.__name__}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(report, name)
