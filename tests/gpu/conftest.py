"""Tests that need an NVIDIA GPU and are skipped without one; they share the operators' cases with tests/plugins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "plugins"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
