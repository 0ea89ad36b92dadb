"""Whether two forms of a network compute the same, and where not.

What a name needs is imported when it is first used: Polygraphy looks into this package whenever it starts, and must not
wait for PyTorch then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Comparison, compare
    from .difference import Difference
    from .probes import OnnxProbe, Probe, TorchProbe, open_probe
    from .results import InputResult
    from .stages import StageAgreement
    from .verdict import Verdict

#: Name -> the module that has it.
_HOMES = {
    "Comparison": "comparison",
    "Difference": "difference",
    "InputResult": "results",
    "OnnxProbe": "probes",
    "Probe": "probes",
    "StageAgreement": "stages",
    "TorchProbe": "probes",
    "Verdict": "verdict",
    "compare": "comparison",
    "open_probe": "probes",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
