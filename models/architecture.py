"""What keygraph knows of a family of networks, as data: the registry has one `Architecture` each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..manifest import ExtraInput, Neighbours

StateDict = Mapping[str, Tensor]

#: Operators that no network computes in half: they sum squares or exponentials over many values, which leaves half's
#: range, or half's 11 bits, first.
DELICATE_OPERATORS = tuple(
    f"*{operator}"
    for operator in (
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "Softmax",
        "ReduceL2",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceMean",
        "GlobalAveragePool",
    )
)


@dataclass(frozen=True)
class Interface:
    """What goes into and comes out of a configured network; the fields are those of `manifest.Manifest`."""

    task: str
    scale: int
    in_channels: int
    out_channels: int
    value_range: tuple[float, float]
    size_multiple: int
    global_statistics: bool
    neighbours: Neighbours | None = None
    views: tuple[str, ...] = ()
    normalisation: str = "type"
    gain: float = 1.0
    margin: tuple[int, int] = (0, 0)
    extra_inputs: tuple[ExtraInput, ...] = ()
    clamp: tuple[float, float] | None = None
    wavelengths: tuple[float, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """One family of networks.

    Attributes
    ----------
    name
        What checkpoints, manifests and messages call it.
    config_type
        Frozen dataclass; its constructor validates and raises `InputError`.
    build
        Configuration -> module with that configuration in `.config`; `forward(image, *extra_inputs, k)`, without k for
        families that have no key graph.
    detect
        True when a state dict with these keys is of this family (others of the family's keys may still be missing).
    infer
        Configuration from the shapes of a detected state dict and from the values that the user gives. Raises
        `InputError` that names the settings which neither tells.
    interface
        Configuration -> what goes in and out.
    keep_fp32
        What stays in FP32 in a half-precision file: patterns over the names of its nodes, see `export.islands`.
    carry_over
        For `enhance`: the state dict of a network with CSA and the configuration of the same with GLMHA -> those
        tensors of the latter that are made of several or of parts. None for families without channel attention.
    blocks
        The modules whose outputs tell where a difference starts, as a regular expression over their whole names: parts
        of a transformer layer (norms, attention, feed-forward network), the layer itself, and what lies between layers.
    """

    name: str
    config_type: type
    build: Callable[[Any], nn.Module]
    detect: Callable[[StateDict], bool]
    infer: Callable[[StateDict, Mapping[str, Any]], Any]
    interface: Callable[[Any], Interface]
    keep_fp32: tuple[str, ...] = DELICATE_OPERATORS
    carry_over: Callable[[StateDict, Any], dict[str, Tensor]] | None = None
    blocks: str = ".+"
