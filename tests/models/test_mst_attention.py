"""The attention slot of MST and MST++: GLMHA against its equations, the comparison set, inference, `enhance`, figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from keygraph.errors import InputError
from keygraph.models import enhance, load_checkpoint, mst, mst_plus_plus, registry, save_checkpoint
from keygraph.models.architecture import Architecture
from keygraph.models.channel_attention import preset_reduction
from keygraph.models.macs import Macs, count_macs
from keygraph.models.mst import MST, Attention, MSTConfig
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from torch import Tensor, nn
from torch.nn import functional

SIMULATION = MSTConfig(bands=8, channels=8, blocks=(1, 1, 1))
REAL = MSTConfig(bands=4, channels=8, blocks=(1, 1), mask_guided=False)
PLUS_PLUS = MSTPlusPlusConfig(out_channels=8, channels=8, stages=1)
TINY = (SIMULATION, REAL, PLUS_PLUS)


def network(config: Any) -> nn.Module:
    """With weights that are all different, in evaluation mode."""
    architecture = next(a for a in registry.ARCHITECTURES if isinstance(config, a.config_type))
    module = architecture.build(config)
    module.load_state_dict(released.weights({k: list(v.shape) for k, v in module.state_dict().items()}))
    return module.eval()


def inputs(config: Any, height: int = 16, width: int = 8) -> list[Tensor]:
    if isinstance(config, MSTPlusPlusConfig):
        return [released.sample("picture", 2, 3, height, width)]
    measurement = released.sample("measurement", 2, 1, height, width + config.margin)
    return [measurement, released.sample("mask", 2, 1, height, width)] if config.mask_guided else [measurement]


def guided_attention(layer: Attention, x: Tensor, through: Tensor | float) -> Tensor:
    """GLMHA as its equations stand (arXiv 2410.00380), pixel by pixel and head by head: [C, H, W] -> [C, H, W]."""
    state = layer.state_dict()
    channels, height, width = x.shape
    pixels = x.flatten(1)
    q = state["to_q.weight"] @ pixels
    pooled = functional.adaptive_max_pool2d(q.view(1, channels, height, width), 3)[0]
    v = functional.gelu((pooled * state["guide.conv.weight"][:, 0]).sum((1, 2)))
    a = torch.tanh(v.view(layer.heads, -1) @ state["guide.share.weight"].T).flatten()
    scaled = pixels + pixels * (0.6 * a)[:, None]
    k = state["to_k.weight"] @ scaled
    v = state["to_v.weight"] @ (scaled.view(x.shape) * through).flatten(1)
    heads = []
    for head in range(layer.heads):
        qh, kh, vh = (t.chunk(layer.heads)[head] for t in (q, k, v))
        scores = functional.normalize(qh, dim=1) @ functional.normalize(kh, dim=1).T * state["rescale"][head]
        heads.append(scores.softmax(dim=1) @ vh)
    attended = state["proj.weight"] @ torch.cat(heads) + state["proj.bias"][:, None]
    return attended.view(x.shape) + layer.pos_emb(scaled.view(1, *x.shape))[0]


@pytest.mark.parametrize("config", [SIMULATION, REAL])
def test_glmha_is_what_its_equations_say(config: MSTConfig) -> None:
    model = network(dataclasses.replace(config, attention="glmha", reduction=(0.5,) * len(config.blocks)))
    for level, layer in enumerate((model.encoder_layers[0][0].blocks[0][0], model.bottleneck.blocks[0][0])):
        level *= len(config.blocks) - 1
        x = released.sample("features", 1, 8 * 2**level, 7, 11) - 0.5
        mask = released.sample("mask", 1, 8 * 2**level, 7, 11 + config.margin) if config.mask_guided else None
        with torch.inference_mode():
            through = 1.0 if mask is None else layer.mm(mask, 11)[0]
            expected, got = guided_attention(layer, x[0], through), layer(x, mask)[0]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", TINY)
@pytest.mark.parametrize(
    ("attention", "reduction"),
    [("glmha", 0.5), ("glmha", (0.7, 0.35, 0.0)), ("linformer", 0.5), ("performer", 0.25), ("reformer", 0.5)],
)
def test_every_attention_runs_and_is_inferred(tmp_path: Path, config: Any, attention: str, reduction: Any) -> None:
    levels = len(config.blocks)
    reduction = reduction[:levels] if isinstance(reduction, tuple) else (reduction,) * levels
    model = network(dataclasses.replace(config, attention=attention, reduction=reduction, pool=2))
    torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, tmp_path / "bare.pth")
    save_checkpoint(tmp_path / "ours.safetensors", model)
    assert load_checkpoint(tmp_path / "ours.safetensors").config == model.config
    loaded = load_checkpoint(tmp_path / "bare.pth")
    inferred = dataclasses.asdict(loaded.config)
    assert (inferred["attention"], inferred["blocks"]) == (attention, config.blocks)
    if attention == "glmha":
        assert inferred["pool"] == 2
    with torch.inference_mode():
        result, again = model(*inputs(config)), loaded.module(*inputs(config))
        csa = network(config)(*inputs(config))
    assert torch.equal(result, again)
    assert result.isfinite().all()
    assert result.shape == csa.shape
    assert (result - csa).abs().max() > 1e-3


@pytest.mark.parametrize("config", TINY)
def test_enhanced_networks_attend_to_the_strongest_values(config: Any) -> None:
    model = network(config)
    enhanced = enhance(model, "glmha", rho=0.5)
    assert enhanced.config == dataclasses.replace(config, attention="glmha", reduction=(0.5,) * len(config.blocks))
    for name, layer in model.named_modules():
        if not isinstance(layer, Attention):
            continue
        x = released.sample("features", 1, 8 * layer.heads, 6, 6) - 0.5
        mask = released.sample("mask", 1, 8 * layer.heads, 6, 20) if layer.mm is not None else None
        with torch.no_grad():
            for each in (layer, enhanced.get_submodule(name)):
                each.pos_emb[2].weight.zero_()  # fed with values before and with pixels after
            q, k, v = (functional.conv2d(x, w.weight[:, :, None, None]) for w in (layer.to_q, layer.to_k, layer.to_v))
            through = None if layer.mm is None else layer.mm(mask, 6)
            q, k, v = (t.view(layer.heads, 8, -1) for t in (q, k, v))
            scores = functional.normalize(k, dim=2) @ functional.normalize(q, dim=2).mT * layer.rescale
            strength = layer.to_v.weight.norm(dim=1).view(layer.heads, 8)
            weak = strength < strength.median(dim=1, keepdim=True).values.nextafter(torch.tensor(torch.inf))
            weights = scores.masked_fill(weak[:, None], -torch.inf).softmax(dim=2)
            if through is None:
                attended = weights @ v
                expected = functional.conv2d(
                    attended.view(x.shape), layer.proj.weight[:, :, None, None], layer.proj.bias
                )
                torch.testing.assert_close(enhanced.get_submodule(name)(x, mask), expected, atol=1e-4, rtol=1e-4)
    carried = enhanced.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "pos_emb.2.weight")):
            assert torch.equal(carried[name], tensor)
    with torch.inference_mode():
        assert enhanced(*inputs(config)).isfinite().all()


def size(architecture: Architecture, config: Any) -> int:
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in architecture.build(config).state_dict().values())
