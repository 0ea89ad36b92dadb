"""Parameters and multiply-accumulates: the released networks, savings of GLMHA, and keygraph's operators."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import released
from keygraph.models import ARCHITECTURES, Architecture, kgt, restormer
from keygraph.models.channel_attention import preset_reduction
from keygraph.models.kgt import KGTConfig
from keygraph.models.macs import Macs, count_macs, count_parameters
from keygraph.models.restormer import PRESETS, RestormerConfig

COLOUR = PRESETS["restormer"]


@cache
def counted(config: RestormerConfig) -> Macs:
    """At 256 x 256."""
    return count_macs(restormer.ARCHITECTURE, config)


def giga(macs: int) -> float:
    return round(macs / 1e9, 3)


@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "layers", "total"),
    [
        ("restormer", 26_126_644, 494, 140.990, 154.882),
        ("restormer-dual-pixel", 26_132_548, 495, 141.377, 155.269),
        ("restormer-denoising", 26_111_668, 406, 140.990, 154.882),
        ("restormer-gray-denoising", 26_109_076, 406, 140.821, 154.712),
    ],
)
def test_released_restormers(name: str, parameters: int, tensors: int, layers: float, total: float) -> None:
    macs = counted(PRESETS[name])
    assert (giga(macs.layers), giga(macs.total)) == (layers, total)
    assert count_parameters(restormer.ARCHITECTURE, PRESETS[name]) == parameters
    assert len(released.shapes(name)) == tensors


@pytest.mark.parametrize(
    ("preset", "rho", "parameters", "layers", "total"),
    [
        ("uniform", 0.5, 1_658_880, 11.117, 18.062),
        ("table", 0.75, 358_752, 7.443, 12.847),
    ],
)
def test_what_glmha_saves(preset: str, rho: float, parameters: int, layers: float, total: float) -> None:
    glmha = replace(COLOUR, attention="glmha", reduction=preset_reduction(preset, COLOUR.reduced_heads, rho))
    saved = count_parameters(restormer.ARCHITECTURE, COLOUR) - count_parameters(restormer.ARCHITECTURE, glmha)
    assert saved == parameters
    old, new = counted(COLOUR), counted(glmha)
    assert (giga(old.layers - new.layers), giga(old.total - new.total)) == (layers, total)


def test_glmha_by_hand() -> None:
    """One block of C channels and h heads on N pixels: the paper's equation 8, and the products of its equations."""
    small = RestormerConfig(channels=16, blocks=(1, 1, 1, 1), refinement_blocks=1)
    glmha = replace(small, attention="glmha", reduction=(0.0, 0.5, 0.0, 0.0, 0.0))
    old, new = (count_macs(restormer.ARCHITECTURE, config, 64, 64) for config in (small, glmha))
    channels, heads, pixels, kept = 32, 2, 32 * 32, 16
    guide = channels * 9 + heads * (channels // heads) ** 2
    fewer_layers = 2 * (channels - kept) * (channels + 9) * pixels - guide
    assert old.layers - new.layers == 2 * fewer_layers  # in encoder and decoder
    assert old.attention - new.attention == 2 * 2 * channels // heads * (channels - kept) * pixels


def test_macs_grow_with_the_pixels() -> None:
    small = RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1)
    once, twice = (count_macs(restormer.ARCHITECTURE, small, 64, width) for width in (64, 128))
    assert twice == Macs(2 * once.layers, 2 * once.attention, 2 * once.norms)


@pytest.mark.parametrize("k", [5, 16, 99])
def test_key_graphs_are_counted_for_k(k: int) -> None:
    config = KGTConfig(layers=(2, 1), channels=8, heads=2, window=4, k=k)
    nodes, pixels, channels = 16, 16 * 24, 8
    graphs = 2 * pixels * nodes * channels
    attention = 3 * 2 * pixels * min(k, nodes) * channels
    macs = count_macs(kgt.ARCHITECTURE, config, 16, 24)
    assert macs.attention == graphs + attention
    convolutions = 9 * (3 * channels + 2 * channels**2 + channels * 3)
    linear = 3 * (4 * channels**2 + 4 * channels**2)
    assert macs.layers == pixels * (convolutions + linear)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (COLOUR, ["140.99 G, without attention products"]),
        (PRESETS["restormer-denoising"], ["140.99 G, without attention products"]),
        (PRESETS["restormer-gray-denoising"], []),
        (replace(COLOUR, blocks=(1, 1, 1, 1)), []),
        (
            replace(COLOUR, attention="glmha"),
            ["motion deblurring: 370k and 7.72 G less than csa", "deraining: 350k and 6.46 G less than csa"],
        ),
    ],
)
def test_published_figures_stand_beside_the_networks_that_they_are_for(config: Any, words: list[str]) -> None:
    assert [entry.words for entry in restormer.ARCHITECTURE.published_for(config)] == words


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_published_figures_name_fields_that_exist(architecture: Architecture) -> None:
    for entry in architecture.published:
        config = architecture.config_type()
        assert all(hasattr(config, name) for name in entry.fields)
        assert entry in architecture.published_for(replace(config, **entry.fields))
