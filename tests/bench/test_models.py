"""Measuring models: results are compared with the first. No test asserts a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keygraph.bench.configurations import RunConfiguration
from keygraph.bench.models import Measurement, measure
from keygraph.errors import InputError

ModelFile = Callable[..., Path]
K = {"default": 64, "maximum": 256, "trained": (), "runtime": True}


def test_results_that_differ_are_seen(make_model: ModelFile, tmp_path: Path) -> None:
    first = make_model("add_k", neighbours=K)
    other = make_model("identity", tmp_path / "other.onnx", neighbours={**K, "default": 100, "runtime": False})
    configurations = [
        RunConfiguration("first", str(first), library=None),
        RunConfiguration("other", str(other), library=None),
    ]
    report = measure(configurations, tile=16, batches=[1], k=100, rounds=1, memory=False)
    one, two = report.measurements
    assert isinstance(one, Measurement)
    assert two.psnr == pytest.approx(20, abs=1e-3)  # 0.1 everywhere
    assert np.isfinite(two.milliseconds)
    gray = make_model("identity", tmp_path / "gray.onnx", in_channels=1, out_channels=1)
    configurations[1] = RunConfiguration("gray", str(gray), library=None)
    with pytest.raises(InputError, match="another network"):
        measure(configurations, rounds=1)
