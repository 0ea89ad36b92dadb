"""Whether forms of a network compute the same, and where not.

What a name needs is imported when it is first used: Polygraphy looks into this package whenever it starts, and must not
wait for PyTorch then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import compare
    from .inputs import Sample
    from .localize.first_divergence import Origin
    from .metrics.blocks import BlockDifference
    from .metrics.image import Difference, Histogram
    from .metrics.selection import StageAgreement
    from .pass_criteria import Verdict
    from .results import CleanPsnr, InputResult
    from .run import ComparedImage, Comparison, Mending, Run, Side
    from .sides.base import EngineProbe, OnnxProbe, Probe, TorchProbe, open_probe

#: Name -> the module that has it.
_HOMES = {
    "BlockDifference": "metrics.blocks",
    "CleanPsnr": "results",
    "ComparedImage": "run",
    "Comparison": "run",
    "Difference": "metrics.image",
    "EngineProbe": "sides.base",
    "Histogram": "metrics.image",
    "InputResult": "results",
    "OnnxProbe": "sides.base",
    "Mending": "run",
    "Origin": "localize.first_divergence",
    "Probe": "sides.base",
    "Run": "run",
    "Sample": "inputs",
    "Side": "run",
    "StageAgreement": "metrics.selection",
    "TorchProbe": "sides.base",
    "Verdict": "pass_criteria",
    "compare": "comparison",
    "open_probe": "sides.base",
}

__all__ = [
    "BlockDifference",
    "CleanPsnr",
    "ComparedImage",
    "Comparison",
    "Difference",
    "EngineProbe",
    "Histogram",
    "InputResult",
    "Mending",
    "OnnxProbe",
    "Origin",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
