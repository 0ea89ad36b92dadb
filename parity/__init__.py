"""Parity: whether two forms of a network compute the same, and where they differ.

Names are imported on first use: Polygraphy imports this package at every start and must not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..runtime.former_names import former_name

if TYPE_CHECKING:
    from .comparison import compare
    from .inputs import Sample
    from .localize.first_divergence import FirstDivergence
    from .metrics.blocks import BlockDifference
    from .metrics.image import Difference, Histogram
    from .metrics.rounding import RoundingError
    from .metrics.selection import StageAgreement
    from .modules.comparison import compare_modules
    from .modules.result import ModuleComparison
    from .results import (
        CleanPsnr,
        ComparedImage,
        Comparison,
        InputResult,
        PrecisionSearch,
        Run,
        Side,
        Verdict,
    )
    from .sides.base import Probe
    from .sides.engine_probe import EngineProbe
    from .sides.onnx_probe import OnnxProbe
    from .sides.opening import open_probe
    from .sides.torch_probe import TorchProbe

#: Name -> the module that defines it.
_HOMES = {
    "BlockDifference": "metrics.blocks",
    "CleanPsnr": "results",
    "ComparedImage": "results",
    "Comparison": "results",
    "Difference": "metrics.image",
    "EngineProbe": "sides.engine_probe",
    "FirstDivergence": "localize.first_divergence",
    "Histogram": "metrics.image",
    "InputResult": "results",
    "ModuleComparison": "modules.result",
    "OnnxProbe": "sides.onnx_probe",
    "PrecisionSearch": "results",
    "Probe": "sides.base",
    "RoundingError": "metrics.rounding",
    "Run": "results",
    "Sample": "inputs",
    "Side": "results",
    "StageAgreement": "metrics.selection",
    "TorchProbe": "sides.torch_probe",
    "Verdict": "results",
    "compare": "comparison",
    "compare_modules": "modules.comparison",
    "open_probe": "sides.opening",
}

#: Deprecated name -> its successor.
_RENAMED = {"Mending": "PrecisionSearch", "Origin": "FirstDivergence"}

__all__ = [
    "BlockDifference",
    "CleanPsnr",
    "ComparedImage",
    "Comparison",
    "Difference",
    "EngineProbe",
    "FirstDivergence",
    "Histogram",
    "InputResult",
    "ModuleComparison",
    "OnnxProbe",
    "PrecisionSearch",
    "Probe",
    "RoundingError",
    "Run",
    "Sample",
    "Side",
    "StageAgreement",
    "TorchProbe",
    "Verdict",
    "compare",
    "compare_modules",
    "open_probe",
]


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        return former_name(__name__, name, __name__, _RENAMED[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
