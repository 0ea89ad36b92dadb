"""Checkpoints: round trips, wrappers, key maps, and the errors for invalid files."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from keygraph.errors import InputError
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.checkpoint import weights_sha256
from keygraph.models.kgt import KGT, PRESETS, KGTConfig, infer_config
from safetensors.torch import save_file

CONFIG = KGTConfig(
    body="unet", layers=(1, 1, 1, 1), channels=8, heads=2, window=4, k=5, k_trained=(2, 5), task="denoising"
)
SETTINGS = {"heads": 2, "window": 4, "k": 5}


@pytest.fixture
def model() -> KGT:
    torch.manual_seed(0)
    return KGT(CONFIG)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return path


def assert_same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        KGTConfig(layers=(1, 2), channels=12, heads=3, window=4, scale=3, in_channels=1, out_channels=1),
        KGTConfig(layers=(1,), channels=8, heads=2, window=4, position_bias=True, ffn_ratio=1.5, similarity="cosine"),
    ],
    ids=["unet", "super-resolution", "bias"],
)
def test_round_trip_is_exact(tmp_path: Path, suffix: str, config: KGTConfig) -> None:
    model = KGT(config)
    path = tmp_path / f"model{suffix}"
    save_checkpoint(path, model)
    loaded = load_checkpoint(path)
    assert loaded.config == config
    assert_same(model.state_dict(), dict(loaded.module.state_dict()))
    assert not loaded.module.training


def test_manifest_says_what_goes_in_and_out(tmp_path: Path, model: KGT) -> None:
    save_checkpoint(tmp_path / "a.ckpt", model)
    save_checkpoint(tmp_path / "b.safetensors", model)
    manifest = load_checkpoint(tmp_path / "a.ckpt").manifest()
    assert (manifest.size_multiple, manifest.task, manifest.architecture) == (8, "denoising", "kgt")
    assert manifest.neighbours is not None
    assert (manifest.neighbours.default, manifest.neighbours.maximum) == (5, 16)
    # The digest of the weights does not depend on the file format.
    assert manifest.weights_sha256 == load_checkpoint(tmp_path / "b.safetensors").manifest().weights_sha256


def test_weights_hash_sees_every_change(model: KGT) -> None:
    before = weights_sha256(model.state_dict())
    with torch.no_grad():
        model.get_parameter("tail.bias")[0] += 1e-6
    assert weights_sha256(model.state_dict()) != before


def wrapped(model: KGT, how: str) -> Any:
    state = model.state_dict()
    other = {name: tensor + 1 for name, tensor in state.items()}
    prefixed = {f"net.{name}": tensor for name, tensor in state.items()}
    return {
        "bare": state,
        "params": {"params": state},
        "ema": {"params": other, "params_ema": state},
        "data parallel": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        "compiled": {"model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}},
        "lightning": {"epoch": 3, "state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
        "lightning with loss": {"state_dict": {**prefixed, "criterion.weight": torch.ones(3)}},
        "lightning with ema": {
            "state_dict": {
                **{f"net.{n}": t for n, t in other.items()},
                **{f"ema_model.{n}": t for n, t in state.items()},
            }
        },
        "nested": {"model": {"state_dict": state}, "optimizer": {"lr": 0.1}},
    }[how]


@pytest.mark.parametrize(
    ("how", "note"),
    [
        ("bare", None),
        ("params", "weights: 'params'"),
        ("ema", "weights: averaged, 'params_ema'; the file also has 'params' (take it with --entry)"),
        ("data parallel", "weights: 'state_dict/module.'"),
        ("compiled", "weights: 'model/_orig_mod.'"),
        ("lightning", "weights: 'state_dict/model.'"),
        ("lightning with loss", "weights: 'state_dict/net.'; 1 other tensor left out"),
        ("lightning with ema", "weights: averaged, 'state_dict/ema_model.'; the file also has 'state_dict/net.'"),
        ("nested", "weights: 'model/state_dict'"),
    ],
)
def test_wrappers_are_unwrapped_and_said(
    tmp_path: Path, settings: Path, model: KGT, how: str, note: str | None
) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save(wrapped(model, how), path)
    loaded = load_checkpoint(path, config=settings)
    assert_same(model.state_dict(), dict(loaded.module.state_dict()))
    assert note is None or note in "\n".join(loaded.notes)


def test_half_precision_weights_are_converted_and_said(tmp_path: Path, settings: Path, model: KGT) -> None:
    torch.save(model.half().state_dict(), tmp_path / "half.pth")
    loaded = load_checkpoint(tmp_path / "half.pth", config=settings)
    assert all(p.dtype == torch.float32 for p in loaded.module.parameters())
    assert any("float16 converted to float32" in note for note in loaded.notes)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_configuration_is_inferred_from_shapes_where_a_preset_fits(preset: KGTConfig) -> None:
    with torch.device("meta"):
        state = KGT(preset).state_dict()
    assert infer_config(state, {}) == preset


def test_configuration_is_inferred_from_a_position_bias(tmp_path: Path) -> None:
    config = KGTConfig(layers=(2, 1), channels=12, heads=3, window=4, k=16, position_bias=True, scale=2)
    path = tmp_path / "bare.pth"
    torch.save(KGT(config).state_dict(), path)
    loaded = load_checkpoint(path)
    assert loaded.config == config
    assert any("inferred" in note for note in loaded.notes)


def test_key_map(tmp_path: Path, settings: Path, model: KGT) -> None:
    state = {"enc." + name.replace("body.", "stage"): tensor for name, tensor in model.state_dict().items()}
    state["criterion.weight"] = torch.ones(2)
    torch.save(state, tmp_path / "foreign.pth")
    rules = tmp_path / "rules.txt"
    rules.write_text(
        "# ours\nenc\\.stage(\\d+)\\.(.*) -> body.\\1.\\2\nenc\\.(.*) -> \\1\ncriterion\\..* ->\nnothing -> x\n"
    )
    loaded = load_checkpoint(tmp_path / "foreign.pth", key_map=rules, config=settings)
    assert_same(model.state_dict(), dict(loaded.module.state_dict()))
    assert any("'nothing' matched nothing" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no arrow here", r"rules.txt:1: .* is not a rule"),
        ("\n( -> a", r"rules.txt:2: '\(' is not a regular expression"),
        (".* -> same", "both become 'same'"),
        (r"(.*) -> \2", "does not fit"),
    ],
)
def test_wrong_key_maps(tmp_path: Path, model: KGT, text: str, message: str) -> None:
    torch.save(model.state_dict(), tmp_path / "m.pth")
    (tmp_path / "rules.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "m.pth", key_map=tmp_path / "rules.txt")


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"state_dict": Payload(trace)}))
    with pytest.raises(InputError, match="would run code"):
        load_checkpoint(path)
    torch.save({"state_dict": Payload(trace)}, path)
    with pytest.raises(InputError, match="would run code"):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>sign in</html>", "is a web page"),
        (b"\n <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"hello", "cannot be read as a checkpoint"),
        (b"\x80\x04garbage", "cannot be read as a checkpoint"),
    ],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_look_like_incomplete_downloads(tmp_path: Path, model: KGT, suffix: str, share: float) -> None:
    path = tmp_path / f"model{suffix}"
    save_checkpoint(path, model)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"\(\d+ KB\).*incomplete download"):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_unknown_architecture_names_the_nearest_and_its_first_keys(tmp_path: Path) -> None:
    torch.save({"head.weight": torch.ones(1), "blocks.0.attn.w": torch.ones(1)}, tmp_path / "u.pth")
    with pytest.raises(InputError, match=r"nearest is kgt, which has no blocks\.0\.attn\.w, but has .*; map the keys"):
        load_checkpoint(tmp_path / "u.pth")
    torch.save({"architecture": "swinir", "params": {"w": torch.ones(1)}}, tmp_path / "n.pth")
    with pytest.raises(InputError, match="'swinir', which keygraph does not know; it knows: kgt"):
        load_checkpoint(tmp_path / "n.pth")


def save_changed(model: KGT, path: Path, change: Any) -> None:
    state = dict(model.state_dict())
    change(state)
    torch.save({"architecture": "kgt", "config": dataclasses.asdict(CONFIG), "params": state}, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"tail.weight": torch.ones(3, 9, 3, 3)}),
            r"tensor tail\.weight is \[3, 9, 3, 3\]; .* has \[3, 8, 3, 3\]",
        ),
        (lambda s: s.pop("tail.bias"), r"missing tail\.bias; not expected nothing"),
        (lambda s: s.update(extra=torch.ones(1)), "missing nothing; not expected extra"),
        (lambda s: s.update({"tail.bias": torch.tensor([1.0, float("nan"), 2.0])}), r"tail\.bias holds 1 NaN"),
        (lambda s: s.update({"tail.bias": torch.tensor([1.0, float("inf"), 2.0])}), r"tail\.bias holds 1 NaN or inf"),
    ],
    ids=["shape", "missing", "superfluous", "nan", "inf"],
)
def test_tensors_that_do_not_fit(tmp_path: Path, model: KGT, change: Any, message: str) -> None:
    path = tmp_path / "wrong.ckpt"
    save_changed(model, path, change)
    with pytest.raises(InputError, match=message):
        load_checkpoint(path)


def test_configurations_that_do_not_fit(tmp_path: Path, model: KGT) -> None:
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match="shapes do not determine heads, window, k"):
        load_checkpoint(path)
    config = tmp_path / "c.json"
    for text, message in (
        ("not json", "give a JSON object"),
        ('{"colour": 1}', "has no setting colour; it has: body, layers"),
        ('{"heads": 3, "window": 4, "k": 5}', r"channels is 8; it must be a multiple of heads \(3\)"),
    ):
        config.write_text(text)
        with pytest.raises(InputError, match=message):
            load_checkpoint(path, config=config)
    with pytest.raises(InputError, match="cannot be read as a configuration"):
        load_checkpoint(path, config=tmp_path / "none.json")


def test_no_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        load_checkpoint(tmp_path / "none.pth")


def test_safetensors_of_others(tmp_path: Path, settings: Path, model: KGT) -> None:
    save_file(dict(model.state_dict()), tmp_path / "foreign.safetensors", {"format": "pt"})
    loaded = load_checkpoint(tmp_path / "foreign.safetensors", config=settings)
    assert_same(model.state_dict(), dict(loaded.module.state_dict()))


def test_saving_leaves_nothing_half_written(tmp_path: Path, model: KGT) -> None:
    with pytest.raises(InputError, match="cannot write"):
        save_checkpoint(tmp_path / "absent" / "m.ckpt", model)
    with pytest.raises(ValueError, match="no architecture"):
        save_checkpoint(tmp_path / "m.ckpt", torch.nn.Linear(1, 1))
    assert list(tmp_path.iterdir()) == []
