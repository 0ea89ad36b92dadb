"""MST: the published networks' tensors and results, other shapes, detection, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import released
import torch
from keygraph.errors import InputError
from keygraph.manifest import ExtraInput
from keygraph.models import load_checkpoint, registry, save_checkpoint
from keygraph.models.mst import MST, PRESETS, WAVELENGTHS, MaskGuide, MSTConfig, interface
from torch import nn

TINY = MSTConfig(bands=4, channels=4, blocks=(1, 1, 1))
TINY_REAL = MSTConfig(bands=4, channels=6, blocks=(1, 1, 1), mask_guided=False)


def network(config: MSTConfig) -> MST:
    """Return a network with weights that are all different, in evaluation mode."""
    module = MST(config)
    module.load_state_dict(released.weights({k: list(v.shape) for k, v in module.state_dict().items()}))
    return module.eval()


def meta_state(config: MSTConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(MST(config).state_dict())


@pytest.mark.parametrize("name", PRESETS)
def test_tensors_are_the_published_ones(name: str) -> None:
    state = meta_state(PRESETS[name])
    assert {key: list(tensor.shape) for key, tensor in state.items()} == released.shapes(name)
    architecture = registry.detect(state)
    assert architecture is not None
    assert architecture.name == "mst"
    assert architecture.infer(state, {}) == PRESETS[name]


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [
        ("mst-s", 922_648, 202),
        ("mst-m", 1_487_592, 316),
        ("mst-l", 2_018_156, 525),
        ("mst-s-real", 707_048, 141),
        ("mst-m-real", 1_184_184, 219),
        ("mst-l-real", 1_630_076, 362),
    ],
)
def test_sizes_are_the_published_ones(name: str, parameters: int, tensors: int) -> None:
    state = meta_state(PRESETS[name])
    assert (sum(tensor.numel() for tensor in state.values()), len(state)) == (parameters, tensors)


def test_simulation_results_are_the_published_ones() -> None:
    measurement = released.sample("measurement", 1, 1, 256, 256 + 54) * 14
    mask = (released.sample("mask", 1, 1, 256, 256) > 0.5).float()
    with torch.inference_mode():
        result = network(PRESETS["mst-s"])(measurement, mask)
    expected = torch.tensor(released.values("mst-s"))
    torch.testing.assert_close(released.thinned(result), expected, atol=1e-4, rtol=1e-4)


def test_real_data_results_are_the_published_ones() -> None:
    measurement = released.sample("measurement", 1, 48, 48 + 54)[None] * 0.8
    with torch.inference_mode():
        result = network(PRESETS["mst-s-real"])(measurement)
    expected = torch.tensor(released.values("mst-s-real"))
    torch.testing.assert_close(released.thinned(result), expected, atol=1e-4, rtol=1e-4)


def test_network_inputs_are_made_from_measurement_and_mask() -> None:
    model = network(TINY)
    height, width = 8, 12
    measurement = released.sample("measurement", 2, 1, height, width + 6)
    mask = released.sample("mask", 2, 1, height, width)
    guess, dispersed = torch.zeros(2, 4, height, width), torch.zeros(2, 4, height, width + 6)
    for band in range(4):
        guess[:, band] = measurement[:, 0, :, 2 * band : 2 * band + width] / 4 * 2
        dispersed[:, band, :, 2 * band : 2 * band + width] = mask[:, 0]
    with torch.inference_mode():
        assert torch.equal(model(measurement, mask), model.reconstruct(guess, dispersed))


@pytest.mark.parametrize("bands", [5, 28])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_dispersion_shrinks_with_the_level_whatever_the_size(level: int, bands: int) -> None:
    channels, width = bands * 2**level, 20
    shifts = [int(2 / 4**level * channel) for channel in range(channels)]
    guide = MaskGuide(channels, level)
    with torch.no_grad():
        for conv in (guide.conv1, guide.conv2):
            conv.weight.copy_(torch.eye(channels)[:, :, None, None])
            assert conv.bias is not None
            conv.bias.zero_()
        guide.depth_conv.weight.zero_()
        assert guide.depth_conv.bias is not None
        guide.depth_conv.bias.fill_(100.0)  # The sigmoid is 1, so the features are twice the mask.
        mask = released.sample("mask", 2, channels, 3, width + shifts[-1])
        result = guide(mask) / 2
    assert result.shape == (2, channels, 3, width)
    for channel, shift in enumerate(shifts):
        torch.testing.assert_close(result[:, channel], mask[:, channel, :, shift : shift + width])


@pytest.mark.parametrize("config", [TINY, TINY_REAL, MSTConfig(bands=5, channels=5, blocks=(1, 2, 1, 1))], ids=str)
def test_every_legal_size_works_and_images_do_not_meet(config: MSTConfig) -> None:
    model = network(config)
    for height, width in ((1, 1), (2, 3), (5, 1)):
        height, width = height * config.size_multiple, width * config.size_multiple
        inputs = [released.sample("measurement", 3, 1, height, width + config.margin)]
        if config.mask_guided:
            inputs.append(released.sample("mask", 3, 1, height, width))
        with torch.inference_mode():
            together = model(*inputs)
            apart = torch.cat([model(*(tensor[i : i + 1] for tensor in inputs)) for i in range(3)])
        assert together.shape == (3, config.bands, height, width)
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_one_mask_serves_a_whole_batch_of_first_guesses() -> None:
    model = network(TINY)
    guess, mask = released.sample("guess", 2, 4, 8, 8), released.sample("mask", 1, 4, 8, 14)
    with torch.inference_mode():
        one, each = model.reconstruct(guess, mask), model.reconstruct(guess, mask.expand(2, -1, -1, -1))
    torch.testing.assert_close(one, each)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        TINY_REAL,
        MSTConfig(bands=1, channels=1, blocks=(2, 1)),
        MSTConfig(bands=3, channels=3, blocks=(1, 2, 1, 3)),
        MSTConfig(bands=5, channels=2, blocks=(3, 1), mask_guided=False),
        MSTConfig(bands=2, channels=2, blocks=(1, 11)),
    ],
    ids=str,
)
def test_round_trips_and_inference_from_bare_tensors(tmp_path: Path, config: MSTConfig) -> None:
    model = network(config)
    save_checkpoint(tmp_path / "ours.safetensors", model)
    torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, tmp_path / "bare.pth")
    for name in ("ours.safetensors", "bare.pth"):
        loaded = load_checkpoint(tmp_path / name)
        assert (loaded.architecture.name, loaded.config) == ("mst", config)
        state = loaded.module.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickle"])
def test_a_pickled_real_data_module_gives_its_weights(tmp_path: Path, zipped: bool) -> None:
    model = network(TINY_REAL)
    parallel = nn.DataParallel(model)  # As the authors save it.
    torch.save(parallel, tmp_path / "module.pth", _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(tmp_path / "module.pth")
    assert loaded.config == TINY_REAL
    state = loaded.module.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def test_what_goes_in_and_out() -> None:
    simulation, real = interface(PRESETS["mst-l"]), interface(PRESETS["mst-l-real"])
    assert (simulation.normalisation, simulation.clamp, simulation.margin) == ("none", None, (0, 54))
    assert simulation.extra_inputs == (ExtraInput("mask", 1, (0, 0)),)
    assert (real.normalisation, real.gain, real.clamp, real.extra_inputs) == ("peak", 0.8, (0.0, 1.0), ())
    for each in (simulation, real):
        assert (each.in_channels, each.out_channels, each.size_multiple, each.scale) == (1, 28, 4, 1)
        assert each.wavelengths == WAVELENGTHS
        assert each.global_statistics
    assert list(WAVELENGTHS) == sorted(WAVELENGTHS)
    assert (WAVELENGTHS[0], WAVELENGTHS[-1], len(WAVELENGTHS)) == (453.3, 648.1, 28)
    assert interface(TINY).wavelengths == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bands": 0}, "bands is 0; it must be an integer of at least 1"),
        ({"channels": 2.0}, "channels is 2.0; it must be an integer"),
        ({"channels": 31}, r"channels is 31; it must be the number of bands \(28\) with a mask"),
        ({"blocks": (2,)}, r"blocks is \(2,\); it must be at least two integers"),
        ({"blocks": (2, 0, 2)}, "at least two integers of at least 1"),
        ({"blocks": 3}, "blocks is 3; it must be at least two integers"),
        ({"mask_guided": 1}, "mask_guided is 1; it must be true or false"),
    ],
)
def test_wrong_configurations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MSTConfig(**values)
