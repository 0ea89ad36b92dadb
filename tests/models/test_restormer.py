"""Restormer: the released networks' tensors and results, the attention slot, inference, detection, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from keygraph.errors import InputError
from keygraph.models import load_checkpoint, registry
from keygraph.models.restormer import PRESETS, BiasFreeNorm, Restormer, RestormerConfig, infer_config, interface
from round_trip import network, round_trip
from torch import Tensor
from torch.nn import functional

TINY = RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1)
GLMHA = replace(TINY, attention="glmha", reduction=(0.5, 0.25, 0.5, 0.4, 0.0))


def meta_state(config: RestormerConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(Restormer(config).state_dict())


@pytest.mark.parametrize("name", PRESETS)
def test_tensors_are_the_released_ones(name: str) -> None:
    state = meta_state(PRESETS[name])
    shapes = {key: list(tensor.shape) for key, tensor in state.items()}
    assert shapes == released.shapes(name)
    assert list(shapes) == list(released.shapes(name))
    architecture = registry.detect(state)
    assert architecture is not None
    assert architecture.name == "restormer"
    assert architecture.infer(state, {}) == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_results_are_those_of_the_released_code(tmp_path: Path, name: str) -> None:
    torch.save({"params": released.weights(released.shapes(name))}, tmp_path / "net_g_latest.pth")
    loaded = load_checkpoint(tmp_path / "net_g_latest.pth")
    (tmp_path / "net_g_latest.pth").unlink()
    assert loaded.config == PRESETS[name]
    with torch.inference_mode():
        result = loaded.module(released.sample("picture", 1, loaded.config.in_channels, 16, 24))
    expected = torch.tensor(released.values(name))
    torch.testing.assert_close(released.thinned(result), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, norm="BiasFree", bias=True, in_channels=1, out_channels=1, task="denoising"),
        replace(TINY, in_channels=2, out_channels=1, dual_pixel=True, bias=True),
        RestormerConfig(channels=12, blocks=(2, 1, 3, 1), refinement_blocks=2, heads=(3, 1, 2, 6), ffn_expansion=1.0),
        replace(TINY, in_channels=31, out_channels=31, ffn_expansion=3.125),
        replace(TINY, attention="glmha", alpha=0.3, pool=2),
        GLMHA,
        replace(GLMHA, bias=True, pool=1),
        replace(TINY, attention="glmha", reduction=(0.725, 0.3, 0.01, 0.6, 0.9), heads=(1, 1, 1, 1)),
        replace(GLMHA, attention="linformer"),
        replace(GLMHA, attention="performer"),
        replace(TINY, attention="reformer", reduction=(0.5, 0.75, 0.5, 0.5, 0.0)),
    ],
    ids=str,
)
def test_networks_come_back_from_files(tmp_path: Path, config: RestormerConfig) -> None:
    inferred = round_trip(tmp_path, config)
    # Fields that shapes do not determine, or only within bounds.
    open_fields = ("task", "alpha", "reduction", "ffn_expansion")
    assert replace(inferred, **{name: getattr(config, name) for name in open_fields}) == config
    assert [rho > 0 for rho in inferred.reduction] == [rho > 0 for rho in config.reduction]


@pytest.mark.parametrize("expansion", [2.66, 2.0, 2.7182818, 1 / 3])
def test_the_expansion_is_read_back_in_few_digits(expansion: float) -> None:
    config = RestormerConfig(blocks=(1, 1, 1, 1), refinement_blocks=1, ffn_expansion=expansion)
    inferred = infer_config(meta_state(config), {})
    assert len(str(inferred.ffn_expansion)) <= 6
    assert replace(inferred, ffn_expansion=expansion) == config
    shapes = [{key: t.shape for key, t in meta_state(c).items()} for c in (config, inferred)]
    assert shapes[0] == shapes[1]


def test_values_that_the_user_gives_override_what_shapes_tell() -> None:
    assert infer_config(meta_state(GLMHA), {"alpha": 0.1, "task": "deraining"}).alpha == 0.1
    assert infer_config(meta_state(TINY), {"task": "deraining"}).task == "deraining"


@pytest.mark.parametrize("config", [TINY, replace(GLMHA, norm="BiasFree"), replace(TINY, attention="performer")])
def test_every_legal_size_works_and_images_do_not_meet(config: RestormerConfig) -> None:
    model = network(config)
    for height, width in ((8, 8), (8, 24), (40, 16)):
        images = released.sample("pictures", 3, 3, height, width)
        with torch.inference_mode():
            together = model(images)
            apart = torch.cat([model(image[None]) for image in images])
        assert together.shape == images.shape
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_bias_free_norm_keeps_the_mean() -> None:
    norm, x = BiasFreeNorm(6), released.sample("features", 2, 6, 3, 4) + 5
    with torch.no_grad():
        expected = x / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(norm(x), expected)


def guided_attention(layer: torch.nn.Module, x: Tensor, rho: float) -> Tensor:
    """GLMHA by its equations (arXiv 2410.00380), for each head: [1, C, H, W] -> [1, C, H, W]."""
    state, heads, channels = layer.state_dict(), layer.heads, x.shape[1]
    assert isinstance(heads, int)
    q = functional.conv2d(functional.conv2d(x, state["q.weight"]), state["q_dwconv.weight"], padding=1, groups=channels)
    pooled = functional.adaptive_max_pool2d(q, 3)[0]
    v = functional.gelu((pooled * state["guide.conv.weight"][:, 0]).sum((1, 2)))
    a = torch.tanh(v.view(heads, -1) @ state["guide.share.weight"].T).flatten()
    scaled = x + x * (0.6 * a)[:, None, None]
    kept = state["kv.weight"].shape[0]
    kv = functional.conv2d(scaled, state["kv.weight"])
    k, v = functional.conv2d(kv, state["kv_dwconv.weight"], padding=1, groups=kept)[0].flatten(1).chunk(2)
    assert len(k) == heads * round(channels // heads * (1 - rho))
    mixed = []
    for head in range(heads):
        qh, kh, vh = (t.chunk(heads)[head] for t in (q[0].flatten(1), k, v))
        scores = functional.normalize(qh, dim=1) @ functional.normalize(kh, dim=1).T * state["temperature"][head]
        mixed.append(scores.softmax(dim=1) @ vh)
    return functional.conv2d(torch.cat(mixed).view(x.shape), state["project_out.weight"])


def test_glmha_is_what_its_equations_say() -> None:
    model = network(GLMHA)
    for level, name in enumerate(("encoder_level1", "encoder_level2", "encoder_level3", "latent")):
        layer = model.get_submodule(f"{name}.0.attn")
        x = released.sample(name, 1, 8 * 2**level, 7, 11) - 0.5
        with torch.inference_mode():
            expected = guided_attention(layer, x, GLMHA.reduction[level])
            torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_csa_stays_where_nothing_is_saved() -> None:
    names = {key.split(".")[3] for key in meta_state(GLMHA) if key.startswith("refinement.0.attn.")}
    assert names == {"temperature", "qkv", "qkv_dwconv", "project_out"}


def test_channels_of_zeros_give_numbers() -> None:
    model = network(TINY)
    with torch.no_grad():
        model.encoder_level1[0].attn.qkv.weight.zero_()
        assert model(torch.zeros(1, 3, 8, 8)).isfinite().all()


def test_interface_of_the_released_variants() -> None:
    colour, dual = interface(PRESETS["restormer"]), interface(PRESETS["restormer-dual-pixel"])
    assert (colour.in_channels, colour.out_channels, colour.views, colour.clamp) == (3, 3, (), (0.0, 1.0))
    assert (colour.size_multiple, colour.global_statistics, colour.normalisation) == (8, True, "type")
    assert (dual.in_channels, dual.out_channels, dual.views) == (6, 3, ("left", "right"))
    assert interface(PRESETS["restormer-gray-denoising"]).in_channels == 1


def test_training_reaches_every_parameter() -> None:
    for attention in ("glmha", "linformer", "performer", "reformer"):
        model = Restormer(replace(TINY, attention=attention))
        model(torch.rand(1, 3, 8, 8)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def change(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    """State dicts of other networks, or of damaged files, that resemble a Restormer."""
    return {
        # PromptIR: a Restormer with prompts between the levels of its decoder.
        "prompts": {**state, "prompt1.prompt_param": torch.ones(1, 5, 64, 96, 96)},
        "no end": {key: tensor for key, tensor in state.items() if not key.startswith("refinement")},
        "other hidden": {**state, "latent.0.ffn.project_out.weight": torch.ones(64, 99, 1, 1)},
        "renamed": {key.replace("encoder", "enc"): tensor for key, tensor in state.items()},
        "other block": {key: tensor for key, tensor in state.items() if "decoder_level2.0.attn" not in key},
    }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("prompts", r"do not fit restormer as configured: missing nothing; not expected prompt1\.prompt_param"),
        ("no end", r"looks like restormer, but (tensor refinement.* is missing|its shapes cannot be read)"),
        ("other hidden", r"no ffn_expansion gives hidden sizes \[21, 42, 85, 99\]"),
        ("renamed", r"unknown architecture; the nearest is restormer, which has no .*enc_level1"),
        ("other block", r"do not fit restormer as configured: missing decoder_level2\.0\.attn"),
    ],
)
def test_neighbours_are_named_and_not_loaded(tmp_path: Path, how: str, message: str) -> None:
    torch.save({"params": change(dict(Restormer(TINY).state_dict()), how)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"blocks": (1, 1, 1)}, "blocks"),
        ({"blocks": (1, 1, 1, 0)}, "blocks"),
        ({"blocks": 4}, "blocks"),
        ({"heads": (1, 2, 4)}, "heads"),
        ({"heads": (5, 1, 1, 1)}, "channels"),
        ({"channels": 9}, "channels"),
        ({"channels": "48"}, "channels"),
        ({"refinement_blocks": 0}, "refinement_blocks"),
        ({"ffn_expansion": 0}, "ffn_expansion"),
        ({"ffn_expansion": "2"}, "ffn_expansion"),
        ({"norm": "RMS"}, "norm"),
        ({"bias": 1}, "bias"),
        ({"in_channels": 6}, "in_channels"),
        ({"in_channels": 3, "dual_pixel": True}, "in_channels"),
        ({"attention": "mha"}, "attention"),
        ({"reduction": (0.5,) * 5}, "reduction"),
        ({"attention": "glmha", "reduction": (0.5,) * 4}, "reduction"),
        ({"attention": "glmha", "reduction": (0.5, 0.5, 0.5, 0.5, 1.0)}, "reduction"),
        ({"attention": "glmha", "reduction": (0.0,) * 5}, "reduction"),
        ({"attention": "glmha", "reduction": (0.99, 0.1, 0.1, 0.1, 0.1)}, "reduction"),
        ({"attention": "glmha", "reduction": 0.5}, "reduction"),
        ({"attention": "glmha", "alpha": float("nan")}, "alpha"),
        ({"attention": "glmha", "pool": 0}, "pool"),
    ],
)
def test_impossible_configurations_are_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"RestormerConfig\.{field} is .*; it must be"):
        RestormerConfig(**changes)
