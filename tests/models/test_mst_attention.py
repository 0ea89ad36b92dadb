"""The attention slot of MST and MST++: GLMHA by its equations, the comparison set, inference, `enhance`, figures."""

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
from keygraph.models.mst import Attention, MSTConfig
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from torch import Tensor, nn
from torch.nn import functional

SIMULATION = MSTConfig(bands=8, channels=8, blocks=(1, 1, 1))
REAL = MSTConfig(bands=4, channels=8, blocks=(1, 1), mask_guided=False)
PLUS_PLUS = MSTPlusPlusConfig(out_channels=8, channels=8, stages=1)
TINY = (SIMULATION, REAL, PLUS_PLUS)


def network(config: Any) -> nn.Module:
    """Return a network with weights that are all different, in evaluation mode."""
    architecture = registry.of_config(config)
    module = architecture.build(config)
    module.load_state_dict(released.weights({k: list(v.shape) for k, v in module.state_dict().items()}))
    return module.eval()


def inputs(config: Any, height: int = 16, width: int = 8) -> list[Tensor]:
    if isinstance(config, MSTPlusPlusConfig):
        return [released.sample("picture", 2, 3, height, width)]
    measurement = released.sample("measurement", 2, 1, height, width + config.margin)
    return [measurement, released.sample("mask", 2, 1, height, width)] if config.mask_guided else [measurement]


def guided_attention(layer: Attention, x: Tensor, through: Tensor | float) -> Tensor:
    """GLMHA by its equations (arXiv 2410.00380), for each pixel and head: [C, H, W] -> [C, H, W]."""
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
    attended: Tensor = state["proj.weight"] @ torch.cat(heads) + state["proj.bias"][:, None]
    positions: Tensor = layer.pos_emb(scaled.view(1, *x.shape))[0]
    return attended.view(x.shape) + positions


@pytest.mark.parametrize("config", [SIMULATION, REAL])
def test_glmha_is_what_its_equations_say(config: MSTConfig) -> None:
    model = network(dataclasses.replace(config, attention="glmha", reduction=(0.5,) * len(config.blocks)))
    for level, name in enumerate(("encoder_layers.0.0.blocks.0.0", "bottleneck.blocks.0.0")):
        layer = model.get_submodule(name)
        assert isinstance(layer, Attention)
        level *= len(config.blocks) - 1
        x = released.sample("features", 1, 8 * 2**level, 7, 11) - 0.5
        margin = 2 * (8 * 2**level - 1) // 4**level
        mask = released.sample("mask", 1, 8 * 2**level, 7, 11 + margin) if config.mask_guided else None
        with torch.inference_mode():
            through: Tensor | float = 1.0
            if mask is not None:
                assert layer.mm is not None
                through = layer.mm(mask)[0]
            expected, got = guided_attention(layer, x[0], through), layer(x, mask)[0]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", TINY, ids=["simulation", "real", "mst++"])
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


@pytest.mark.parametrize("config", [REAL, PLUS_PLUS])
def test_enhanced_networks_attend_to_the_strongest_values(config: Any) -> None:
    model = network(config)
    enhanced = enhance(model, "glmha", rho=0.5)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Attention)}
    for name, layer in layers.items():
        kept = enhanced.get_submodule(name)
        x = released.sample("features", 1, 8 * layer.heads, 6, 6) - 0.5
        with torch.no_grad():
            for each in (layer, kept):
                each.get_parameter("pos_emb.2.weight").zero_()  # In GLMHA its input is different.
            q, k, v = (linear(x[0].flatten(1).T).T for linear in (layer.to_q, layer.to_k, layer.to_v))
            q, k, v = (t.reshape(layer.heads, 8, -1) for t in (q, k, v))
            scores = functional.normalize(k, dim=2) @ functional.normalize(q, dim=2).mT * layer.rescale
            strength = layer.to_v.weight.norm(dim=1).view(layer.heads, 1, 8)
            weak = strength < strength.sort(dim=2, descending=True).values[:, :, 3:4]
            attended = scores.masked_fill(weak, -torch.inf).softmax(dim=2) @ v
            expected = layer.proj(attended.flatten(0, 1).T).T.view(x[0].shape)
            torch.testing.assert_close(kept(x, None)[0], expected, atol=1e-4, rtol=1e-4)
    assert len(layers) == 2 * len(config.blocks) - 1


@pytest.mark.parametrize("config", TINY)
def test_enhancing_keeps_every_weight_that_has_a_place(tmp_path: Path, config: Any) -> None:
    model = network(config)
    enhanced = enhance(model, "glmha", rho=(0.5,) + (0.0,) * (len(config.blocks) - 1), alpha=0.4, pool=2)
    save_checkpoint(tmp_path / "enhanced.safetensors", enhanced)
    carried = load_checkpoint(tmp_path / "enhanced.safetensors").module.state_dict()
    for name, tensor in model.state_dict().items():
        projection = name.rpartition(".to_")[2] in ("q.weight", "k.weight", "v.weight")
        if projection and tensor.shape[0] == 8:  # The full-size level.
            assert carried[name].shape[0] == (8 if name.endswith("q.weight") else 4)
        else:
            assert torch.equal(carried[name], tensor)
    with torch.inference_mode():
        assert enhanced(*inputs(config)).isfinite().all()


def architecture_of(config: Any) -> Architecture:
    return mst.ARCHITECTURE if isinstance(config, MSTConfig) else mst_plus_plus.ARCHITECTURE


def size(config: Any) -> int:
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in architecture_of(config).build(config).state_dict().values())


def macs(config: Any, height: int = 256, width: int = 256) -> Macs:
    return count_macs(architecture_of(config), config, height, width)


@pytest.mark.parametrize(
    ("config", "height", "width", "published"),
    [
        (mst.PRESETS["mst-s"], 256, 256, 12.291),
        (mst.PRESETS["mst-m"], 256, 256, 17.402),
        (mst.PRESETS["mst-l"], 256, 256, 27.485),
        (mst.PRESETS["mst-s-real"], 256, 256, 10.158),
        (mst.PRESETS["mst-m-real"], 256, 256, 14.385),
        (mst.PRESETS["mst-l-real"], 256, 256, 22.697),
        (MSTPlusPlusConfig(), 256, 256, 22.290),
        (MSTPlusPlusConfig(), 488, 512, 84.982),  # 482 x 512 after padding.
    ],
)
def test_macs_are_the_published_ones(config: Any, height: int, width: int, published: float) -> None:
    counted = macs(config, height, width)
    assert round((counted.total + counted.norms) / 1e9, 3) == published


@pytest.mark.parametrize(
    ("config", "rho", "parameters", "layers"),
    [(MSTPlusPlusConfig(), 0.73, -19_995, -0.902), (mst.PRESETS["mst-l"], 0.68, -26_992, -1.163)],
    ids=["mst++", "mst-l"],
)
def test_savings_fit_the_papers_tables(config: Any, rho: float, parameters: int, layers: float) -> None:
    """The paper has -20k and -0.92 G for MST++, -27k and -1.14 G for MST-L."""
    reduction = preset_reduction("table", config.reduced_heads, rho)
    glmha = dataclasses.replace(config, attention="glmha", reduction=reduction)
    assert size(glmha) - size(config) == parameters
    assert round((macs(glmha).layers - macs(config).layers) / 1e9, 3) == layers


@pytest.mark.parametrize("config", [MSTPlusPlusConfig(), mst.PRESETS["mst-l"], mst.PRESETS["mst-s-real"]])
@pytest.mark.parametrize("preset", ["uniform", "table"])
def test_presets_are_read_back_from_shapes(config: Any, preset: str) -> None:
    reduction = preset_reduction(preset, config.reduced_heads)
    glmha = dataclasses.replace(config, attention="glmha", reduction=reduction)
    with torch.device("meta"):
        state = architecture_of(glmha).build(glmha).state_dict()
        again = architecture_of(glmha).build(architecture_of(glmha).infer(state, {})).state_dict()
    assert registry.detect(state) is architecture_of(config)
    assert {k: t.shape for k, t in again.items()} == {k: t.shape for k, t in state.items()}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention": "mha"}, "attention is 'mha'; it must be one of csa, glmha"),
        ({"reduction": (0.5, 0.5, 0.5)}, "reduction is .*; it must be empty for csa"),
        ({"attention": "glmha", "reduction": (0.5,)}, "it must be 3 numbers"),
        ({"attention": "glmha", "reduction": 0.5}, "it must be 3 numbers"),
        ({"attention": "glmha", "reduction": (0.5, 1.0, 0.5)}, "at least 0 and below 1"),
        ({"attention": "glmha", "pool": 0}, "pool is 0; it must be an integer of at least 1"),
    ],
)
@pytest.mark.parametrize("config_type", [MSTConfig, MSTPlusPlusConfig])
def test_wrong_attentions(config_type: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"{config_type.__name__}\..*{message}"):
        config_type(**values)
