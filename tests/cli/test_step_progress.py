"""The bar of commands that work in steps."""

from __future__ import annotations

import io

from keygraph.cli.output import StepProgress
from rich.console import Console
from rich.progress import Progress


def test_the_bar_counts_what_is_done_once_the_steps_are_planned() -> None:
    with Progress(console=Console(file=io.StringIO(), force_terminal=True)) as bar:
        steps = StepProgress(bar)
        (task,) = bar.tasks
        steps.start("finding the size multiple")
        assert (task.completed, task.total) == (0, None)
        steps.planned(3)
        assert (task.completed, task.total) == (0, 3)
        for done, line in enumerate(("tracing", "verifying at [1]", "calibrating", "once more", "and more")):
            steps.start(line)
            assert (task.completed, task.description.replace("\\", "")) == (min(done, 3), line)


def test_without_a_terminal_nothing_is_shown() -> None:
    steps = StepProgress()
    steps.planned(2)
    steps.start("tracing")
