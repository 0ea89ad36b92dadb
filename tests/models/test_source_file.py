"""Networks that the user's own Python file builds, and their weights."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import own_modules
import pytest
import torch
from keygraph.errors import InputError
from keygraph.models.own_weights import load_weights, to_float32
from keygraph.models.source_file import Built, build_network, is_source, parse_entry_point, read_arguments
from torch import nn

SOURCE = """
import torch
from torch import nn
from blocks_of_mine import convolution

def build(channels=4, *, bias=True):
    return nn.Sequential(convolution(3, channels, bias), convolution(channels, 3, bias))

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(convolution(3, 3, True))

make = Net
number = 3

def tuple_of_two(): return build(), {}
def nothing(): return None
def broken(): return {}["depth"]
def needs(width): return build(width)
def exits(): raise SystemExit(2)
def _hidden(): pass
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "blocks_of_mine", raising=False)
    blocks = "from torch import nn\ndef convolution(a, b, bias): return nn.Conv2d(a, b, 3, padding=1, bias=bias)\n"
    (tmp_path / "blocks_of_mine.py").write_text(blocks)
    (tmp_path / "net.py").write_text(SOURCE)
    return tmp_path / "net.py"


def built(source: Path, name: str, **arguments: object) -> Built:
    return build_network(parse_entry_point(f"{source}:{name}"), arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.py", True), ("a/b.py:build", True), ("a.py:", True), ("a.ckpt", False), ("a.pyc", False), ("a.py.pth", False)],
)
def test_what_names_a_python_file(text: str, expected: bool) -> None:
    assert is_source(text) is expected


def test_a_function_or_a_class_builds_the_network(source: Path) -> None:
    network = built(source, "build", channels=5, bias=False)
    assert network.module[0].weight.shape == (5, 3, 3, 3)  # type: ignore[index]
    assert network.sources.keys() == {"net.py", "blocks_of_mine.py"}
    assert all(len(digest) == 64 for digest in network.sources.values())
    for name in ("Net", "make"):
        assert type(built(source, name).module).__name__ == "Net"


def test_nothing_is_run_to_find_the_function(source: Path) -> None:
    source.write_text("raise RuntimeError('run')\ndef build(): pass\n")
    assert str(parse_entry_point(f"{source}:build")) == "net.py:build"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "",
            r"which function or class makes the network, for instance .*net\.py:build; it defines: build, Net, tuple",
        ),
        (":", "say which function or class"),
        (":biuld", r"net\.py has no function or class 'biuld'; it defines: build, Net"),
        (":a b", "'a b' is not the name of a function"),
        (":number", "number is an int, not a function or class"),
        (":tuple_of_two", r"returns a tuple, not a torch\.nn\.Module; return the model alone"),
        (":nothing", r"returns None, not a torch\.nn\.Module; return the model"),
        (":broken", r"net\.py:broken\(\) fails: KeyError: 'depth', at net\.py:18"),
        (":needs", r"called as needs\(width\), and no arguments are given: missing a required argument: 'width'"),
        (":exits", r"fails: SystemExit: 2 \(move what reads the command line below"),
    ],
)
def test_what_builds_no_network_is_refused(source: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_network(parse_entry_point(f"{source}{name}"), {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def build(:\n", r"is not Python that can be run: invalid syntax|cannot be run"),
        (
            "import absent_package_of_mine\ndef build(): pass\n",
            "ModuleNotFoundError: No module named.*install what your",
        ),
        ("def build(): pass\n1 / 0\n", r"cannot be run: ZeroDivisionError: division by zero, at net\.py:2"),
        ("import sys\ndef build(): pass\nsys.exit('usage')\n", "SystemExit: usage"),
        ("", "net.py is empty"),
    ],
)
def test_files_that_cannot_be_run(source: Path, content: str, message: str) -> None:
    source.write_text(content)
    with pytest.raises(InputError, match=message):
        built(source, "build")


def test_arguments_that_do_not_fit(source: Path) -> None:
    with pytest.raises(InputError, match=r"the JSON file gives channel: got an unexpected keyword argument 'channel'"):
        built(source, "build", channel=3)
    with pytest.raises(InputError, match=r"absent\.py does not exist"):
        parse_entry_point(f"{source.parent}/absent.py:build")


def test_arguments_are_a_json_object(tmp_path: Path) -> None:
    file = tmp_path / "build.json"
    file.write_text('{"channels": 3}')
    assert read_arguments(file) == {"channels": 3}
    assert read_arguments(None) == {}
    for content in ("[1]", "{", "3", '{"a": 1} x'):
        file.write_text(content)
        with pytest.raises(InputError, match=r"build\.json: cannot be read as arguments .*give a JSON object"):
            read_arguments(file)
    with pytest.raises(InputError, match="cannot be read as arguments"):
        read_arguments(tmp_path / "absent.json")


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_weights_are_found_behind_a_prefix_and_loaded_strictly(tmp_path: Path) -> None:
    trained, fresh = own_modules.UNet(), own_modules.UNet()
    weights = {f"model.{name}": tensor.half() for name, tensor in trained.state_dict().items()}
    content = {"state_dict": {**weights, "criterion.weight": torch.zeros(2)}, "hparams": argparse.Namespace(lr=1)}
    notes = load_weights(fresh, saved(tmp_path / "a.ckpt", content), "UNet")
    assert notes[0] == "weights: 'state_dict/model.'; 1 other tensor left out"
    assert notes[-1] == "tensors of type float16 converted to float32"
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name].half().float())


def test_a_prefix_can_be_given(tmp_path: Path) -> None:
    first, second, fresh = own_modules.UNet(), own_modules.UNet(), own_modules.UNet()
    both = {f"a.{k}": v for k, v in first.state_dict().items()} | {f"b.{k}": v for k, v in second.state_dict().items()}
    file = saved(tmp_path / "both.pth", both)
    assert load_weights(fresh, file, "UNet", prefix="b.") == [
        "weights: the 4 tensors whose names start with 'b.'; 4 other tensors left out"
    ]
    assert torch.equal(fresh.up.weight, second.up.weight)
    with pytest.raises(InputError, match=r"no tensor whose name starts with 'c\.'; names start with: a\., b\."):
        load_weights(fresh, file, "UNet", prefix="c.")


def test_a_key_map_renames(tmp_path: Path) -> None:
    trained, fresh = own_modules.UNet(), own_modules.UNet()
    file = saved(tmp_path / "a.pth", {k.replace("down", "encoder"): v for k, v in trained.state_dict().items()})
    (tmp_path / "map.txt").write_text("encoder(.*) -> down\\1\n")
    assert "key map: 2 of 4 tensors renamed or dropped" in load_weights(
        fresh, file, "UNet", key_map=tmp_path / "map.txt"
    )
    assert torch.equal(fresh.down.weight, trained.down.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("up.bias"), r"the tensors do not fit UNet as configured: missing up\.bias"),
        (lambda state: state.update(extra=torch.zeros(3)), "not expected extra"),
        (
            lambda state: state.update({"up.bias": torch.zeros(5)}),
            r"tensor up\.bias is \[5\]; UNet as configured has \[3\]",
        ),
        (lambda state: state.update({"up.bias": torch.full((3,), torch.nan)}), r"up\.bias holds 3 NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: object, message: str) -> None:
    network = own_modules.UNet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = dict(own_modules.UNet().state_dict())
    change(state)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        load_weights(network, saved(tmp_path / "a.pth", state), "UNet")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_extra_state_is_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"step": 1}

    with pytest.raises(InputError, match=r"has extra state that is no tensor \(_extra_state\)"):
        load_weights(Extra(2, 2), saved(tmp_path / "a.pth", {"weight": torch.zeros(2, 2)}), "Extra")


def test_other_types_are_converted_and_said() -> None:
    network = own_modules.UNet().half()
    assert to_float32(network) == ["the network is of type float16: converted to float32"]
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert to_float32(network) == []


def test_a_checkpoint_never_makes_a_file_run(source: Path, tmp_path: Path) -> None:
    """The weights name a class of the file; it is read as data."""
    marker = tmp_path / "ran"
    (tmp_path / "evil_of_mine.py").write_text(f"open({str(marker)!r}, 'w')\nclass Settings: pass\n")
    sys.path.insert(0, str(tmp_path))
    evil_of_mine = importlib.import_module("evil_of_mine")

    marker.unlink()
    network = built(source, "Net").module
    file = saved(tmp_path / "a.pth", {"state_dict": network.state_dict(), "settings": evil_of_mine.Settings()})
    del sys.modules["evil_of_mine"]
    notes = load_weights(network, file, "Net")
    assert not marker.exists()
    assert "evil_of_mine" not in sys.modules
    assert any("evil_of_mine.Settings" in note for note in notes)
    assert json.dumps(notes)
