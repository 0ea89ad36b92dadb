"""The one proof that a network comes back from a file, with its configuration stored and with names and shapes only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import released
import torch
from keygraph.models import load_checkpoint, registry, save_checkpoint
from torch import nn


def network(config: Any) -> nn.Module:
    """With weights that are all different, in evaluation mode."""
    architecture = next(a for a in registry.ARCHITECTURES if isinstance(config, a.config_type))
    module = architecture.build(config)
    state = module.state_dict()
    weights = released.weights({name: list(tensor.shape) for name, tensor in state.items()})
    # Drawn once for ever, not trained: they stay as they are drawn.
    drawn = dict(module.named_buffers())
    module.load_state_dict({**weights, **drawn})
    return module.eval()


def round_trip(folder: Path, config: Any) -> Any:
    """Write and read a network in every way; returns the configuration that was inferred from shapes."""
    model = network(config)
    expected = model.state_dict()

    def check(path: Path) -> Any:
        loaded = load_checkpoint(path)
        state = loaded.module.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert registry.of(loaded.module) is registry.of(model)
        return loaded.config

    for suffix in (".pth", ".safetensors"):
        save_checkpoint(folder / f"stored{suffix}", model)
        assert check(folder / f"stored{suffix}") == config
    torch.save({"params": expected}, folder / "bare.pth")
    return check(folder / "bare.pth")
