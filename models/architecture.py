"""The description of a network architecture, as data: what `models.registry` holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..manifest import Interface as Interface

StateDict = Mapping[str, Tensor]

#: Architecture in the manifest of a network that the user's own code built: no name of the registry.
CUSTOM = "custom"

#: FP32 patterns for every architecture: operators that sum squares or exponentials over many values. Their sums leave
#: the range of fp16, or its 11 bits of precision, first.
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
class Published:
    """The size or cost of a network as its authors, or others, state it.

    Attributes
    ----------
    words
        The figures in the source's own rounding. "FLOPs" of these sources are multiply-accumulates.
    source
        Where they are stated.
    fields
        Values of the configuration that the figures are for.
    """

    words: str
    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A network architecture.

    Attributes
    ----------
    name
        Name in checkpoints, manifests and messages.
    config_type
        Frozen dataclass of the configuration, with a default for every field. Its constructor validates and raises
        `InputError`.
    build
        Configuration -> module, which keeps the configuration as its attribute `config`. Its
        ``forward(image, *extra_inputs, k)`` takes k only in architectures with a key graph.
    detect
        State dict -> whether its keys are of this architecture; other keys of the architecture may be missing.
    infer
        State dict that `detect` accepts, and configuration values from the user -> configuration. Raises `InputError`
        that names the fields which neither determines.
    interface
        Configuration -> inputs and outputs.
    keep_fp32
        What stays in FP32 in half-precision files: patterns as in `export.fp32_patterns`.
    carry_over
        State dict of a network with CSA, and configuration of the same network with GLMHA -> those tensors of the
        latter that are made by combining or cutting, for `enhance`. None for architectures without channel attention.
    blocks
        Regular expression for the full names of the modules whose outputs a comparison by blocks looks at: parts of a
        transformer layer (norms, attention, feed-forward network), the layer, and what lies between layers.
    published
        Figures that are stated for configurations of this architecture.
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
    published: tuple[Published, ...] = ()

    def published_for(self, config: Any) -> list[Published]:
        """Return the published figures that apply to a configuration."""
        return [
            entry
            for entry in self.published
            if all(getattr(config, name, None) == value for name, value in entry.fields.items())
        ]
