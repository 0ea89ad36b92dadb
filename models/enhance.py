"""Replace the channel attention of a trained network by GLMHA, as the start of a fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from . import registry
from .channel_attention import Guide, preset_reduction


def enhance(
    model: nn.Module,
    attention: str = "glmha",
    *,
    rho: float | Sequence[float] | None = None,
    preset: str = "uniform",
    alpha: float = 0.6,
    pool: int = 3,
) -> nn.Module:
    """Replace the channel attention of a trained network by GLMHA.

    All weights that the new network has, too, are kept. Each head keeps the keys and values of the channels with the
    strongest values. The guides are new; their last layer is 0, so that all factors are 1 and the network starts as the
    old one with fewer keys and values. Fine-tune it before use.

    Parameters
    ----------
    model
        A network with ``csa``, for instance ``load_checkpoint(path).module``.
    attention
        ``"glmha"``; the other attentions have weights that cannot be made from those of ``csa``.
    rho
        Fraction of keys and values that is saved, 0 <= rho < 1: one number for the preset, or one for each entry of the
        configuration's `reduction`, used without a preset. None for the preset's default.
    preset
        One of `channel_attention.REDUCTION_PRESETS`.
    alpha, pool
        As in the configuration.

    Returns
    -------
    nn.Module
        In evaluation mode, on the CPU; to be saved with `save_checkpoint`.

    Raises
    ------
    InputError
        The network has no channel attention, or not ``csa``, or a value is out of range.
    """
    architecture = registry.of(model)
    config: Any = model.config
    if architecture.carry_over is None:
        able = ", ".join(a.name for a in registry.ARCHITECTURES if a.carry_over is not None)
        raise InputError(f"{architecture.name} has no channel attention to enhance; architectures that have: {able}")
    if config.attention != "csa":
        raise InputError(f"the network's attention is {config.attention} already; give one with csa")
    if attention != "glmha":
        raise InputError(f"nothing can be carried over from csa to {attention!r}; the valid choice is glmha")
    levels = preset_reduction(preset, config.reduced_heads, None if isinstance(rho, Sequence) else rho)
    reduction = tuple(rho) if isinstance(rho, Sequence) else levels
    enhanced = architecture.build(replace(config, attention=attention, reduction=reduction, alpha=alpha, pool=pool))
    for module in enhanced.modules():
        if isinstance(module, Guide):
            nn.init.zeros_(module.share.weight)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    target = enhanced.state_dict()
    kept = {name: tensor for name, tensor in state.items() if name in target}
    with torch.no_grad():
        enhanced.load_state_dict({**target, **kept, **architecture.carry_over(state, enhanced.config)})
    return enhanced.eval()
