"""Find attentions to a top-k in any traced network, and compute them by keygraph's operators."""

from .by_hand import ByHand, arrange_by_hand
from .recognize import Recognition, Verdict, recognize
from .verification import Case, verification_cases
from .verified import recognize_verified

__all__ = [
    "ByHand",
    "Case",
    "Recognition",
    "Verdict",
    "arrange_by_hand",
    "recognize",
    "recognize_verified",
    "verification_cases",
]
