"""The program that runs the C++ runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from restore_stream import SOURCE, compile_program


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiled: Path = compile_program(SOURCE, tmp_path_factory.mktemp("cpp") / "restore_stream")
    return compiled
