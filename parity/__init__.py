"""Whether two forms of a network compute the same, and where not."""

from .comparison import Comparison, compare
from .difference import Difference
from .probes import OnnxProbe, Probe, TorchProbe, open_probe
from .results import InputResult
from .stages import StageAgreement
from .verdict import Verdict

__all__ = [
    "Comparison",
    "Difference",
    "InputResult",
    "OnnxProbe",
    "Probe",
    "StageAgreement",
    "TorchProbe",
    "Verdict",
    "compare",
    "open_probe",
]
