"""What commands print beside their results, on stderr: notes and progress. Results go to stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING

from ..errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress

#: Characters of a file's name beside a progress bar.
_LONGEST_NAME = 30


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
def folder_progress(images: int, *, quiet: bool = False) -> Iterator[FolderProgress]:
    """Show two progress bars while the block runs, on a terminal only: images, and the tiles of the current one.

    Results are printed with `FolderProgress.print` meanwhile, and appear above the bars.

    Parameters
    ----------
    images
        Number of images.
    quiet
        True for no bar at all.
    """
    if quiet or not sys.stderr.isatty():
        yield FolderProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        yield FolderProgress(bar, images)


class FolderProgress:
    """The bars of `folder_progress`; without arguments none.

    Parameters
    ----------
    bar
        Where they are shown.
    images
        Number of images.
    """

    def __init__(self, bar: Progress | None = None, images: int = 0) -> None:
        self._bar = bar
        self._images = None if bar is None else bar.add_task("images", total=images)
        self._tiles = None if bar is None else bar.add_task("", total=None)

    @contextmanager
    def of_image(self, name: str) -> Iterator[Callable[[int, int], None] | None]:
        """Show the tiles of an image while the block runs; yield what takes (tiles done, tiles in total)."""
        bar, tiles = self._bar, self._tiles
        if bar is None or tiles is None:
            yield None
            return
        bar.reset(tiles, description=_plain(name), total=None)
        yield lambda done, total: bar.update(tiles, completed=done, total=total)

    def print(self, line: str) -> None:
        """Print a result on stdout; on a terminal above the bars, in one piece."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)
        else:
            print(line, flush=True)

    def done(self) -> None:
        """Count an image."""
        if self._bar is not None and self._images is not None:
            self._bar.advance(self._images)


def _plain(name: str) -> str:
    """Return a name in which Rich finds no markup, and that leaves room for the bar."""
    return _escaped(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}...")


def _escaped(text: str) -> str:
    """Return a text in which Rich finds no markup."""
    from rich.markup import escape

    return escape(printable(text))


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


@contextmanager
def step_progress(*, quiet: bool = False) -> Iterator[StepProgress]:
    """Show what is done and how many steps are left while the block runs, on a terminal only.

    What is printed meanwhile appears above the bar.
    """
    if quiet or not sys.stderr.isatty():
        yield StepProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield StepProgress(bar)


class StepProgress:
    """The bar of `step_progress`; without an argument none.

    Parameters
    ----------
    bar
        Where it is shown.
    """

    def __init__(self, bar: Progress | None = None) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("starting", total=None)
        self._started = 0
        self._planned: int | None = None

    def planned(self, steps: int) -> None:
        """Say how many steps begin from now on; before that the bar shows only that something happens."""
        self._started, self._planned = 0, steps
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=0, total=steps)

    def start(self, line: str) -> None:
        """Begin the next step, which ends the one before."""
        if self._bar is not None and self._task is not None:
            done = self._started if self._planned is None else min(self._started, self._planned)
            self._bar.update(self._task, completed=done, description=_escaped(line))
        self._started += 1


def no_note(message: str) -> None:
    """Print nothing, in place of `note` when a command is quiet."""
