"""What commands print beside their results, on stderr: notes and progress. Results go to stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

from ..errors import printable


def note(message: str) -> None:
    """Print one line that is not a result."""
    print(f"note: {printable(message)}", file=sys.stderr)


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar while the block runs, on a terminal only.

    Parameters
    ----------
    title
        What is in progress.
    quiet
        True for no bar at all.

    Yields
    ------
    A function that takes (steps done, steps in total), or None when no bar is shown.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def status(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show a status line while the block runs, on a terminal only; yield the function that sets the line.

    What is printed meanwhile appears above the line.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _line: None
        return
    from rich.console import Console

    stdout = sys.stdout
    # Rich sends stdout to its console meanwhile, which is right on a terminal only.
    own_stdout = nullcontext() if stdout.isatty() else redirect_stdout(stdout)
    with Console(stderr=True).status("starting") as shown, own_stdout:
        yield shown.update


def no_note(message: str) -> None:
    """Print nothing, in place of `note` when a command is quiet."""
