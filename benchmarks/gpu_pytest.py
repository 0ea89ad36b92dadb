"""A pytest plugin that writes results while the tests run, so that a time limit loses none.

    pytest -p gpu_pytest --gpu-json FILE

The file has the numbers of `passed`, `failed` and `skipped` tests, the messages of failures and the reasons of skips.

A kernel with an invalid memory access makes the GPU unusable for its process, and every later test there fails.
Therefore a worker of pytest-xdist ends after such a test, which then counts as failed once more, and is replaced.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gpu_lost import is_lost

#: Characters of a failure's message that are kept, and failures.
_MESSAGE, _FAILURES = 2000, 60
#: Seconds between two writings.
_PAUSE = 1.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option --gpu-json."""
    parser.addoption("--gpu-json", type=Path, help="write the results here while the tests run")


def pytest_configure(config: pytest.Config) -> None:
    """Register what writes the results, or what ends a worker that has lost the GPU."""
    path: Path | None = config.getoption("--gpu-json")
    # Workers of pytest-xdist send their reports to the process that started them.
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_Worker())
    elif path is not None:
        config.pluginmanager.register(_Results(path))


class _Worker:
    def __init__(self) -> None:
        self._failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        if self._failed and is_lost():
            os._exit(1)  # Nothing that ends in order could still use the GPU.
        self._failed = False


class _Results:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self._skipped: Counter[str] = Counter()
        self._slowest: list[tuple[float, str]] = []
        self._written = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._slowest = sorted([*self._slowest, (round(report.duration, 2), report.nodeid)], reverse=True)[:10]
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            self._counts["failed"] += 1
            if len(self._failures) < _FAILURES:
                self._failures[f"{report.nodeid} ({report.when})"] = report.longreprtext[-_MESSAGE:]
        elif report.skipped:
            self._counts["skipped"] += 1
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self._skipped[str(reason).removeprefix("Skipped: ")] += 1
        elif report.when == "call":
            self._counts["passed"] += 1
        if time.monotonic() - self._written > _PAUSE:
            self._write()

    def pytest_sessionfinish(self) -> None:
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        names = ("passed", "failed", "skipped")
        rows = [[str(self._counts[name]) for name in names]]
        for name, message in self._failures.items():
            rows.append([name, (message.strip().splitlines() or [""])[-1], ""])
        values: dict[str, Any] = {name: self._counts[name] for name in names}
        values |= {"failures": self._failures, "why skipped": self._skipped, "slowest": self._slowest}
        values["tables"] = [{"title": "tests", "header": list(names), "rows": rows}]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(values, indent=1))
        os.replace(temporary, self._path)
