"""Damaged and odd files: each is read with the right values, or refused with one line, in less than 30 seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from fuzz import make_corpus
from hypothesis import given
from hypothesis import strategies as st
from keygraph.cli import main
from keygraph.errors import InputError, KeygraphError
from keygraph.manifest import METADATA_KEY, from_json
from keygraph.models import load_checkpoint
from keygraph.parity.output import archive
from keygraph.parity.output.baseline import read_run
from keygraph.runtime.backends import engine_metadata
from keygraph.runtime.io import cubes, images
from malformed_files import (
    BAD_CHECKPOINTS,
    BAD_CUBES,
    BAD_PICTURES,
    CHANGED,
    CUBE,
    CUBES,
    CUT,
    LOST,
    PICTURE,
    PICTURES,
    damaged,
    variants,
    whole_sidecar,
    write,
)

Array = np.ndarray[Any, Any]

#: What an entry of a JSON document is replaced by.
VALUES: tuple[Any, ...] = (None, True, -1, 0, 2**70, 0.5, float("nan"), "", "a\nb", [], [1, "x"], {}, {"a": [None]})

SAVED_RUN = Path(__file__).parent / "parity" / "data" / "saved_run"


class _HangError(BaseException):
    """Not caught by those who catch every `Exception`."""


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Stop a test after 30 seconds, from within."""

    def stop(*_: object) -> None:
        raise _HangError("still reading after 30 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outcome(read: Callable[[], Any]) -> tuple[str, Any]:
    """Return the message with which a file is refused, or the empty string and what was read."""
    try:
        return "", read()
    except KeygraphError as error:
        message = str(error)
        assert message, "no reason is given"
        assert len(message.splitlines()) == 1, message
        assert len(message) < 2000, message
        return message, None


def refusal(read: Callable[[], Any]) -> str:
    """Return the message with which a file is refused; the empty string where it is read."""
    return outcome(read)[0]


def pixels(path: Path) -> Array:
    """Read a picture or a cube, by its header first."""
    if path.suffix in cubes.FORMATS and cubes.is_cube(path):
        cubes.describe_arrays(path)
        header = cubes.read_header(path)
        cube = cubes.read(path)
        assert cube.pixels.shape[:2] == (header.height, header.width)
        assert cube.pixels.dtype == header.dtype
        return cube.pixels
    picture_header, picture = images.read_header(path), images.read(path)
    assert picture.pixels.shape[:2] == (picture_header.height, picture_header.width)
    return picture.pixels


def whole(name: str) -> Array:
    return PICTURE if name in PICTURES else CUBE


def close(name: str, values: Array) -> bool:
    """Return whether samples are those of the whole file; JPEG is lossy."""
    expected = whole(name)
    limit = 12 if name.endswith("jpg") else 0
    return values.shape == expected.shape and bool(np.max(np.abs(values.astype(float) - expected)) <= limit)


def test_the_whole_files_are_read(tmp_path: Path) -> None:
    for name, data in (PICTURES | CUBES).items():
        assert close(name, pixels(write(tmp_path / name, data))), name


@pytest.mark.parametrize(
    ("kind", "name", "data"), [pytest.param(*one, id="-".join(one[:2])) for one in damaged(PICTURES | CUBES, LOST)]
)
def test_a_file_of_which_nothing_is_left(tmp_path: Path, kind: str, name: str, data: bytes) -> None:
    path = write(tmp_path / name, data)
    # A line before the first one; text for people at the start, while the dataset says that it is MATLAB's.
    text = [("another format", f"{version}.mat") for version in ("5", "5z", "7")]
    harmless = {("shifted", "a.hdr"), ("start lost", "7.mat"), *text}
    message, values = outcome(lambda: pixels(path))
    assert message or ((kind, name) in harmless and close(name, values))
    if message:
        assert name in message


@pytest.mark.parametrize(
    ("kind", "name", "data"), [pytest.param(*one, id="-".join(one[:2])) for one in damaged(PICTURES | CUBES, CUT)]
)
def test_a_file_that_is_cut_or_too_long(tmp_path: Path, kind: str, name: str, data: bytes) -> None:
    """What is read is what was in the whole file."""
    path = write(tmp_path / name, data)
    message, values = outcome(lambda: pixels(path))
    assert message or close(name, values)


@pytest.mark.parametrize(
    ("kind", "name", "data"), [pytest.param(*one, id="-".join(one[:2])) for one in damaged(PICTURES | CUBES, CHANGED)]
)
def test_a_file_with_changed_bytes(tmp_path: Path, kind: str, name: str, data: bytes) -> None:
    """A format without checksums cannot tell changed samples: it is read, with as many of them as its header says."""
    path = write(tmp_path / name, data)
    message, values = outcome(lambda: pixels(path))
    assert message or (values.size and np.isfinite(values.astype(float)).all())
    if name in ("rgb.png", "a.npz", "5z.mat") and not message:
        assert close(name, values), "the checksum is not checked"


@pytest.mark.parametrize("name", [*BAD_CUBES, *BAD_PICTURES])
def test_a_file_that_is_wrong_in_its_structure(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, (BAD_CUBES | BAD_PICTURES)[name])
    message = refusal(lambda: pixels(path))
    assert str(path) in message


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.mat", "a.npy", "a.hdr", "a.onnx", "a.plan", "a.pt"])
@pytest.mark.parametrize("kind", ["folder", "absent", "dangling link", "loop of links", "named pipe"])
def test_what_is_no_file(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind != "absent":
        path.symlink_to(name if kind == "loop of links" else "absent")
    models = (".onnx", ".plan", ".pt")
    message = refusal(lambda: keygraph.load(path) if path.suffix in models else pixels(path))
    assert str(path) in message


def test_names_with_line_breaks(tmp_path: Path) -> None:
    for name in ("a\nb.png", "a\x1b[2Jb.mat", "a\rb.onnx", "caf\udce9.npy"):
        path = tmp_path / name
        message = refusal(lambda path=path: keygraph.load(path) if path.suffix == ".onnx" else pixels(path))  # type: ignore[misc]
        assert message.isprintable()
        assert "does not exist" in message


@pytest.mark.parametrize("entry", ["nonfinite_candidate", "psnr", "max_abs"])
def test_baselines_without_what_is_compared(tmp_path: Path, entry: str) -> None:
    document = json.loads((SAVED_RUN / "run.json").read_text())
    del document["comparisons"][0]["inputs"][0]["as_run"][entry]
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=f"is not the result of a comparison .*{entry}"):
        read_run(tmp_path / "run.json")


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_checkpoint_that_is_wrong_in_its_structure(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, BAD_CHECKPOINTS[name])
    assert refusal(lambda: load_checkpoint(path))


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("kinds", [LOST, CUT, CHANGED], ids=["lost", "cut", "changed"])
def test_damaged_checkpoints(tmp_path: Path, suffix: str, kinds: Any) -> None:
    """Of a real network."""
    import torch
    from keygraph.models import save_checkpoint
    from keygraph.models.kgt import KGT, KGTConfig

    torch.manual_seed(0)
    network = KGT(KGTConfig(layers=(1,), channels=8, heads=2, window=4, k=5))
    save_checkpoint(tmp_path / f"whole{suffix}", network)
    data = (tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"a{suffix}"
    for kind, damage in kinds.items():
        path.write_bytes(damage(data))
        message, found = outcome(lambda: load_checkpoint(path))
        assert message or kinds is not LOST, kind
        if kinds is CUT and not message:
            state = found.module.state_dict()
            assert all(torch.equal(state[key], value) for key, value in network.state_dict().items()), kind


def test_manifests_with_wrong_entries(make_manifest: Callable[..., Any]) -> None:
    """Whatever is replaced or removed, at any depth."""
    document = json.loads(make_corpus.MANIFEST.to_json())
    count = 0
    for what, changed in variants(document, VALUES):
        text = json.dumps(changed)
        message, found = outcome(lambda text=text: from_json(text, "a.onnx"))  # type: ignore[misc]
        count += bool(message)
        if not message:
            # What is taken as it is comes back as it is.
            assert json.loads(found.to_json()).keys() >= changed.keys(), what
    assert count > 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0}, "scale"),
        ({"in_channels": 0}, "in_channels"),
        ({"out_channels": -3}, "out_channels"),
        ({"size_multiple": 0}, "size_multiple"),
        ({"value_range": [0.0, float("nan")]}, "value_range"),
        ({"value_range": [1.0, 1.0]}, "value_range"),
        ({"clamp": [1.0, 0.0]}, "clamp"),
        ({"shape": [0, 8, 8]}, "shape"),
        ({"margin": [-1, 0]}, "margin"),
        ({"gain": float("inf")}, "gain"),
        ({"precision": "fp8"}, "precision"),
        ({"normalisation": "other"}, "normalisation"),
        ({"wavelengths": [400.0]}, "wavelengths"),
        ({"neighbours": {"default": 0, "maximum": 64, "trained": [], "runtime": True}}, "neighbours"),
        ({"neighbours": {"default": 65, "maximum": 64, "trained": [], "runtime": True}}, "neighbours"),
        ({"tiling": {"tile": 0, "overlap": 0, "psnr": 90.0}}, "tiling"),
        ({"tiling": {"tile": 64, "overlap": 64, "psnr": 90.0}}, "tiling"),
        ({"extra_inputs": [{"name": "image", "channels": 3, "margin": [0, 0]}]}, "extra_inputs"),
        ({"extra_inputs": [{"name": "mask", "channels": 0, "margin": [0, 0]}]}, "extra_inputs"),
        ({"profiles": [{"batch": [1, 1, 1], "height": [64, 32, 64], "width": [64, 64, 64]}]}, "profiles"),
    ],
    ids=str,
)
def test_manifests_that_no_model_can_have(make_manifest: Callable[..., Any], change: Any, message: str) -> None:
    document = json.loads(make_manifest().to_json()) | change
    with pytest.raises(InputError, match=rf"the keygraph manifest is damaged \(.*{message}"):
        from_json(json.dumps(document), "a.onnx")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) |
                    st.dictionaries(st.sampled_from(["format_version", "scale", "x", "manifest"]), inner)))  # fmt: skip
def test_json_of_any_kind_is_no_manifest(document: Any) -> None:
    assert refusal(lambda: from_json(json.dumps(document), "a.onnx"))


def test_engine_metadata_with_wrong_entries(tmp_path: Path) -> None:
    engine, path = tmp_path / "a.plan", tmp_path / "a.plan.json"
    engine.write_bytes(b"an engine")
    count = 0
    for what, changed in variants(json.loads(whole_sidecar()), (None, -1, 2**70, "a\nb", [], {})):
        path.write_text(json.dumps(changed))

        def read() -> None:
            metadata = engine_metadata.read(engine)
            assert metadata.command().startswith("keygraph build")
            version = engine_metadata.LoadEnvironment(metadata.backend, metadata.version, metadata.capability)
            engine_metadata.check(engine, version)

        message = refusal(read)
        assert message, f"{what}: the engine is another one"
        count += "damaged" in message
    assert count > 200
    for kind, damage in (LOST | CUT).items():
        path.write_bytes(damage(whole_sidecar()))
        assert refusal(lambda: engine_metadata.read(engine)) or kind in ("shifted", "line ends"), kind


def test_saved_runs_and_baselines_with_wrong_entries(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "inputs").mkdir(parents=True)
    for file in (SAVED_RUN / "inputs").iterdir():
        (run / "inputs" / file.name).write_bytes(file.read_bytes())
    document = json.loads((SAVED_RUN / "run.json").read_text())
    del document["comparisons"][0]["blocks"][1:]
    count = 0
    for what, changed in variants(document, (None, -1, "a\nb", [], {}, [[1]])):
        (run / "run.json").write_text(json.dumps(changed))
        message, found = outcome(lambda: (archive.load(run), read_run(run / "run.json")))
        # Entries that are only repeated, such as a verdict, may be anything.
        assert message or found[0].samples[0].arrays["image"].shape == (24, 32, 3), what
        count += bool(message)
    assert count > 50
    data = (SAVED_RUN / "run.json").read_bytes()
    for damage in (LOST | CUT).values():
        (run / "run.json").write_bytes(damage(data))
        refusal(lambda: archive.load(run))
    (run / "run.json").write_bytes(data)
    for file in (run / "inputs").iterdir():
        array = file.read_bytes()
        for kind, damage in (LOST | CUT).items():
            file.write_bytes(damage(array))
            assert refusal(lambda: archive.load(run)) or kind in ("bytes behind", "twice"), kind
        file.write_bytes(array)


def onnx_files(model: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield exported files with something wrong."""
    import onnx
    from onnx import TensorProto, helper

    def changed(change: Callable[[Any], Any]) -> bytes:
        proto = onnx.ModelProto.FromString(model)
        change(proto)
        content: bytes = proto.SerializeToString()
        return content

    def cycle(proto: Any) -> None:
        proto.graph.node[0].input[0] = "later"
        proto.graph.node.append(helper.make_node("Identity", [proto.graph.node[0].output[0]], ["later"]))

    def no_data(proto: Any) -> None:
        weight = proto.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="absent.data")

    def manifest(text: str) -> Callable[[Any], Any]:
        return lambda proto: helper.set_model_props(proto, {METADATA_KEY: text})

    yield "no metadata", changed(lambda proto: proto.ClearField("metadata_props"))
    for text in ("", "null", "[]", "3", '"text"', "{}", "{", "[" * 5000, '{"format_version": "a\\nb"}'):
        yield f"manifest {text[:20]}", changed(manifest(text))
    yield "no graph", changed(lambda proto: proto.ClearField("graph"))
    yield "no nodes", changed(lambda proto: proto.graph.ClearField("node"))
    yield "no inputs", changed(lambda proto: proto.graph.ClearField("input"))
    yield "no outputs", changed(lambda proto: proto.graph.ClearField("output"))
    yield "input renamed", changed(lambda proto: setattr(proto.graph.input[0], "name", "x\ny"))
    yield (
        "input of doubles",
        changed(lambda proto: setattr(proto.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE)),
    )
    yield "all doubles", changed(_to_doubles)
    yield "input of sequences", changed(lambda proto: proto.graph.input[0].type.sequence_type.SetInParent())
    yield "unknown operator", changed(lambda proto: setattr(proto.graph.node[0], "op_type", "Absent"))
    yield "unknown domain", changed(lambda proto: setattr(proto.graph.node[0], "domain", "absent"))
    yield "opset", changed(lambda proto: setattr(proto.opset_import[0], "version", 999))
    yield "IR version", changed(lambda proto: setattr(proto, "ir_version", 999))
    yield "cycle", changed(cycle)
    yield "twice", changed(lambda proto: proto.graph.node.append(proto.graph.node[0]))
    yield "weights cut", changed(lambda proto: setattr(proto.graph.initializer[0], "raw_data", b"abc"))
    yield "weights negative", changed(lambda proto: proto.graph.initializer[0].dims.__setitem__(0, -3))
    yield "weights elsewhere", changed(no_data)


def _to_doubles(proto: Any) -> None:
    import onnx
    from onnx import TensorProto, numpy_helper

    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for weight in proto.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float64), weight.name))


def test_exported_files_with_something_wrong(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = make_model("blur").read_bytes()
    path = tmp_path / "a.onnx"
    for what, data in onnx_files(model):
        path.write_bytes(data)
        assert refusal(lambda: keygraph.load(path)(PICTURE)), what
        message = refusal(lambda: main_describes(path))
        assert message or what not in ("no graph", "no nodes"), what
    expected = keygraph.load(make_model("blur"))(PICTURE)
    for kinds in (LOST, CUT, CHANGED):
        for kind, damage in kinds.items():
            path.write_bytes(damage(model))
            message, values = outcome(lambda: keygraph.load(path)(PICTURE))
            assert message or kinds is not LOST, kind
            if kinds is CUT and not message:
                np.testing.assert_array_equal(values, expected, err_msg=kind)


def main_describes(path: Path) -> None:
    """Describe a file as ``keygraph inspect`` does."""
    from keygraph.cli.inspect import describe

    describe(path)


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Path:
    return make_model("identity", in_channels=5, out_channels=5, normalisation="none", wavelengths=(1.0, 2, 3, 4, 5))


def test_the_command_on_damaged_files(
    tmp_path: Path, model: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line, nothing written; or the values of the file."""
    out = tmp_path / "out"
    out.mkdir()
    colour = make_model("identity", tmp_path / "colour.onnx")
    files = [*damaged(PICTURES | CUBES, {name: CUT[name] for name in ("cut to 50%", "bytes behind")})]
    files += [("structure", name, data) for name, data in (BAD_CUBES | BAD_PICTURES).items()]
    read = 0
    for kind, name, data in files:
        path, target = write(tmp_path / name, data), out / "result.npy" if name in CUBES else out / "result.tif"
        code = main(["restore", str(path), "--model", str(model if name in CUBES else colour), "-o", str(target)])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err, (kind, name)
        assert {file.name for file in out.iterdir()} == ({target.name} if code == 0 else set()), (kind, name)
        if code == 0:
            values = np.load(target) if target.suffix == ".npy" else images.read(target).pixels
            assert close(name, values), (kind, name)
            target.unlink()
            read += 1
        else:
            assert code == 2, (kind, name, shown.err)
            *model_line, message = shown.err.strip().splitlines()
            assert len(model_line) <= 1, (kind, name, shown.err)
            assert name in message
    assert 6 < read < len(files) - len(BAD_CUBES) - len(BAD_PICTURES)


def test_the_real_command_prints_one_line(tmp_path: Path, model: Path) -> None:
    path = write(tmp_path / "a.mat", BAD_CUBES["backwards.mat"])
    command = [sys.executable, "-m", "keygraph", "restore", str(path), "--model", str(model), "-o", "out.npy"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert "negative size" in run.stderr
