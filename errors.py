"""The exceptions of keygraph, and words for their messages.

A message is one line: the fact, then what to do, then the valid choices if there are any. The command line prints it
and exits with the class's `exit_code`.
"""

from __future__ import annotations


class KeygraphError(Exception):
    """A failure that the user's input did not cause, such as a failed verification. Base class of all others."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message, with line breaks and control characters, which names and files may bring, escaped."""
        return printable(super().__str__())


class InputError(KeygraphError):
    """The user's input cannot be used: a file, an option, an image, or an incomplete installation."""

    exit_code = 2


class CancelledError(KeygraphError):
    """A restoration was ended by its `cancel` token."""


class DiskFullError(InputError):
    """There is no space left where an output is written."""


class MissingDependencyError(InputError):
    """A required package or library is not installed; the message has the command that installs it."""


def printable(text: str) -> str:
    """Return text for one line, with line breaks and control characters escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun for a message: ``1 node``, ``2 nodes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
