"""Commands that tests interrupt."""

import signal


def heed_interruptions() -> None:
    """Undo, in a new process, what a shell does with commands in the background: they ignore Ctrl+C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
