"""MST++: the published network's tensors and results, other shapes, and detection among similar networks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from keygraph.errors import InputError
from keygraph.models import load_checkpoint, registry, save_checkpoint
from keygraph.models.mst_plus_plus import MSTPlusPlus, MSTPlusPlusConfig, interface

TINY = MSTPlusPlusConfig(out_channels=4, channels=4, stages=2)


def network(config: MSTPlusPlusConfig) -> MSTPlusPlus:
    """Return a network with weights that are all different, in evaluation mode."""
    module = MSTPlusPlus(config)
    module.load_state_dict(released.weights({k: list(v.shape) for k, v in module.state_dict().items()}))
    return module.eval()


def test_tensors_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = MSTPlusPlus(MSTPlusPlusConfig()).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == released.shapes("mst-plus-plus")
    assert (sum(tensor.numel() for tensor in state.values()), len(state)) == (1_619_625, 227)


def test_results_are_the_published_ones() -> None:
    with torch.inference_mode():
        result = network(MSTPlusPlusConfig())(released.sample("picture", 1, 3, 40, 24))
    expected = torch.tensor(released.values("mst-plus-plus"))
    torch.testing.assert_close(released.thinned(result), expected, atol=1e-4, rtol=1e-4)


def test_every_legal_size_works_and_images_do_not_meet() -> None:
    model = network(TINY)
    for height, width in ((8, 8), (16, 24), (40, 8)):
        image = released.sample("picture", 3, 3, height, width)
        with torch.inference_mode():
            together = model(image)
            apart = torch.cat([model(image[i : i + 1]) for i in range(3)])
        assert together.shape == (3, 4, height, width)
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        MSTPlusPlusConfig(in_channels=1, out_channels=2, channels=2, stages=1, blocks=(1, 2)),
        MSTPlusPlusConfig(in_channels=4, out_channels=3, channels=3, stages=11, blocks=(1, 1)),
        MSTPlusPlusConfig(out_channels=2, channels=2, stages=1, blocks=(1, 1, 2, 1, 1)),
    ],
    ids=str,
)
def test_round_trips_and_inference_from_bare_tensors(tmp_path: Path, config: MSTPlusPlusConfig) -> None:
    model = network(config)
    save_checkpoint(tmp_path / "ours.safetensors", model)
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "iter": 9, "state_dict": state, "optimizer": {}}, tmp_path / "released.pth")
    for name in ("ours.safetensors", "released.pth"):
        loaded = load_checkpoint(tmp_path / name)
        assert (loaded.architecture.name, loaded.config) == ("mst_plus_plus", config)
        state = loaded.module.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert interface(config).size_multiple % 2 ** (len(config.blocks) - 1) == 0


def test_what_goes_in_and_out() -> None:
    released_interface = interface(MSTPlusPlusConfig())
    assert released_interface.wavelengths == tuple(range(400, 701, 10))
    assert (released_interface.normalisation, released_interface.clamp) == ("range", (0.0, 1.0))
    assert (released_interface.size_multiple, released_interface.global_statistics) == (8, True)
    assert interface(TINY).wavelengths == ()


NAMES = sorted(path.stem for path in released.FOLDER.glob("*.json") if path.stem != "values")


@pytest.mark.parametrize("name", NAMES)
def test_published_networks_are_told_apart(name: str) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in released.shapes(name).items()}
    found = [architecture.name for architecture in registry.ARCHITECTURES if architecture.detect(state)]
    assert found == ["mst_plus_plus" if name == "mst-plus-plus" else re.split("-", name)[0]]


@pytest.mark.parametrize(
    ("name", "changed", "nearest"),
    [("mst-plus-plus", "conv_in.", "mst_plus_plus"), ("mst-s", "mapping.", "mst"), ("mst-s-real", "mapping.", "mst")],
)
def test_nearest_architecture_is_named(tmp_path: Path, name: str, changed: str, nearest: str) -> None:
    state = {
        key.replace(changed, "other."): torch.zeros(shape)
        for key, shape in released.shapes(name).items()
        if not key.startswith("body.1")
    }
    torch.save(state, tmp_path / "neighbour.pth")
    with pytest.raises(InputError, match=rf"the nearest is {nearest}, which has no .*other\.weight.*, but has "):
        load_checkpoint(tmp_path / "neighbour.pth")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"in_channels": 0}, "in_channels is 0; it must be an integer of at least 1"),
        ({"out_channels": 28}, r"out_channels is 28; it must be the same as channels \(31\)"),
        ({"stages": True}, "stages is True; it must be an integer"),
        ({"blocks": (1,)}, r"blocks is \(1,\); it must be at least two integers"),
    ],
)
def test_wrong_configurations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MSTPlusPlusConfig(**values)
