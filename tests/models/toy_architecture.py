"""A network that is not in keygraph, with the description that `keygraph.models.register` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keygraph.models import Architecture, Interface
from torch import Tensor, nn


@dataclass(frozen=True)
class ToyConfig:
    channels: int = 8


class Toy(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.toy_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.toy_out = nn.Conv2d(config.channels, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        residual: Tensor = self.toy_out(self.toy_in(image).relu())
        return image + residual


def infer(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> ToyConfig:
    return ToyConfig(**{"channels": state["toy_in.weight"].shape[0], **given})


TOY = Architecture(
    name="toy",
    config_type=ToyConfig,
    build=Toy,
    detect=lambda state: "toy_in.weight" in state,
    infer=infer,
    interface=lambda config: Interface("denoising", 1, 3, 3, (0.0, 1.0), 1, global_statistics=False),
)
