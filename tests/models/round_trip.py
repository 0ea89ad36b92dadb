"""Round trips of networks through checkpoint files, with the configuration stored and with it inferred from shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import released
import torch
from keygraph.models import load_checkpoint, registry, save_checkpoint
from torch import nn


def network(config: Any) -> nn.Module:
    """Return a network with weights that are all different, in evaluation mode."""
    architecture = registry.of_config(config)
    module = architecture.build(config)
    state = module.state_dict()
    weights = released.weights({name: list(tensor.shape) for name, tensor in state.items()})
    # Buffers are random projections, which are drawn once and not trained.
    drawn = dict(module.named_buffers())
    module.load_state_dict({**weights, **drawn})
    return module.eval()


def round_trip(folder: Path, config: Any) -> Any:
    """Write and read a network in all formats; return the configuration that was inferred from shapes."""
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
