"""Find attentions to a top-k in any traced network, and compute them by keygraph's operators."""

from .recognize import Recognition, Verdict, recognize

__all__ = ["Recognition", "Verdict", "recognize"]
