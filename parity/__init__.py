"""Whether forms of a network compute the same, and where not."""

from .blocks import BlockDifference
from .comparison import compare
from .difference import Difference, Histogram
from .inputs import Sample
from .probes import EngineProbe, OnnxProbe, Probe, TorchProbe, open_probe
from .results import CleanPsnr, InputResult
from .run import ComparedImage, Comparison, Run, Side
from .stages import StageAgreement
from .verdict import Verdict

__all__ = [
    "BlockDifference",
    "CleanPsnr",
    "ComparedImage",
    "Comparison",
    "Difference",
    "EngineProbe",
    "Histogram",
    "InputResult",
    "OnnxProbe",
    "Probe",
    "Run",
    "Sample",
    "Side",
    "StageAgreement",
    "TorchProbe",
    "Verdict",
    "compare",
    "open_probe",
]
