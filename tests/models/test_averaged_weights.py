"""Averaged weights (EMA) in the forms in which trainers save them: taken, said, and another choice possible."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from keygraph.errors import InputError
from keygraph.models import load_checkpoint
from keygraph.models.averaged import looks_averaged
from keygraph.models.restormer import Restormer, RestormerConfig
from keygraph.parity.sides.opening import open_probe
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

CONFIG = RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 2))

State = dict[str, Tensor]


def state(seed: int) -> State:
    """Return weights that differ in every tensor for every seed."""
    torch.manual_seed(seed)
    return {name: torch.randn_like(tensor) for name, tensor in Restormer(CONFIG).state_dict().items()}


RAW, AVERAGE = state(1), state(2)


def prefixed(prefix: str, tensors: State) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def flat(prefix: str, tensors: State, joint: str) -> State:
    return {prefix + name.replace(".", joint): tensor for name, tensor in tensors.items()}


class Ema(torch.nn.Module):
    """An average as a module that holds the network, with the averages in a dictionary."""

    def __init__(self, raw: State, average: State) -> None:
        super().__init__()
        self.model = Restormer(CONFIG)
        self.model.load_state_dict(raw)
        self.shadow, self.backup = average, dict[str, Tensor]()


# Trainer -> content of the file. Each has the averaged weights `AVERAGE` and the raw weights `RAW`.
FORMS: dict[str, Callable[[], Any]] = {
    "BasicSR": lambda: {"params": RAW, "params_ema": AVERAGE},
    "timm": lambda: {"state_dict": RAW, "state_dict_ema": AVERAGE, "args": argparse.Namespace(lr=1e-4)},
    "timm wrapper in Lightning": lambda: {
        "state_dict": {**prefixed("model.", RAW), **prefixed("model_ema.module.", AVERAGE)}
    },
    "Lightning, ema_model": lambda: {"state_dict": {**prefixed("net.", RAW), **prefixed("ema_model.", AVERAGE)}},
    "Lightning, compiled": lambda: {
        "state_dict": {**prefixed("net._orig_mod.", RAW), **prefixed("net_ema._orig_mod.module.", AVERAGE)}
    },
    "Lightning, the module is the network": lambda: {"state_dict": {**RAW, **prefixed("ema.module.", AVERAGE)}},
    "Lightning's WeightAveraging": lambda: {
        "state_dict": prefixed("model.", AVERAGE),
        "current_model_state": prefixed("model.", RAW),
        "averaging_state": {"n_averaged": torch.tensor(9)},
    },
    "NeMo's EMAOptimizer": lambda: {
        "state_dict": prefixed("model.", RAW),
        "optimizer_states": [{"opt": {"state": {}}, "ema": tuple(AVERAGE.values()), "current_step": 9}],
    },
    "an optimizer with a list": lambda: {"model": RAW, "optimizer": {"state": {}, "ema": [*AVERAGE.values()]}},
    "Lightning callback": lambda: {
        "state_dict": prefixed("net.", RAW),
        "callbacks": {"EMACallback{'decay': 0.999}": {"ema_state_dict": prefixed("net.", AVERAGE)}},
    },
    "Lightning's StochasticWeightAveraging": lambda: {
        "state_dict": prefixed("net.", RAW),
        "callbacks": {
            "StochasticWeightAveraging": {"n_averaged": 3, "average_model_state": prefixed("net.", AVERAGE)},
        },
    },
    "latent diffusion (LitEma)": lambda: {
        "state_dict": {
            **prefixed("model.", RAW),
            **flat("model_ema.", AVERAGE, ""),
            "model_ema.decay": torch.tensor(0.999),
            "model_ema.num_updates": torch.tensor(70),
        }
    },
    "MMagic": lambda: {"state_dict": {**prefixed("generator.", RAW), **prefixed("generator_ema.", AVERAGE)}},
    "MMagic, wrapper with counter": lambda: {
        "state_dict": {
            **prefixed("generator.", RAW),
            **prefixed("generator_ema.module.", AVERAGE),
            "generator_ema.steps": torch.tensor(5),
        }
    },
    "MMEngine's EMAHook": lambda: {
        "meta": {"mmengine_version": "0.10.4"},
        "state_dict": prefixed("generator.", AVERAGE),
        "ema_state_dict": {"steps": torch.tensor(5), **prefixed("module.generator.", RAW)},
    },
    "MMCV's EMAHook": lambda: {
        "meta": {"mmcv_version": "1.7.0"},
        "state_dict": {**AVERAGE, **flat("ema_", RAW, "_")},
    },
    "flat buffers of others": lambda: {"state_dict": {**RAW, **flat("ema_", AVERAGE, "_")}},
    "ema_model at the top": lambda: {"model": RAW, "ema_model": AVERAGE, "optimizer": {"lr": 0.1}},
    "model_ema_state_dict": lambda: {"model_state_dict": RAW, "model_ema_state_dict": AVERAGE},
    "generator_ema at the top": lambda: {"generator": RAW, "generator_ema": AVERAGE, "discriminator": {"w": RAW}},
    "g_ema": lambda: {"g": RAW, "g_ema": AVERAGE},
    "ema_params": lambda: {"params": RAW, "ema_params": AVERAGE},
    "emaModel": lambda: {"model": RAW, "emaModel": AVERAGE},
    "averaged_model": lambda: {"model": RAW, "averaged_model": {"n_averaged": 3, "state": AVERAGE}},
    "AveragedModel beside the model": lambda: {
        "model": RAW,
        "swa": {"n_averaged": torch.tensor(2), **prefixed("module.", AVERAGE)},
    },
    "torch_ema, a list": lambda: {
        "model": RAW,
        "ema": {"decay": 0.99, "num_updates": 5, "shadow_params": list(AVERAGE.values()), "collected_params": None},
    },
    "diffusers, a list": lambda: {
        "unet": prefixed("module.", RAW),
        "ema": {"decay": 0.99, "optimization_step": 5, "shadow_params": list(AVERAGE.values())},
    },
    "shadow": lambda: {"model": RAW, "ema": {"decay": 0.99, "shadow": AVERAGE}},
    "ema_pytorch": lambda: {
        "model": RAW,
        "ema": {
            **prefixed("online_model.", RAW),
            **prefixed("ema_model.", AVERAGE),
            "initted": torch.tensor(True),
            "step": torch.tensor(5),
        },
    },
    "Composer": lambda: {"state": {"model": RAW, "algorithms": [("EMA", {"ema_model": AVERAGE})]}},
    "an EMA object with the model": lambda: {"net": RAW, "ema": {"model": RAW, "shadow": AVERAGE, "decay": 0.9}},
    "an EMA object alone": lambda: {"ema": {"module": RAW, "ema": AVERAGE}},
    "student and teacher in an EMA object": lambda: {"ema": {"student": RAW, "teacher": AVERAGE}},
    "source and target in an EMA object": lambda: {"ema": {"source": RAW, "target": AVERAGE}},
    "a list beside the parameters": lambda: {
        "ema": {"params": RAW, "shadow_params": list(AVERAGE.values()), "num_updates": 3}
    },
    "an EMA object in prefixes": lambda: {
        "state_dict": {**prefixed("ema.model.", RAW), **prefixed("ema.shadow.", AVERAGE)}
    },
    "a class with the whole model": lambda: {"model": RAW, "ema": Ema(RAW, AVERAGE)},
    "ultralytics": lambda: {"model": RAW, "ema": AVERAGE, "updates": 7},
    "the same shapes under a wrapper": lambda: {
        "model": prefixed("module._orig_mod.", RAW),
        "ema": prefixed("module._orig_mod.", AVERAGE),
    },
}


def loaded(path: Path, content: Any, **options: Any) -> tuple[State, list[str]]:
    torch.save(content, path)
    model = load_checkpoint(path, **options)
    return dict(model.module.state_dict()), list(model.notes)


def assert_same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("form", FORMS)
def test_averaged_weights_are_taken_and_said_and_raw_ones_can_be_chosen(tmp_path: Path, form: str) -> None:
    weights, notes = loaded(tmp_path / "model.ckpt", FORMS[form]())
    assert_same(weights, AVERAGE)
    assert notes[0].startswith("weights: averaged, '")
    raw = notes[0].partition("; the file also has '")[2].partition("'")[0]
    assert raw
    weights, notes = loaded(tmp_path / "model.ckpt", FORMS[form](), entry=raw)
    assert_same(weights, RAW)
    assert notes[0].startswith(f"weights: '{raw}'")


def test_a_comparison_says_which_weights_it_takes(tmp_path: Path) -> None:
    torch.save(FORMS["BasicSR"](), tmp_path / "model.pth")
    said: list[str] = []
    open_probe(tmp_path / "model.pth", notice=said.append)
    name = tmp_path / "model.pth"
    assert said == [f"{name}: weights: averaged, 'params_ema'; the file also has 'params' (take it with --entry)"]


def test_an_entry_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no weights 'ema'; --entry can be: params_ema, params"):
        loaded(tmp_path / "model.pth", FORMS["BasicSR"](), entry="ema")


def test_averaged_model_of_pytorch_alone(tmp_path: Path) -> None:
    averaged = AveragedModel(Restormer(CONFIG), multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(Restormer(CONFIG))
    weights, notes = loaded(tmp_path / "model.pth", averaged.state_dict())
    assert_same(weights, dict(averaged.module.state_dict()))
    assert notes[0] == "weights: averaged, 'module.'; 1 other tensor left out"


@pytest.mark.parametrize(
    "content",
    [
        {"model": RAW, "swa": {"n_averaged": torch.tensor(0), **prefixed("module.", AVERAGE)}},
        {"model": RAW, "ema": {"num_updates": 0, "shadow_params": list(AVERAGE.values())}},
        {
            "current_model_state": RAW,
            "state_dict": AVERAGE,
            "averaging_state": {"n_averaged": torch.tensor(0)},
            "epoch": 0,
        },
        {"model": RAW, "ema": AVERAGE, "updates": 0},
        {"model": RAW, "ema": AVERAGE, "ema_updates": torch.tensor(0)},
        {"model": RAW, "ema": {"module": AVERAGE, "num_updates": 0}},
        {
            **prefixed("online_model.", RAW),
            **prefixed("ema_model.", AVERAGE),
            "initted": torch.tensor(True),
            "step": torch.tensor(0),
        },
        {"ema": {"model": RAW, "shadow": AVERAGE, "num_updates": 0}},
    ],
    ids=[
        "AveragedModel",
        "list",
        "WeightAveraging",
        "updates",
        "ema_updates",
        "outer num_updates",
        "ema_pytorch",
        "teacher",
    ],
)
def test_an_average_that_was_never_updated_is_no_average(tmp_path: Path, content: Any) -> None:
    weights, notes = loaded(tmp_path / "model.pth", content)
    assert_same(weights, RAW)
    assert "averaged, " not in notes[0]
    assert any("never updated" in note for note in notes)


def test_tensors_without_an_average_are_raw_and_counted(tmp_path: Path) -> None:
    some = {name: tensor for name, tensor in AVERAGE.items() if "norm" not in name}
    weights, notes = loaded(tmp_path / "model.pth", {"model": RAW, "ema": {"shadow": some}})
    assert_same(weights, {**RAW, **some})
    left = len(RAW) - len(some)
    assert f"weights: averaged, 'ema/shadow' ({left} of {len(RAW)} tensors have no average: raw)" in notes[0]


@pytest.mark.parametrize(
    "ema",
    [
        {"shadow_params": [*list(AVERAGE.values())[:-2], torch.ones(3, 3)]},
        {"weights": {"x.weight": torch.ones(4, 4)}},
    ],
    ids=["list of other shapes", "other names"],
)
def test_what_looks_averaged_and_does_not_fit_is_named(tmp_path: Path, ema: Any) -> None:
    weights, notes = loaded(tmp_path / "model.pth", {"model": RAW, "ema": ema})
    assert_same(weights, RAW)
    assert any("looks like averaged weights, but does not fit the others: not taken" in note for note in notes)


@pytest.mark.parametrize("content", [{"params": RAW}, RAW], ids=["params", "top level"])
def test_tensors_that_belong_to_no_network_are_named(tmp_path: Path, content: Any) -> None:
    lora = {"patch_embed.proj.lora_A": torch.ones(2, 2)}
    weights, notes = loaded(tmp_path / "model.pth", {**content, "lora": lora})
    assert_same(weights, RAW)
    assert notes[0].endswith("; not taken: 'lora' (1 tensor)")


def test_moments_and_averaged_losses_are_no_weights(tmp_path: Path) -> None:
    moments = {0: {"exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4), "step": 3}}
    content = {"model": RAW, "optimizer": {"state": moments}, "avg_loss": {"train": torch.tensor(0.5)}}
    weights, notes = loaded(tmp_path / "model.pth", content)
    assert_same(weights, RAW)
    assert notes[0] == "weights: 'model'"
    assert not any("averag" in note for note in notes)


@pytest.mark.parametrize(
    ("names", "averaged"),
    [
        (("state_dict_ema",), True),
        (("EMAWeightAveraging",), True),
        (("netG_EMA",), True),
        (("ema", "online_model"), False),
        (("schema",), False),
        (("cinema_net",), False),
        (("exp_avg",), False),
        (("avgpool",), False),
        (("demand_model",), False),
    ],
)
def test_words_of_names(names: tuple[str, ...], averaged: bool) -> None:
    assert looks_averaged(*names) == averaged
