"""``python -m keygraph`` is the command ``keygraph``, with its exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [
        (["--version"], 0, "keygraph "),
        (["absent"], 2, "error: No such command 'absent'"),
        (["inspect", "absent.onnx"], 2, "error: absent.onnx does not exist"),
    ],
)
def test_python_m(arguments: list[str], code: int, output: str) -> None:
    done = subprocess.run([sys.executable, "-m", "keygraph", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert output in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
