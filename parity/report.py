"""Former name of `output.report`, kept because the documentation named `keygraph.parity.report.write_report`."""

from __future__ import annotations

from typing import Any

from ..runtime.former_names import former_name


def __getattr__(name: str) -> Any:
    return former_name(__name__, name, f"{__package__}.output.report", name)
