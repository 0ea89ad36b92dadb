"""Tables: formatted by Rich on a terminal, plain columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ..errors import printable

Rows = Sequence[Sequence[str]]


def show(header: Sequence[str], rows: Rows, *, left: int = 1) -> None:
    """Print a table on stdout.

    Parameters
    ----------
    header, rows
        The cells, the same number in every row.
    left
        Number of columns that are aligned to the left; the others hold numbers and are aligned to the right.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        try:
            _draw(header, rows, left)
            return
        except ImportError:
            pass  # Rich is optional: without it the table is plain.
    print(plain(header, rows, left))


def stream(header: Sequence[str], first: Sequence[str]) -> Callable[[Sequence[str]], None]:
    """Print a table's header on stdout; return a function that prints one row, for rows that are far apart in time.

    Parameters
    ----------
    header
        Titles of the columns; all but the first hold numbers and are aligned to the right.
    first
        Everything that may stand in the first column, which gives its width.
    """
    widths = [max(map(len, (header[0], *first))), *(max(len(title), 7) for title in header[1:])]

    def row(cells: Sequence[str]) -> None:
        numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        print("  ".join((cells[0].ljust(widths[0]), *numbers)), flush=True)

    row(header)
    return row


def plain(header: Sequence[str], rows: Rows, left: int) -> str:
    """Return plain columns, two spaces apart, one line per row.

    Parameters
    ----------
    header, rows, left
        As for `show`; a header of empty cells is left out.
    """
    lines = [header, *rows] if any(header) else list(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _draw(header: Sequence[str], rows: Rows, left: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=any(header), header_style="bold")
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # As Text, so that Rich does not read "[...]" in a file name as markup.
    Console().print(table)
