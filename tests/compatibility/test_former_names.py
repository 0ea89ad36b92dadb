"""Names that the documentation gave before modules moved still work, and say where to find the new ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
from keygraph.parity.output import report
from keygraph.runtime.backends import engine_metadata
from keygraph.runtime.io import cubes


@pytest.mark.parametrize(
    ("statement", "expected", "new"),
    [
        ("from keygraph.runtime import cubes as name", cubes, "keygraph.runtime.io.cubes"),
        (
            "from keygraph.runtime.sidecar import check as name",
            engine_metadata.check,
            "keygraph.runtime.backends.engine_metadata.check",
        ),
        (
            "from keygraph.runtime import sidecar; name = sidecar.Here",
            engine_metadata.LoadEnvironment,
            "keygraph.runtime.backends.engine_metadata.LoadEnvironment",
        ),
        (
            "from keygraph.parity.report import write_report as name",
            report.write_report,
            "keygraph.parity.output.report.write_report",
        ),
    ],
)
def test_a_former_name_warns_and_works(statement: str, expected: object, new: str) -> None:
    found: dict[str, object] = {}
    with pytest.warns(DeprecationWarning, match=f"is now {new}$"):
        exec(statement, found)
    assert found["name"] is expected


def test_the_warning_shows_the_line_of_the_user() -> None:
    code = "from keygraph.runtime import cubes\nfrom keygraph.runtime.sidecar import check"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "<string>:1: DeprecationWarning: keygraph.runtime.cubes is now keygraph.runtime.io.cubes" in shown
    assert "<string>:2: DeprecationWarning: keygraph.runtime.sidecar.check is now" in shown


@pytest.mark.parametrize(
    "statement",
    [
        "from keygraph.runtime import absent",
        "from keygraph.runtime.sidecar import _gpu",
        "from keygraph.parity.report import absent",
    ],
)
def test_a_name_that_never_was_is_no_attribute(statement: str) -> None:
    with pytest.raises(ImportError, match="cannot import name"):
        exec(statement)
