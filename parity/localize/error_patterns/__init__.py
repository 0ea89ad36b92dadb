"""Known error patterns: swapped channels, shifts, gains, clipping, misplaced tiles, and others.

A pattern is named only where undoing it removes nearly all of the difference.
"""

from .diagnosis import Cause, diagnose

__all__ = ["Cause", "diagnose"]
