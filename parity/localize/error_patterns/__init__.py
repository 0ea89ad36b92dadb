"""What kind of wrong an image is: a cause is named only where undoing it explains nearly all of the difference."""

from __future__ import annotations

from .causes import Cause, diagnose

__all__ = ["Cause", "diagnose"]
