"""`enhance` on Restormer: weights carried over, new weights, round trips, and errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from keygraph.errors import InputError
from keygraph.models import enhance, load_checkpoint, save_checkpoint
from keygraph.models.channel_attention import pool_to, preset_reduction, strongest
from keygraph.models.kgt import KGT, KGTConfig
from keygraph.models.restormer import Attention, Restormer, RestormerConfig
from round_trip import network
from torch.nn import functional

TINY = RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1, bias=True)


def test_a_reduction_that_rounds_to_nothing_changes_nothing() -> None:
    model, image = network(TINY), released.sample("picture", 1, 3, 16, 24)
    enhanced = enhance(model, rho=0.001)
    assert isinstance(enhanced, Restormer)
    assert enhanced.config.reduction == (0.001,) * 5
    with torch.inference_mode():
        torch.testing.assert_close(enhanced(image), model(image), atol=1e-5, rtol=1e-5)


def test_a_level_attends_to_its_strongest_values() -> None:
    model = network(TINY)
    enhanced = enhance(model, preset="uniform", rho=0.5)
    for name, heads in (("encoder_level1.0", 1), ("encoder_level2.0", 2), ("decoder_level1.0", 1), ("latent.0", 8)):
        old, new = (m.get_submodule(f"{name}.attn") for m in (model, enhanced))
        assert isinstance(old, Attention)
        channels = old.qkv.weight.shape[1]
        x = released.sample(name, 1, channels, 6, 5) - 0.5
        with torch.inference_mode():
            q, k, v = old.qkv_dwconv(old.qkv(x))[0].view(3, heads, channels // heads, -1)
            rows = old.qkv.weight.flatten(1).norm(dim=1) * old.qkv_dwconv.weight.flatten(1).norm(dim=1)
            strength = rows[2 * channels :].view(heads, 1, -1)
            kept = strength.topk(channels // heads // 2).values.amin(dim=-1, keepdim=True)
            scores = functional.normalize(q, dim=2) @ functional.normalize(k, dim=2).mT * old.temperature
            weights = scores.masked_fill(strength < kept, -torch.inf).softmax(dim=2)
            expected = old.project_out((weights @ v).view(x.shape))
            torch.testing.assert_close(new(x), expected, atol=1e-4, rtol=1e-4)


def test_every_weight_with_a_place_is_kept_and_the_result_is_read_back(tmp_path: Path) -> None:
    model = network(TINY)
    enhanced = enhance(model, preset="table", rho=0.6, alpha=0.4, pool=2)
    assert enhanced.config == replace(
        TINY, attention="glmha", reduction=(0.6, 0.3, 0.15, 0.075, 0.0), alpha=0.4, pool=2
    )
    save_checkpoint(tmp_path / "enhanced.safetensors", enhanced)
    loaded = load_checkpoint(tmp_path / "enhanced.safetensors")
    assert loaded.config == enhanced.config
    old, new = model.state_dict(), loaded.module.state_dict()
    for name, tensor in old.items():
        if ".qkv" in name and not name.startswith("refinement"):
            queries = new[name.replace(".qkv", ".q")]
            assert torch.equal(queries, tensor[: len(queries)])
        else:
            assert torch.equal(new[name], tensor)
    image = released.sample("picture", 2, 3, 8, 16)
    with torch.inference_mode():
        assert torch.equal(loaded.module(image), enhanced(image))


def test_one_reduction_for_each_level() -> None:
    reduction = (0.5, 0.0, 0.25, 0.5, 0.0)
    enhanced = enhance(network(TINY), rho=reduction)
    assert isinstance(enhanced, Restormer)
    assert enhanced.config.reduction == reduction
    assert hasattr(enhanced.encoder_level2[0].attn, "qkv")


def test_guides_learn_from_their_first_step() -> None:
    enhanced = enhance(network(TINY), rho=0.5).train()
    enhanced(released.sample("picture", 1, 3, 8, 8)).square().sum().backward()
    gradient = enhanced.get_parameter("latent.0.attn.guide.share.weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "linformer"}, "carried over from csa to 'linformer'; the valid choice is glmha"),
        ({"preset": "tables"}, "no reduction 'tables'; choose one of uniform, table"),
        ({"rho": 1.5}, r"RestormerConfig\.reduction is \(1\.5, .*; it must be 5 numbers, at least 0 and below 1"),
        ({"rho": (0.5, 0.5)}, "it must be 5 numbers"),
        ({"rho": 0.0}, "above 0 somewhere"),
    ],
)
def test_wrong_wishes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        enhance(network(TINY), **arguments)


def test_only_csa_is_enhanced() -> None:
    with pytest.raises(InputError, match="attention is glmha already"):
        enhance(enhance(network(TINY)))
    kgt = KGT(KGTConfig(layers=(1,), channels=8, heads=2, window=4, k=4))
    with pytest.raises(InputError, match="kgt has no channel attention to enhance; architectures that have: restormer"):
        enhance(kgt)
    with pytest.raises(ValueError, match="no architecture"):
        enhance(torch.nn.Linear(1, 1))


def test_presets_of_reductions() -> None:
    assert preset_reduction("uniform", (1, 2, None)) == (0.5, 0.5, 0.5)
    assert preset_reduction("table", (1, 2, None)) == (0.7, 0.35, 0.0)
    assert preset_reduction("table", (1, 4), rho=0.8) == (0.8, 0.2)


def test_strongest_channels_stay_in_their_order() -> None:
    strength = torch.tensor([1.0, 5.0, 3.0, 4.0, 2.0, 2.0, 0.0, 9.0])
    assert strongest(strength, 2, 2).tolist() == [1, 3, 4, 7]


@pytest.mark.parametrize("bins", [1, 2, 3, 5])
def test_pooling_has_the_borders_of_pytorch(bins: int) -> None:
    for height, width in ((1, 1), (1, 7), (8, 3), (13, 16)):
        x = released.sample("features", 2, 3, height, width) - 0.5
        assert torch.equal(pool_to(pool_to(x, bins, 2), bins, 3), functional.adaptive_max_pool2d(x, bins))
