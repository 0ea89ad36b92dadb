"""Find attentions to a top-k in any traced network, and compute them by keygraph's operators."""

from .by_hand import ByHand, arrange_by_hand, k_of
from .recognize import Recognition, Verdict, annotated_graph, rebuilt, recognize
from .verification import Case, verification_cases
from .verified import recognize_verified

__all__ = [
    "ByHand",
    "Case",
    "Recognition",
    "Verdict",
    "annotated_graph",
    "arrange_by_hand",
    "k_of",
    "rebuilt",
    "recognize",
    "recognize_verified",
    "verification_cases",
]
