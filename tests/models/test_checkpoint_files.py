"""Checkpoint files by content: other names, other formats, shards, kinds of tensors, wrappers."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keygraph.cli.inspect import describe
from keygraph.errors import InputError
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.restormer import Restormer, RestormerConfig
from safetensors.torch import save_file
from torch import Tensor

CONFIG = RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 2))

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in Restormer(CONFIG).state_dict().items()}


def assert_loads(path: Path, state: State) -> list[str]:
    loaded = load_checkpoint(path)
    found = loaded.module.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    return list(loaded.notes)


# Names do not decide


@pytest.mark.parametrize("name", ["model.pth", "model.ckpt", "model.bin", "model"])
def test_safetensors_under_another_name(tmp_path: Path, state: State, name: str) -> None:
    save_file(state, tmp_path / name)
    assert_loads(tmp_path / name, state)
    assert describe(tmp_path / name)["kind"] == "checkpoint"


def test_pytorch_file_named_safetensors(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "model.safetensors")
    assert_loads(tmp_path / "model.safetensors", state)


# Files that are no checkpoints


def _npz(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), a=np.ones(3))
    path.with_suffix(".npz").rename(path)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/model.pth", b"x")
        archive.writestr("readme.txt", b"x")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())


def _torchscript(path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    torch.jit.save(torch.jit.trace(Net(), torch.ones(2)), path)


def _onnx(path: Path) -> None:
    import onnx
    from onnx import helper

    value = helper.make_tensor_value_info("x", 1, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    path.write_bytes(helper.make_model(graph, producer_name="pytorch").SerializeToString())
    onnx.load(path)


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "TorchScript": (_torchscript, r"TorchScript program; save its weights with: torch\.save\(torch\.jit\.load\("),
    "ONNX": (_onnx, "it is an ONNX model"),
    "npz": (_npz, "archive of NumPy arrays"),
    "zip": (_zip, r"a zip archive of best/model\.pth, readme\.txt; unpack it"),
    "empty zip": (lambda p: zipfile.ZipFile(p, "w").close(), "zip archive of nothing"),
    "tar": (_tar, "a tar archive; unpack it first"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x" * 999)), "compressed with gzip; unpack it first"),
    "GGUF": (lambda p: p.write_bytes(b"GGUF" + bytes(99)), "a GGUF file"),
    "HDF5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
    "image": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "an image"),
    "LFS pointer": (
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "git lfs pull",
    ),
    "git-annex pointer": (lambda p: p.write_bytes(b"/annex/objects/SHA256E-s9--0.pth\n"), "git annex get"),
    "web page": (lambda p: p.write_bytes(b"<!DOCTYPE html><html>sign in</html>"), "is a web page"),
    "JSON": (lambda p: p.write_bytes(b'{"error": "Repository not found"}'), 'begins with .*"Repository not found"'),
    "text": (lambda p: p.write_bytes(b"Invalid username or password.\n"), "text that begins with 'Invalid username"),
    "text in parentheses": (lambda p: p.write_bytes(b"(access denied)\n"), "text that begins with '.access denied"),
    "unknown": (
        lambda p: p.write_bytes(bytes(range(128, 256))),
        "it begins with 80 81 82",
    ),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_a_file_is_instead(tmp_path: Path, kind: str, suffix: str) -> None:
    write, message = FOREIGN[kind]
    path = tmp_path / f"model{suffix}"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    if kind not in ("unknown",):
        assert "incomplete download" not in str(caught.value)


def test_folders_name_what_is_in_them(tmp_path: Path, state: State) -> None:
    with pytest.raises(InputError, match=r"is a folder; give a checkpoint: \.ckpt"):
        load_checkpoint(tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"is a folder; give the checkpoint in it: model\.safetensors"):
        load_checkpoint(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(InputError, match="dcp_to_torch"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "args": {"lr": 1}}, r"it has: epoch \(int\), args \(dict\)"),
        ({}, "it is an empty dict"),
        ([1, 2], "it is a list"),
        (3, "it is a int"),
        (Restormer, "it is a Global"),
        ({f"k{i}": i for i in range(12)}, r"k7 \(int\) and 4 more"),
    ],
)
def test_files_without_tensors_say_what_is_in_them(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match="holds no state dict") as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert caught.match(message)


# Shards


def shards(folder: Path, state: State, names: tuple[str, str], save: Callable[[State, Path], Any]) -> Path:
    keys = list(state)
    parts = ({k: state[k] for k in keys[::2]}, {k: state[k] for k in keys[1::2]})
    places: dict[str, str] = {}
    for name, part in zip(names, parts, strict=True):
        save(part, folder / name)
        places |= dict.fromkeys(part, name)
    index = folder / f"{names[0].partition('-')[0]}{Path(names[0]).suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BIN = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.mark.parametrize(("names", "save"), [(NAMES, save_file), (BIN, torch.save)], ids=["safetensors", "bin"])
def test_shards_are_read_by_their_index_and_by_one_of_them(
    tmp_path: Path, state: State, names: tuple[str, str], save: Callable[[State, Path], Any]
) -> None:
    index = shards(tmp_path, state, names, save)
    for path in (index, tmp_path / names[0], tmp_path / names[1]):
        assert "read from 2 shards" in assert_loads(path, state)
    assert describe(index)["kind"] == "checkpoint"


def test_missing_shards_are_named(tmp_path: Path, state: State) -> None:
    index = shards(tmp_path, state, NAMES, save_file)
    (tmp_path / NAMES[1]).unlink()
    for path in (index, tmp_path / NAMES[0]):
        with pytest.raises(
            InputError, match=r"2 files, of which 1 are missing: model-00002-of-00002\.safetensors"
        ) as e:
            load_checkpoint(path)
        assert "incomplete download" not in str(e.value)


@pytest.mark.parametrize("names", [("w-1-of-2.bin", "w-2-of-2.bin"), ("w-01-of-02.bin", "w-02-of-02.bin"), BIN])
def test_numbered_shards_need_each_other(tmp_path: Path, state: State, names: tuple[str, str]) -> None:
    shards(tmp_path, state, names, torch.save).unlink()
    assert "read from 2 shards" in assert_loads(tmp_path / names[0], state)
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match="is one of 2 files of a checkpoint by its name, and the others are not in"):
        load_checkpoint(tmp_path / names[0])


def test_a_whole_checkpoint_of_an_epoch_is_no_shard(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "epoch-00001-of-00099.ckpt")
    assert_loads(tmp_path / "epoch-00001-of-00099.ckpt", state)


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "not json", '{"weight_map": {}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": 3}', "[" * 100_000],
)
def test_an_index_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="is no index of a checkpoint"):
        load_checkpoint(tmp_path / "model.safetensors.index.json")


def test_an_index_of_other_shards(tmp_path: Path, state: State) -> None:
    index = shards(tmp_path, state, NAMES, save_file)
    shutil.copy(tmp_path / NAMES[0], tmp_path / NAMES[1])
    with pytest.raises(InputError, match="both have"):
        load_checkpoint(index)
    save_file({"x": torch.ones(1)}, tmp_path / NAMES[1])
    with pytest.raises(InputError, match="the shards have no"):
        load_checkpoint(index)


# Kinds of tensors


def convolutions(state: State, change: Callable[[Tensor], Tensor]) -> State:
    return {name: change(tensor) if tensor.ndim == 4 else tensor for name, tensor in state.items()}


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_floating_point_types_are_converted_and_said(
    tmp_path: Path, state: State, kind: torch.dtype, suffix: str
) -> None:
    stored = {name: tensor.to(kind) for name, tensor in state.items()}
    path = tmp_path / f"model{suffix}"
    save_file(stored, path) if suffix == ".safetensors" else torch.save(stored, path)
    notes = assert_loads(path, {name: tensor.float() for name, tensor in stored.items()})
    assert f"tensors of type {str(kind).removeprefix('torch.')} converted to float32" in notes


def test_values_beyond_float32(tmp_path: Path, state: State) -> None:
    torch.save(convolutions(state, lambda t: t.double() * 1e60), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"NaN or infinite values \(as float32\)"):
        load_checkpoint(tmp_path / "a.pth")


def test_sparse_tensors_become_dense(tmp_path: Path, state: State) -> None:
    torch.save(convolutions(state, lambda t: t.to_sparse()), tmp_path / "a.pth")
    assert "tensors of type float32 (sparse) converted to float32" in assert_loads(tmp_path / "a.pth", state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t * 100).to(torch.int8), "is of type int8, where the network has float32; integers mean nothing"),
        (lambda t: (t * 100).to(torch.uint8), "is of type uint8.* their scales"),
        (lambda t: t.to(torch.complex64), "is of type complex64, where the network has float32; save it as float32"),
        (lambda t: t.to("meta"), "holds no values"),
        (lambda t: t[:0], "correct the configuration with --config|cannot be read"),
    ],
    ids=["int8", "uint8", "complex", "meta", "empty"],
)
def test_tensors_that_are_no_weights(
    tmp_path: Path, state: State, change: Callable[[Tensor], Tensor], message: str
) -> None:
    torch.save(convolutions(state, change), tmp_path / "a.pth")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_type_that_cannot_be_converted_is_refused(tmp_path: Path, state: State, suffix: str) -> None:
    packed = convolutions(state, lambda t: torch.zeros(t.shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2))
    (torch.save if suffix == ".pth" else save_file)(packed, tmp_path / f"f4{suffix}")
    with pytest.raises(InputError, match="is of type float4_e2m1fn_x2, which PyTorch cannot convert to float32"):
        load_checkpoint(tmp_path / f"f4{suffix}")


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "output.weight"])
def test_a_single_missing_tensor_is_named(tmp_path: Path, state: State, name: str) -> None:
    torch.save({key: tensor for key, tensor in state.items() if key != name}, tmp_path / "model.pth")
    with pytest.raises(InputError, match=rf"restormer, but (without|tensor) {name}") as caught:
        load_checkpoint(tmp_path / "model.pth")
    assert "nothing" not in str(caught.value)


def test_deepspeed_without_values(tmp_path: Path, state: State) -> None:
    torch.save({"module": {name: torch.empty(0) for name in state}, "ds_version": "0.14"}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"zero_to_fp32\.py"):
        load_checkpoint(tmp_path / "a.pt")


def test_numpy_arrays_are_weights(tmp_path: Path, state: State) -> None:
    torch.save({"params": {name: tensor.numpy() for name, tensor in state.items()}}, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", state)


def test_a_number_that_would_make_a_network_without_end(tmp_path: Path, state: State) -> None:
    changed = dict(state)
    name = next(key for key in state if ".0." in key)
    changed[name.replace(".0.", ".99999999.")] = changed.pop(name)
    torch.save(changed, tmp_path / "a.pth")
    with pytest.raises(InputError, match="has a number larger than the file has tensors"):
        load_checkpoint(tmp_path / "a.pth")


def test_names_from_a_file_keep_messages_in_one_line(tmp_path: Path, state: State) -> None:
    torch.save({**state, "x\ny\x1b[31m": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"not expected x\?y\?\[31m"):
        load_checkpoint(tmp_path / "a.pth")


# Entries of other programs with our names


@pytest.mark.parametrize("metadata", ["made with keygraph", "[]", '{"architecture": 3}', "3", "[" * 100_000])
def test_foreign_metadata_is_no_header(tmp_path: Path, state: State, metadata: str) -> None:
    save_file(state, tmp_path / "a.safetensors", {"keygraph": metadata})
    notes = assert_loads(tmp_path / "a.safetensors", state)
    assert "metadata 'keygraph' is not what save_checkpoint writes: not used" in notes


@pytest.mark.parametrize(
    "header",
    [
        {"config": {"lr": 1e-4, "model": "x"}},
        {"architecture": "Restormer-B", "config": {"dim": 48}},
        {"architecture": "Restormer-B"},
        {"architecture": ["x"], "config": [1]},
    ],
)
def test_foreign_settings_are_no_header(tmp_path: Path, state: State, header: dict[str, Any]) -> None:
    torch.save({**header, "state_dict": state}, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", state)


def test_a_stored_configuration_allocates_nothing_that_is_not_in_the_file(tmp_path: Path, state: State) -> None:
    torch.save({"architecture": "restormer", "config": {"channels": 1 << 20}, "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"tensors do not fit restormer as configured|tensor .* is "):
        load_checkpoint(tmp_path / "a.pth")


# Wrappers


def prefixed(prefix: str, tensors: State) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


LOSS = {"vgg.0.weight": torch.ones(4, 3, 3, 3)}

WRAPPERS: dict[str, Callable[[State], Any]] = {
    "compile and loss": lambda s: {"state_dict": {**prefixed("model._orig_mod.", s), **prefixed("loss_fn.", LOSS)}},
    "DDP and loss": lambda s: {"state_dict": {**prefixed("model.module.", s), **prefixed("criterion.", LOSS)}},
    "DeepSpeed": lambda s: {"module": s, "optimizer": None, "ds_version": "0.14"},
    "net_g": lambda s: {"net_g": s, "net_d": LOSS},
    "settings named params": lambda s: {"params": {"lr": 1e-4}, "state_dict": s},
    "settings named ema": lambda s: {"ema": {"decay": 0.999}, "state_dict": s},
    "own words": lambda s: {"weights_of_our_restorer": {"stage": {"two": s}}},
    "own prefix": lambda s: {"state_dict": {**prefixed("restorer.backbone.", s), **prefixed("aux.", LOSS)}},
    "FSDP": lambda s: {"model": prefixed("_fsdp_wrapped_module.", s)},
    "student and teacher": lambda s: {
        "teacher": {name: tensor + 1 for name, tensor in s.items()},
        "student": s,
    },
    "list of models": lambda s: [s, LOSS],
    "step as a tensor": lambda s: {"step": torch.tensor(3), "model": s},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_opened(tmp_path: Path, state: State, wrapper: str) -> None:
    torch.save(WRAPPERS[wrapper](state), tmp_path / "a.pth")
    notes = assert_loads(tmp_path / "a.pth", state)
    assert notes[0].startswith("weights: '")


def test_a_key_map_and_a_wrapper(tmp_path: Path, state: State) -> None:
    renamed = {name.replace("patch_embed", "stem"): tensor for name, tensor in state.items()}
    torch.save({"state_dict": {**prefixed("gan.net_x.", renamed), **prefixed("loss.", LOSS)}}, tmp_path / "a.pth")
    (tmp_path / "map.txt").write_text("stem\\.(.*) -> patch_embed.\\1\n")
    loaded = load_checkpoint(tmp_path / "a.pth", key_map=tmp_path / "map.txt")
    assert all(torch.equal(loaded.module.state_dict()[name], state[name]) for name in state)


def test_files_of_before_are_read_as_before(tmp_path: Path, state: State) -> None:
    model = Restormer(CONFIG)
    for suffix in (".pth", ".safetensors"):
        save_checkpoint(tmp_path / f"a{suffix}", model)
        assert load_checkpoint(tmp_path / f"a{suffix}").config == CONFIG
