"""The one exception family of keygraph.

A message is one line: the fact, then what to do about it, then the valid choices where there are any.
The command line prints that line and exits with the class's `exit_code`.
"""


class KeygraphError(Exception):
    """Something went wrong that is not the user's doing: a verification that failed, a library that broke."""

    exit_code = 1


class InputError(KeygraphError):
    """What the user gave cannot be used: a file, an option, an image, an installation without a needed part."""

    exit_code = 2


class MissingDependencyError(InputError):
    """A package or library that this command needs is not installed; the message holds the line that installs it."""
