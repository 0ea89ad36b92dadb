"""Attempts after a builder's failure, and the messages about them."""

from __future__ import annotations

import pytest
from keygraph.engines.fallbacks import Attempt, BuilderError, build_with_fallbacks
from keygraph.engines.options import Options

OPTIONS = Options((), None, workspace=1 << 30)


class Builder:
    """Fails once for each of its reasons, and records the attempts."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = list(reasons)
        self.asked: list[Attempt] = []

    def __call__(self, attempt: Attempt) -> str:
        self.asked.append(attempt)
        if self.reasons:
            raise BuilderError(self.reasons.pop(0))
        return "engine"


def test_the_first_attempt_is_what_was_asked_for() -> None:
    builder = Builder()
    assert build_with_fallbacks(OPTIONS, builder, pytest.fail) == ("engine", ())
    assert builder.asked == [Attempt("", 3, 1 << 30)]


def test_every_further_attempt_is_said_and_kept() -> None:
    builder, said = Builder("no tactic", "again none"), list[str]()
    engine, failed = build_with_fallbacks(OPTIONS, builder, said.append)
    assert engine == "engine"
    assert failed == ("as asked: no tactic", "optimization level 2: again none")
    assert [(attempt.optimization, attempt.half_workspace, attempt.all_tactics) for attempt in builder.asked] == [
        (3, False, True),
        (2, False, True),
        (0, True, False),
    ]
    assert said == [
        "the builder failed (as asked: no tactic); trying with optimization level 2",
        "the builder failed (optimization level 2: again none); trying with optimization level 0, half the workspace, "
        "no optional tactics",
    ]


def test_a_low_level_is_not_raised() -> None:
    builder = Builder("no", "no")
    with pytest.raises(BuilderError):
        build_with_fallbacks(Options((), None, optimization=1), builder, lambda _line: None)
    assert [attempt.optimization for attempt in builder.asked] == [1, 0]


def test_the_end_has_the_last_reason_and_advice() -> None:
    builder = Builder("a", "b", "Could not find any implementation for node X")
    with pytest.raises(BuilderError) as caught:
        build_with_fallbacks(OPTIONS, builder, lambda _line: None)
    assert str(caught.value) == (
        "also with optimization level 2 and with optimization level 0, half the workspace, no optional tactics: "
        "Could not find any implementation for node X; try a smaller --tile or --batch, or another version of TensorRT"
    )


def test_what_cannot_help_is_not_tried() -> None:
    builder = Builder("no tactics to implement the operation within workspace limit.")
    with pytest.raises(BuilderError, match="raise or leave out --workspace"):
        build_with_fallbacks(OPTIONS, builder, pytest.fail)
