"""Interleaved measurements. No test asserts a time."""

from __future__ import annotations

import pytest
from keygraph.bench.timing import cpu_times


def test_the_slow_run_in_a_few_rounds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now, count = [0.0], {"quick": 0, "slow": 0}
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda _seconds: None)

    def call(name: str, seconds: float) -> None:
        now[0] += seconds
        count[name] += 1

    found = cpu_times({"quick": lambda: call("quick", 0.001), "slow": lambda: call("slow", 0.5)}, 10)
    assert found == {"quick": pytest.approx(1.0), "slow": pytest.approx(500.0)}
    assert count == {"quick": 10, "slow": 3}
