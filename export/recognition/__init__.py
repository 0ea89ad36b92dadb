"""Find attentions to a top-k in any traced network, and compute them by keygraph's operators."""

from .recognize import Recognition, Verdict, recognize
from .verification import Case, recognize_verified, verification_cases

__all__ = ["Case", "Recognition", "Verdict", "recognize", "recognize_verified", "verification_cases"]
