"""Pickles are read as data: what objects become, planted code, and files made to exhaust memory or time."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import io
import os
import pickle
import struct
import sys
import time
import typing
import uuid
import warnings
import zipfile
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keygraph.errors import InputError
from keygraph.models import load_checkpoint
from keygraph.models.checkpoint_file import read_file
from keygraph.models.pickled.machine import interpret
from keygraph.models.pickled.values import DamagedPickleError, Log, RefusedPickleError, Stub, module_tensors
from keygraph.models.restormer import Restormer, RestormerConfig

CONFIG = RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 2))


def read(data: bytes) -> Any:
    return interpret(memoryview(data), log=Log(), nested=lambda _: Stub("storage"))[0]


# What a pickle gives


class Colour(enum.Enum):
    RED = 1


class Mode(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Settings:
    path: Path
    colour: Colour


@dataclasses.dataclass
class Slotted:
    __slots__ = ("x",)
    x: int


class AttributeDict(dict[str, Any]):
    pass


class Scheduler:
    def step(self, x: float) -> float:
        return x


Point = collections.namedtuple("Point", "x y")


def surroundings(protocol: int = pickle.HIGHEST_PROTOCOL) -> dict[str, Any]:
    """Return objects as training code stores them beside the weights."""
    scheduler = Scheduler()
    return {
        "args": argparse.Namespace(lr=1e-4, out=Path("/tmp/x")),
        "settings": Settings(Path("a"), Colour.RED),
        "slotted": Slotted(3) if protocol > 1 else None,
        "enum": [Colour.RED, Mode.A | Mode.B],
        "attributes": AttributeDict(lr=1, inner=AttributeDict(x=2)),
        "point": Point(1, 2),
        "when": [datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), datetime.timedelta(1), datetime.date.min],
        "uuid": uuid.UUID(int=3),
        "default": collections.defaultdict(list, a=[1]),
        "collections": [collections.Counter("ab"), collections.deque([1]), collections.OrderedDict(a=1)],
        "numpy": [
            np.float32(1),
            np.int64(2),
            np.bool_(True),
            np.arange(3),
            np.array(["a", None], object),
            np.dtype("f4"),
        ],
        "generator": np.random.default_rng(0),
        "random": [np.random.get_state(), torch.get_rng_state()],
        "partial": functools.partial(torch.nn.Linear, 3, bias=False),
        "method": scheduler.step,
        "types": [int, type(None), typing.Any, typing.Union[int, str], list[int], dict[str, typing.Any]],  # noqa: UP007
        "torch": [torch.float16, torch.device("cpu"), torch.Size([1, 2]), torch.nn.Parameter(torch.ones(2))],
        "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]),
        "error": ValueError("x"),
        "errors": [Exception, Warning, ValueError, KeyboardInterrupt],
        "context": contextlib.nullcontext(),
        "x._extra_state": io.BytesIO(b"abc") if protocol > 1 else None,
        "zone": zoneinfo.ZoneInfo("UTC"),
        "masked": np.ma.masked_array([1.0, 2.0], [False, True]) if protocol else None,
        "plain": [b"x", bytearray(b"y"), 1j, {1}, frozenset({2}), slice(1, 2), range(3), 1 << 100, -1, None, True, "é"],
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_objects_beside_the_weights_stop_no_load(tmp_path: Path, protocol: int, legacy: bool) -> None:
    model = Restormer(CONFIG)
    path = tmp_path / "model.pth"
    torch.save(
        {"state_dict": model.state_dict(), **surroundings()},
        path,
        _use_new_zipfile_serialization=not legacy,
        pickle_protocol=protocol,
    )
    loaded = load_checkpoint(path)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in loaded.module.state_dict().items())
    line = next(note for note in loaded.notes if "read as plain data, without running their code: " in note)
    assert "\n" not in line


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_of_a_state_dict_is_read(tmp_path: Path, protocol: int) -> None:
    model = Restormer(CONFIG)
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"net": model.state_dict(), **surroundings(protocol)}, protocol))
    state = load_checkpoint(tmp_path / "model.pth").module.state_dict()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())


def test_classes_of_vanished_modules_stay_records() -> None:
    # As on a machine that has never seen the training code.
    data = pickle.dumps(surroundings()).replace(b"test_pickled", b"gone_for_now")
    assert b"gone_for_now" in data
    before = set(sys.modules)
    found = read(data)
    assert set(sys.modules) == before
    settings = found["settings"]
    assert isinstance(settings, Stub)
    assert settings.name.endswith("gone_for_now.Settings")
    assert settings.attributes["path"].arguments == ("a",)
    assert found["args"].attributes["lr"] == 1e-4
    assert found["slotted"].attributes == {"x": 3}
    assert found["attributes"].items["inner"].items == {"x": 2}
    assert found["default"] == {"a": [1]}
    assert found["numpy"][:3] == [1.0, 2, True]
    assert found["numpy"][3].values.tolist() == [0, 1, 2]
    assert found["numpy"][4].values is None
    assert found["point"].arguments == (1, 2)
    assert found["plain"][7] == 1 << 100


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_are_those_of_torch_load(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    kinds = (
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int64,
        torch.bool,
    )
    content = {
        "view": base[1:, ::2],
        "transposed": base.T,
        "base": base,
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "expanded": torch.ones(1).expand(5),
        "complex": torch.ones(2, dtype=torch.complex64),
        "nested": [{"x": (base[0],)}],
        "parameter": torch.nn.Parameter(base[2]),
        "float8": base.to(torch.float8_e4m3fn),
        "sparse": base.to_sparse(),
        "csr": base.to_sparse_csr(),
        "tied": base,
        "text": "x",
        "number": 3,
        "odd": torch.ones(3, dtype=torch.uint8),
        "after odd": torch.ones(3, dtype=torch.float64),
        **{str(kind): base.to(kind) for kind in kinds},
    }
    if legacy:
        del content["float8"]  # torch.load does not read it
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found, notes = read_file(path)
    expected = torch.load(path, weights_only=True)
    assert notes == []
    assert list(found) == list(expected)
    for name, value in expected.items():
        if not isinstance(value, torch.Tensor):
            continue
        assert (found[name].dtype, found[name].shape, found[name].layout) == (value.dtype, value.shape, value.layout)
        if value.layout == torch.strided:
            assert found[name].stride() == value.stride()
        one, other = (t.to_dense() if t.layout != torch.strided else t for t in (found[name], value))
        assert torch.equal(one.to(torch.complex128), other.detach().to(torch.complex128)), name
    assert torch.equal(found["nested"][0]["x"][0], base[0])
    assert found["base"].untyped_storage().data_ptr() == found["tied"].untyped_storage().data_ptr()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_negative_and_conjugate_bits_are_applied(tmp_path: Path, legacy: bool) -> None:
    weights = torch.arange(1.0, 7.0).reshape(2, 3)

    def conjugate() -> torch.Tensor:
        return torch.complex(weights, -weights).conj()

    content = {"neg": conjugate().imag, "conj": conjugate(), "parameter": torch.nn.Parameter(conjugate().imag)}
    assert content["neg"].is_neg()
    assert content["conj"].is_conj()
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found, _ = read_file(tmp_path / "a.pth")
    assert torch.equal(found["neg"], weights)
    assert torch.equal(found["parameter"], weights)
    assert torch.equal(found["conj"], torch.complex(weights, weights))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_quantized_tensors_are_dequantized_and_counted(tmp_path: Path, legacy: bool) -> None:
    values = torch.linspace(-1, 1, 24).reshape(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch deprecates these functions
        tensors = {
            "tensor": torch.quantize_per_tensor(values, 0.01, 3, torch.qint8),
            "channel": torch.quantize_per_channel(values, torch.full((4,), 0.02), torch.zeros(4), 0, torch.qint8),
        }
    torch.save(tensors, tmp_path / "q.pth", _use_new_zipfile_serialization=not legacy)
    found, notes = read_file(tmp_path / "q.pth")
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor.dequantize(), rtol=0, atol=1e-7)
    assert notes == ["2 quantized tensors converted to float32"]


@pytest.mark.parametrize("kind", ["strided", "sparse", "quantized"])
@pytest.mark.parametrize("checksums", [True, False])
def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path, kind: str, checksums: bool) -> None:
    path = tmp_path / "model.pth"
    model = Restormer(CONFIG)
    state = dict(model.state_dict())
    name = "latent.0.ffn.project_in.weight"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if kind == "sparse":
            state[name] = state[name].to_sparse()
        if kind == "quantized":
            state[name] = torch.quantize_per_tensor(state[name], 0.01, 0, torch.qint8)
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save({"params": state, "optimizer": [torch.ones(999)]}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    load_checkpoint(path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: (info.file_size == 3996, 0))
        ones = largest.header_offset + 128
        if kind == "quantized":
            values = state[name].int_repr().numpy().tobytes()
        else:
            values = model.state_dict()[name].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[ones + 64] ^= 1
    path.write_bytes(data)
    load_checkpoint(path)  # of the optimizer, which is not read
    data[data.index(values) + 3] ^= 1
    path.write_bytes(data)
    if checksums:
        with pytest.raises(InputError, match=r"a storage of .* bytes is damaged: its CRC-32") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
    else:
        load_checkpoint(path)


def test_a_whole_pickled_module_gives_its_weights(tmp_path: Path) -> None:
    model = Restormer(CONFIG)
    torch.save(model, tmp_path / "module.pth")
    loaded = load_checkpoint(tmp_path / "module.pth")
    assert list(loaded.module.state_dict()) == list(model.state_dict())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in loaded.module.state_dict().items())
    assert any("keygraph.models.restormer.Restormer" in n or "read as plain data" in n for n in loaded.notes)


def test_buffers_that_are_not_persistent_are_no_weights(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.ones(1))
            self.register_buffer("dropped", torch.ones(1), persistent=False)
            self.norm = torch.nn.BatchNorm2d(2)

    globals()["Net"] = Net
    Net.__qualname__ = "Net"
    net = Net()
    torch.save(net, tmp_path / "net.pth")
    stub, _ = read_file(tmp_path / "net.pth")
    found = dict(module_tensors(stub, lambda value: isinstance(value, torch.Tensor)))
    assert list(found) == list(net.state_dict())


def test_memory_is_that_of_the_weights_taken(tmp_path: Path) -> None:
    """The optimizer's tensors stay in the file, and those of the network are mapped."""
    path = tmp_path / "large.pth"
    torch.save({"net": {"w": torch.ones(4)}, "optimizer": [torch.zeros(8 << 20) for _ in range(4)]}, path)
    before = _resident()
    found, _ = read_file(path)
    assert torch.equal(found["net"]["w"], torch.ones(4))
    assert _resident() - before < 24 << 20
    assert path.stat().st_size > 128 << 20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# Planted code


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class SetState:
    """Pickles as an object whose state is set by a method of its class."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return SetState, (), self.state


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _call(module: str, name: str, *arguments: str) -> bytes:
    return _global(module, name) + b"(" + b"".join(map(_text, arguments)) + b"tR"


STUB = _global("some.package", "Thing") + b")\x81"

#: Name -> pickle that would make a folder at a path, and what the error names.
PLANTS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.system": (lambda p: b"\x80\x02" + _call("os", "system", f"mkdir {p}") + b".", "os.system"),
    "posix.mkdir": (lambda p: b"\x80\x02" + _call("posix", "mkdir", p) + b".", "posix.mkdir"),
    "__reduce__": (lambda p: pickle.dumps({"w": Calls(os.mkdir, p)}), "mkdir"),
    "method of a data class": (lambda p: pickle.dumps(Calls(Path.mkdir, Path(p))), "pathlib.*mkdir"),
    "method by getattr": (
        lambda p: b"\x80\x02cbuiltins\ngetattr\n" + _global("pathlib", "Path") + _text("mkdir") + b"\x86R"
        + b"(" + _call("pathlib", "Path", p) + b"tR.",
        "pathlib.Path.mkdir",
    ),
    "eval": (
        lambda p: b"\x80\x02" + _call("builtins", "eval", f"__import__('os').mkdir({p!r})") + b".",
        "builtins.eval",
    ),
    "exec of Python 2": (lambda p: b"\x80\x02" + _call("__builtin__", "eval", p) + b".", "builtins.eval"),
    "subprocess": (lambda p: pickle.dumps(Calls(__import__("subprocess").check_call, ["mkdir", p])), "subprocess"),
    "Popen by NEWOBJ": (lambda p: b"\x80\x02" + _global("subprocess", "Popen") + b"(" + _text(p) + b"t\x81.", "Popen"),
    "importlib": (lambda p: b"\x80\x02" + _call("importlib", "import_module", "os") + b".", "importlib"),
    "INST": (lambda p: b"(" + _text(p) + b"ios\nmkdir\n.", "os.mkdir"),
    "OBJ": (lambda p: b"\x80\x02(" + _global("os", "mkdir") + _text(p) + b"o.", "os.mkdir"),
    "STACK_GLOBAL": (lambda p: b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(" + _text(p) + b"tR.", "os.mkdir"),
    "dotted STACK_GLOBAL": (
        lambda p: b"\x80\x04\x8c\x07pathlib\x8c\x0aPath.mkdir\x93(" + _text(p) + b"tR.",
        "pathlib.Path.mkdir",
    ),
    "computed STACK_GLOBAL": (
        lambda p: b"\x80\x04\x8c\x02os" + STUB + b"\x93(" + _text(p) + b"tR.",
        "STACK_GLOBAL of a computed name",
    ),
    "memo": (
        # The name of the function comes out of the memo, after a harmless one was put there.
        lambda p: b"\x80\x02" + _global("collections", "OrderedDict") + b"q\x000" + _global("os", "mkdir")
        + b"q\x000h\x00(" + _text(p) + b"tR.",
        "os.mkdir",
    ),
    "call of an object": (
        lambda p: b"\x80\x02" + STUB + b"(" + _text(p) + b"tR.",
        "REDUCE of an object of some.package.Thing",
    ),
    "partial, called": (
        lambda p: b"\x80\x02" + _global("functools", "partial") + b"(" + _global("some", "Thing") + b"tR)R.",
        "REDUCE of an object of functools.partial",
    ),
    "default factory": (lambda p: pickle.dumps(collections.defaultdict(os.getcwd)), "getcwd"),
    "BUILD of a class": (
        lambda p: b"\x80\x02" + _global("pathlib", "Path") + b"}" + _text("x") + b"K\x01sb.",
        "BUILD of pathlib.Path",
    ),
    "attributes of a text": (lambda p: b"\x80\x02" + _text("x") + b"}b.", "BUILD of a str"),
    "items of a text": (lambda p: b"\x80\x02" + _text("x") + b"K\x01K\x02s.", "SETITEMS of a str"),
    "append to a tuple": (lambda p: b"\x80\x02)K\x01a.", "APPENDS to a tuple"),
    "EXT1": (lambda p: b"\x80\x02\x82\x01.", "EXT1"),
    "EXT4": (lambda p: b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
    "out-of-band buffer": (lambda p: b"\x80\x05\x97.", "NEXT_BUFFER"),
    "persistent id": (lambda p: b"\x80\x02" + _text("x") + b"Q.", "BINPERSID"),
    "persistent id in text": (lambda p: b"(Pos\n.", "PERSID"),
    "function of a package": (lambda p: b"\x80\x02" + _call("torch.hub", "load", p) + b".", "torch.hub.load"),
    "torch.load": (lambda p: b"\x80\x02" + _call("torch", "load", p) + b".", "torch.load"),
    "numpy's exec": (lambda p: b"\x80\x02" + _call("numpy.testing._private.utils", "runstring", p) + b".", "runstring"),
    "type": (lambda p: b"\x80\x02cbuiltins\ntype\n(" + _text("X") + b")}tR.", "builtins.type"),
    "getattr of a private name": (
        lambda p: b"\x80\x02cbuiltins\ngetattr\n" + STUB + _text("__class__") + b"\x86R.",
        "builtins.getattr",
    ),
    "reduce of the standard library": (
        lambda p: b"\x80\x02cfunctools\nreduce\n(" + _global("operator", "add") + b"]tR.",
        "functools.reduce",
    ),
    "_reconstructor": (
        lambda p: b"\x80\x02ccopyreg\n_reconstructor\n(" + _global("subprocess", "Popen") + b"cbuiltins\nobject\nNtR.",
        "Popen",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTS)
@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_planted_code_is_refused_by_name_and_does_not_run(tmp_path: Path, name: str, form: str) -> None:
    plant, named = PLANTS[name]
    trace, path = tmp_path / "ran", tmp_path / "evil.pth"
    data = plant(str(trace))
    if form == "zip":
        if "persistent" in name:
            named = "no storage"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3")
    elif form == "legacy":
        head = io.BytesIO()
        torch.save({}, head, _use_new_zipfile_serialization=False)
        start = head.getvalue()
        # Magic number, version and system come first, each a pickle of its own.
        ends = [i + 1 for i in range(len(start)) if start[i : i + 3] == b".\x80\x02"]
        path.write_bytes(start[: ends[2]] + data)
        if "persistent" in name:
            named = "no storage"
    else:
        path.write_bytes(data)
    with pytest.raises(InputError, match=named) as caught:
        load_checkpoint(path)
    if named != "no storage":
        assert "would run code from the file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_setstate_of_a_class_is_recorded_and_not_called() -> None:
    found = read(pickle.dumps(SetState(("anything", 3, 4))))
    assert isinstance(found, Stub)
    assert found.attributes[""] == ("anything", 3, 4)


@pytest.mark.parametrize(
    "data",
    [
        _global("torch.storage", "_load_from_bytes") + b"(" + b"C\x03abctR.",
        _global("torch.storage", "_load_from_bytes") + b"(" + _text("x") + b"tR.",
        _global("numpy.core.multiarray", "_reconstruct") + b"(" + _global("os", "mkdir") + b"tR.",
    ],
    ids=["bytes that are no file", "text", "NumPy of a function"],
)
def test_known_calls_with_wrong_arguments(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x04" + data)
    with pytest.raises(InputError):
        load_checkpoint(path)


def test_a_pickle_within_a_storage_is_read_once_and_not_deeper(tmp_path: Path) -> None:
    inner = b"\x80\x02" + _call("torch.storage", "_load_from_bytes", "x") + b"."
    outer = (
        b"\x80\x04"
        + _global("torch.storage", "_load_from_bytes")
        + b"(B"
        + struct.pack("<I", len(inner))
        + inner
        + b"tR."
    )
    (tmp_path / "a.pth").write_bytes(outer)
    with pytest.raises(InputError, match="storage"):
        load_checkpoint(tmp_path / "a.pth")


def test_numpy_objects_stay_bytes() -> None:
    """``scalar`` with a type of objects unpickles its bytes in NumPy; here they are not looked at."""
    inner = pickle.dumps(Calls(os.getcwd))
    kind = b"cnumpy\ndtype\n(" + _text("O8") + b"K\x00K\x01tR"
    data = b"\x80\x03cnumpy.core.multiarray\nscalar\n(" + kind + b"B" + struct.pack("<I", len(inner)) + inner + b"tR."
    found = read(data)
    assert isinstance(found, Stub)
    assert found.arguments[1] == inner


# Files that would exhaust memory, time or the stack


def _zip(path: Path, data: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in records.items():
            archive.writestr(f"archive/data/{name}", content)


def _storage(count: bytes, kind: str = "FloatStorage") -> bytes:
    return b"(" + _text("storage") + _global("torch", kind) + _text("0") + _text("cpu") + count + b"tQ"


def _tensor(storage: bytes, size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    return (
        b"\x80\x02}" + _text("w") + _global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + offset
        + size + stride + b"\x89" + b"NtRs."
    )  # fmt: skip


HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x10"  # LONG1: 2^44

TENSORS = {
    "storage larger than its record": _tensor(_storage(HUGE), b"K\x01\x85", b"K\x01\x85"),
    "view beyond its storage": _tensor(_storage(b"K\x02"), b"M\xe8\x03\x85", b"K\x01\x85"),
    "offset beyond its storage": _tensor(_storage(b"K\x02"), b"K\x01\x85", b"K\x01\x85", HUGE),
    "negative offset": _tensor(_storage(b"K\x02"), b"K\x01\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"),
    "negative stride": _tensor(_storage(b"K\x02"), b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
    "expanded without end": _tensor(_storage(b"K\x02"), HUGE + b"\x85", b"K\x00\x85"),
    "negative size": _tensor(_storage(b"K\x02"), b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
    "negative count": _tensor(_storage(b"J\xff\xff\xff\xff"), b"K\x01\x85", b"K\x01\x85"),
    "size that is no number": _tensor(_storage(b"K\x02"), _text("x") + b"\x85", b"K\x01\x85"),
    "missing record": _tensor(_storage(b"K\x02").replace(_text("0"), _text("7")), b"K\x01\x85", b"K\x01\x85"),
    "no storage": _tensor(b"K\x02", b"K\x01\x85", b"K\x01\x85"),
    "unknown storage type": _tensor(_storage(b"K\x02", "StrangeStorage"), b"K\x01\x85", b"K\x01\x85"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_outside_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pth"
    _zip(path, TENSORS[name], **{"0": b"\0" * 8})
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_the_planted_tensors_are_otherwise_valid(tmp_path: Path) -> None:
    _zip(tmp_path / "a.pth", _tensor(_storage(b"K\x02"), b"K\x02\x85", b"K\x01\x85"), **{"0": struct.pack("<2f", 3, 4)})
    assert read_file(tmp_path / "a.pth")[0]["w"].tolist() == [3.0, 4.0]


BOMBS = {
    "BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "BINBYTES8 beyond 63 bits": b"\x80\x04\x8e" + struct.pack("<Q", (1 << 64) - 1) + b".",
    "LONG4": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b".",
    "negative LONG4": b"\x80\x02\x8b" + struct.pack("<i", -1) + b".",
    "FRAME": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60),
    "LONG of many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "bytearray by its length": b"\x80\x02cbuiltins\nbytearray\n" + HUGE + b"\x85R.",
    "copies of a list": (
        b"\x80\x02](" + b"N" * 50_000 + b"e" + b"q\x00" + (_global("builtins", "set") + b"h\x00\x85R") * 1000 + b"."
    ),
    "nested tuple as a key": b"\x80\x02}" + b"K\x01\x85" + b"2\x86" * 60 + b"K\x01s.",
    "deep tuple as a key": b"\x80\x02}" + b")" + b"\x85" * 30_000 + b"K\x01s.",
    "nested tuple in a set": b"\x80\x04\x8f(" + b"K\x01\x85" + b"2\x86" * 60 + b"\x90.",
    "memo that is not there": b"\x80\x02h\x07.",
    "empty stack": b"\x80\x02.",
    "mark as a value": b"\x80\x02(.",
    "no end": b"\x80\x02}",
    "list as a key": b"\x80\x02}]K\x01s.",
    "odd items": b"\x80\x02}(K\x01u.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_would_exhaust_memory_or_time(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(BOMBS[name])
    start = time.monotonic()
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        b"\x80\x02" + b"}" + (_text("model") + b"}") * 20_000 + b"s" * 20_000 + b".",
        b"\x80\x02}q\x00" + _text("state_dict") + b"h\x00s.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02" + b")" + b"2\x86" * 20_000 + b".",
        b"\x80\x02]" + b"".join(b"q%c]h%ch%cea".replace(b"e", b"") % (i, i, i) for i in range(100)) + b".",
    ],
    ids=["lists", "dictionaries", "itself", "list of itself", "tuples", "shared lists"],
)
def test_deep_and_circular_nesting_ends(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(InputError):
        load_checkpoint(path)
    assert time.monotonic() - start < 10


def test_a_module_within_itself(tmp_path: Path) -> None:
    stub = _global("net", "Net") + b")\x81q\x01"
    state = b"}" + _text("_parameters") + b"}s" + _text("_modules") + b"}" + _text("again") + b"h\x01ss"
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x02" + stub + state + b"b.")
    with pytest.raises(InputError):
        load_checkpoint(path)


def test_storages_that_no_tensor_has(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pth").read_bytes()
    at = data.rindex(b"]q\x00X") + 8  # the list of the storages' keys
    (tmp_path / "a.pth").write_bytes(data[:at] + b"x" + data[at + 1 :])
    with pytest.raises(InputError, match="the list of its storages is not that of its tensors"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_compressed_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", _tensor(_storage(b"J\x00\x00\x00\x01"), b"K\x02\x85", b"K\x01\x85"))
        archive.writestr("archive/data/0", b"\0" * (64 << 20))
    with pytest.raises(InputError, match="many times larger than the file"):
        load_checkpoint(path)


def test_an_archive_that_another_tool_compressed(tmp_path: Path) -> None:
    model = Restormer(CONFIG)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as source,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    state = load_checkpoint(tmp_path / "b.pth").module.state_dict()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_other_byte_order(tmp_path: Path, legacy: bool) -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    path = tmp_path / "a.pth"
    torch.save({"w": values}, path, _use_new_zipfile_serialization=not legacy)
    other = (
        values.numpy().astype(">f4").tobytes() if sys.byteorder == "little" else values.numpy().astype("<f4").tobytes()
    )
    if legacy:
        data = path.read_bytes()
        little = sys.byteorder == "little"
        flag = b"\x88" if little else b"\x89"
        at = data.index(b"little_endian")
        swapped = data[:at] + data[at:].replace(flag, b"\x89" if little else b"\x88", 1)
        end = len(data) - values.nbytes - 8
        count = (3).to_bytes(8, "big" if little else "little")
        path.write_bytes(swapped[:end] + count + other)
    else:
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in records.items():
                if name.endswith("byteorder"):
                    content = b"big" if sys.byteorder == "little" else b"little"
                archive.writestr(name, other if name.endswith("data/0") else content)
    assert read_file(path)[0]["w"].tolist() == [1.0, 2.0, 3.0]


def test_random_bytes_and_changes_give_only_our_errors(tmp_path: Path) -> None:
    """Bytes of valid pickles exchanged, removed and repeated: refused, damaged or read, and never another error."""
    generator = np.random.default_rng(0)
    seeds = [pickle.dumps(surroundings(protocol), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    seeds += [plant("x") for plant, _ in PLANTS.values()] + [*BOMBS.values()][:8]
    outcomes: collections.Counter[str] = collections.Counter()
    for i in range(1500):
        data = bytearray(seeds[i % len(seeds)])
        for _ in range(int(generator.integers(1, 6))):
            at = int(generator.integers(len(data)))
            match int(generator.integers(3)):
                case 0:
                    data[at] = int(generator.integers(256))
                case 1:
                    del data[at : at + int(generator.integers(1, 9))]
                case _:
                    data[at:at] = data[int(generator.integers(len(data))) :][:9]
            if not data:
                data = bytearray(b".")
        try:
            read(bytes(data))
            outcomes["read"] += 1
        except (RefusedPickleError, DamagedPickleError) as error:
            outcomes[type(error).__name__] += 1
    assert set(outcomes) == {"read", "RefusedPickleError", "DamagedPickleError"}
