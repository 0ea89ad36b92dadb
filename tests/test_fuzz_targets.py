"""The fuzzer's targets on the files from which it starts, without Atheris: see tests/fuzz/README.md."""

from __future__ import annotations

import pytest
from fuzz import make_corpus, targets


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_runs_on_its_corpus(name: str) -> None:
    """Some of the files are read, and the others are refused with one line."""
    results = [targets.run(targets.TARGETS[name], data) for data in make_corpus.CORPORA[name]()]
    assert 0 < sum(results) < len(results)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_refuses_noise(name: str) -> None:
    for data in (b"", b"noise" * 40, bytes(200), b"\x80\x02.", b"{}", b"[" * 5000):
        assert not targets.run(targets.TARGETS[name], data)
