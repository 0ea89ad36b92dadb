"""One result of examining the machine."""

from __future__ import annotations

from dataclasses import dataclass

OK, MISSING, BROKEN = "ok", "missing", "broken"


@dataclass(frozen=True)
class Finding:
    """One part that was looked for.

    Attributes
    ----------
    group, name
        Which group it belongs to, and what it is.
    state
        ``"ok"``, ``"missing"``, or ``"broken"``: installed, but it does not work.
    detail
        What was found.
    remedy
        The command or action that installs or repairs it; empty when there is nothing to do.
    """

    group: str
    name: str
    state: str
    detail: str
    remedy: str = ""


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, or its type's name when it has none."""
    return " ".join(str(error).split()) or type(error).__name__
