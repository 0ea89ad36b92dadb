"""Facts about the published networks: names and shapes of their tensors, and results for given weights and inputs.

`models/released/NAME.json` has the names and shapes, `models/released/values.json` some results of the published code
with the weights from `weights` and the input from `sample`.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "models" / "released"


def shapes(name: str) -> dict[str, list[int]]:
    """Return the names and shapes of the tensors of a published network."""
    found: dict[str, list[int]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def values(name: str) -> list[float]:
    """Return results of the published code, as `thinned` selects them."""
    found: list[float] = json.loads((FOLDER / "values.json").read_text(encoding="utf-8"))[name]
    return found


def sample(name: str, *shape: int) -> Tensor:
    """Return float32[shape] in [0, 1), the same on every machine and with every version."""
    # The only generator of NumPy whose stream never changes.
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(generator.uniform(size=shape).astype(np.float32))


def weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Return weights of about unit gain: norms and factors around 1, biases around 0, all different."""
    state = {}
    for name, shape in shapes.items():
        tensor = 2 * sample(name, *shape) - 1
        if len(shape) == 1:
            tensor = 0.2 * tensor if name.endswith("bias") else 1 + 0.2 * tensor
        elif shape[1:] == [1, 1]:
            tensor = 4 + tensor  # The temperature: makes attention weights far from equal.
        else:
            tensor = tensor * (3 / np.prod(shape[1:])) ** 0.5
        state[name] = tensor.float()
    return state


def thinned(result: Tensor) -> Tensor:
    """Return a few values of [B, C, H, W] from all over the tensor."""
    return torch.stack([result.flatten()[i :: result.numel() // 16][:16] for i in (0, 7)]).flatten()
