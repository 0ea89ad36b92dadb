"""What `keygraph serving-repository` writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from engine_files import MANIFEST, write_engine
from google.protobuf import text_format
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.manifest import ExtraInput, HalfPrecision, Neighbours, Profile
from keygraph.runtime.backends.engine_metadata import Plugin, Tensor, file_sha256
from keygraph.serving.triton.core import read_core
from keygraph.serving.triton.repository import write_repository
from keygraph.serving.triton.settings import Settings
from triton_server_double import read_config, schema

ModelFile = Callable[..., Path]
K = Neighbours(default=16, maximum=64)


def plain(config: Any) -> dict[str, Any]:
    """Return the inputs and outputs of a configuration, by name."""
    names = schema().DataType.Name
    return {one.name: (names(one.data_type), *one.dims) for one in (*config.input, *config.output)}


def written(tmp_path: Path, model: Path, **settings: Any) -> tuple[Any, Any, Any]:
    """Write a repository; return the configurations of the image model and the core, and `core.json`."""
    out = tmp_path / "repository"
    shutil.rmtree(out, ignore_errors=True)
    write_repository(model, out, Settings("m", **settings), lambda _line: None)
    core = read_core(out / "m" / "1" / "core.json")
    return read_config(out / "m" / "config.pbtxt"), read_config(out / "m_core" / "config.pbtxt"), core


@pytest.fixture
def model(make_model: ModelFile) -> Path:
    """A model with k as an input."""
    return make_model("add_k", neighbours=K)


def test_the_schema_is_strict() -> None:
    with pytest.raises(text_format.ParseError, match="has no field named"):
        text_format.Parse("max_batch_sizes: 3", schema().ModelConfig())


def test_k_of_requests(tmp_path: Path, model: Path) -> None:
    images, core, served = written(tmp_path, model, batch=4)
    assert plain(core) == {
        "image": ("TYPE_FP32", 3, -1, -1),
        "k_length": ("TYPE_UINT8", -1),
        "restored": ("TYPE_FP32", 3, -1, -1),
    }
    assert core.max_batch_size == 4
    assert core.HasField("dynamic_batching")
    assert plain(images)["k"] == ("TYPE_INT64", 1)
    assert images.max_batch_size == 0
    assert served.k_input == "k_length"
    # The file itself: k is the length of an input, whatever that holds.
    session = onnxruntime.InferenceSession(tmp_path / "repository/m_core/1/model.onnx")
    feeds = {"image": np.zeros((2, 3, 8, 8), np.float32), "k_length": np.full((2, 32), 7, np.uint8)}
    np.testing.assert_allclose(session.run(None, feeds)[0], 0.032)


def test_k_fixed(tmp_path: Path, model: Path) -> None:
    images, core, served = written(tmp_path, model, batch=4, k=48)
    assert {*plain(core)} == {"image", "restored"}
    assert "k" not in plain(images)
    assert (served.k_input, served.manifest.neighbours) == ("", Neighbours(48, 64, runtime=False))
    session = onnxruntime.InferenceSession(tmp_path / "repository/m_core/1/model.onnx")
    np.testing.assert_allclose(session.run(None, {"image": np.zeros((1, 3, 8, 8), np.float32)})[0], 0.048)


@pytest.mark.parametrize(
    ("device", "kind", "batch"), [(None, "KIND_CPU", 1), ("cpu", "KIND_CPU", 1), ("cuda", "KIND_GPU", 8)]
)
def test_instances(tmp_path: Path, make_model: ModelFile, device: str | None, kind: str, batch: int) -> None:
    images, core, served = written(tmp_path, make_model("blur"), device=device, instances=3, core_instances=2)
    kinds = schema().ModelInstanceGroup.Kind
    assert [(kinds.Name(group.kind), group.count) for group in core.instance_group] == [(kind, 2)]
    assert [(kinds.Name(group.kind), group.count) for group in images.instance_group] == [("KIND_CPU", 3)]
    assert core.max_batch_size == served.max_batch == batch
    assert core.HasField("dynamic_batching") == (batch > 1)


def test_what_clients_send_and_get(tmp_path: Path, make_model: ModelFile) -> None:
    picture = plain(written(tmp_path, make_model("blur"))[0])
    assert picture["image_file"] == picture["restored_file"] == ("TYPE_STRING", 1)
    assert picture["image_uint16"] == ("TYPE_UINT16", -1, -1, -1)
    spectrum = written(tmp_path, make_model("bands", out_channels=31))[0]
    assert [one.name for one in spectrum.output] == ["restored_fp32"]
    assert "image_file" not in plain(spectrum)
    masked = written(tmp_path, make_model("masked", extra_inputs=(ExtraInput("mask", 3),)))
    assert [one.name for one in masked[0].input if not one.optional] == ["mask"]
    assert plain(masked[1])["mask"] == ("TYPE_FP32", 3, -1, -1)


def test_a_fixed_shape(tmp_path: Path, make_model: ModelFile) -> None:
    _, core, served = written(tmp_path, make_model("blur", shape=(2, 32, 40)))
    assert plain(core) == {"image": ("TYPE_FP32", 2, 3, 32, 40), "restored": ("TYPE_FP32", 2, 3, 32, 40)}
    assert core.max_batch_size == served.max_batch == 0
    assert not core.HasField("dynamic_batching")


def test_weights_beside_the_file(tmp_path: Path, make_model: ModelFile) -> None:
    made = make_model("blur", in_channels=3)
    proto, source = onnx.load(made), tmp_path / "source" / "large.onnx"
    source.parent.mkdir()
    onnx.save(proto, source, save_as_external_data=True, location="large.onnx.data", size_threshold=0)
    written(tmp_path, source)
    version = tmp_path / "repository/m_core/1"
    assert {file.name for file in version.iterdir()} == {"model.onnx", "large.onnx.data"}
    onnxruntime.InferenceSession(version / "model.onnx")


def test_the_library_and_its_digest(tmp_path: Path, tiny: Any) -> None:
    _, core, served = written(tmp_path, tiny.onnx, mounted_at="/srv/models")
    assert [*core.model_operations.op_library_filename] == ["/srv/models/m_core/libkeygraph_ort.so"]
    copied = tmp_path / "repository/m_core/libkeygraph_ort.so"
    assert file_sha256(copied) in (tmp_path / "repository/README.md").read_text()
    assert served.library == copied.name
    _, core, served = written(tmp_path, tiny.onnx, library=None)
    assert not core.HasField("model_operations")
    assert served.library == ""
    with pytest.raises(InputError, match=r"absent\.so does not exist; give another library, or none"):
        written(tmp_path, tiny.onnx, library="absent.so")


def test_sums_and_readme(tmp_path: Path, model: Path) -> None:
    written(tmp_path, model)
    repository = tmp_path / "repository"
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=repository, capture_output=True, text=True, check=True)
    files = {str(file.relative_to(repository)) for file in repository.rglob("*") if file.is_file()}
    assert {line.partition(":")[0] for line in done.stdout.splitlines()} == files - {"SHA256SUMS"}
    text = (repository / "README.md").read_text()
    assert "Not tried in a server" in text
    assert "tritonserver --model-repository=/models" in text
    assert not re.search(r"[{}]\w", text.replace("${", "").partition("```")[0])
    (example,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    compile(example, "README.md", "exec")
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120


def engine(tmp_path: Path, **changes: Any) -> Path:
    """Write an engine with its metadata: batches of 1 to 6, without k."""
    profile = Profile((1, 4, 6), (64, 256, 512), (64, 256, 512))
    neighbours = changes.pop("neighbours", None)
    tensors = [Tensor("image", "float32", (-1, 3, -1, -1), False, False)]
    if neighbours is not None:
        tensors.append(Tensor("k", "int64", (1,), False, True))
    tensors.append(Tensor("restored", "float32", (-1, 3, -1, -1), True, False))
    values = {
        "backend": "tensorrt",
        "tensors": tuple(tensors),
        "manifest": dataclasses.replace(MANIFEST, profiles=(profile, profile), neighbours=neighbours),
    }
    return write_engine(tmp_path / "model.plan", **{**values, **changes})


def test_an_engine(tmp_path: Path) -> None:
    _, core, served = written(tmp_path, engine(tmp_path))
    assert (core.backend, core.platform, core.max_batch_size) == ("tensorrt", "tensorrt_plan", 6)
    assert plain(core)["image"] == ("TYPE_FP32", 3, -1, -1)
    assert [*core.instance_group[0].profile] == ["0", "1"]
    assert (served.device, served.max_batch) == ("cuda", 6)
    assert {file.name for file in (tmp_path / "repository/m_core/1").iterdir()} == {"model.plan", "model.plan.json"}
    assert "version of TensorRT" in (tmp_path / "repository/README.md").read_text()


def test_an_engine_with_k_as_an_input(tmp_path: Path) -> None:
    """The first axis of its inputs is no batch, so the server joins nothing."""
    images, core, served = written(tmp_path, engine(tmp_path, neighbours=K))
    assert core.max_batch_size == 0
    assert plain(core)["image"] == ("TYPE_FP32", -1, 3, -1, -1)
    assert [one.name for one in core.input if one.is_shape_tensor] == ["k"]
    assert "k" in plain(images)
    assert served.k_input == "k"


def test_an_engine_with_a_plugin(tmp_path: Path) -> None:
    library = tmp_path / "libkeygraph_trt.so"
    library.write_bytes(b"a library")
    needed = Plugin(library.name, file_sha256(library))
    made = engine(tmp_path, plugin=needed, host_code=True)
    written(tmp_path, made, library=str(library))
    text = (tmp_path / "repository/README.md").read_text()
    assert "--backend-config=tensorrt,plugins=/models/m_core/libkeygraph_trt.so" in text
    assert "--backend-config=tensorrt,version-compatible=true" in text
    library.write_bytes(b"another")
    with pytest.raises(InputError, match=r"was built with a libkeygraph_trt\.so of SHA-256"):
        written(tmp_path, made, library=str(library))


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"backend": "tensorrt-rtx"}, {}, "is an engine of TensorRT-RTX, which the server has no backend for; build"),
        ({"stripped": True}, {}, "was built without its weights"),
        ({}, {"device": "cpu"}, "is an engine, which runs on a GPU; leave --device out"),
        ({}, {"batch": 7}, "--batch is 7, and .* was built for at most 6; give 6 or less"),
        ({"neighbours": K}, {"k": 8}, "k is an input of .*, and cannot be fixed in an engine; leave --k out"),
        ({"neighbours": K}, {"batch": 2}, "the server cannot join tiles .*; leave --batch out"),
    ],
)
def test_engines_that_cannot_be_served(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        written(tmp_path, engine(tmp_path, **changes), **settings)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("kind", "changes", "settings", "message"),
    [
        ("blur", {}, {"k": 8}, "has no key graph and takes no k"),
        ("add_k", {"neighbours": K}, {"k": 65}, "k is 65; it must be a whole number from 1 to 64"),
        ("blur", {"shape": (1, 32, 32)}, {"batch": 2}, "the server cannot join tiles for .*; leave --batch out"),
        ("blur", {"precision": "bf16", "half": HalfPrecision()}, {}, "bfloat16, for which ONNX Runtime has no kernels"),
        ("blur", {}, {"batch": 0}, "--batch is 0; give a whole number from 1 to 1024"),
        ("blur", {}, {"instances": 0}, "--instances is 0; give"),
        ("blur", {}, {"device": "gpu"}, "the device is 'gpu'; give cpu or cuda"),
        ("blur", {}, {"mounted_at": "models"}, "--mounted-at is models; give the absolute path"),
    ],
)
def test_what_cannot_be_served(
    tmp_path: Path, make_model: ModelFile, kind: str, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        written(tmp_path, make_model(kind, **changes), **settings)
    assert not (tmp_path / "repository").exists()


def command(*words: object) -> int:
    return main(["serving-repository", *map(str, words)])


def test_the_command(tmp_path: Path, make_model: ModelFile, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model("blur", tmp_path / "my blur.onnx")
    assert command(model, "-o", tmp_path / "repository", "--batch", 4) == 0
    assert "my_blur_core: onnxruntime, KIND_CPU, joins up to 4 tiles" in capsys.readouterr().out
    # A repository as it was written is replaced, with what Python left in it.
    cache = tmp_path / "repository/my_blur/1/__pycache__"
    cache.mkdir()
    (cache / "model.pyc").touch()
    assert command(model, "-o", tmp_path / "repository", "--name", "other", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert {file.name for file in (tmp_path / "repository").iterdir()} == {
        *("README.md", "SHA256SUMS", "other", "other_core"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.ckpt", "-o", "new"), "is a checkpoint, which the server does not run; export it: keygraph export"),
        (("notes.txt", "-o", "new"), "is neither an exported .onnx file nor an engine"),
        (("absent.onnx", "-o", "new"), "absent.onnx"),
        (("blur.onnx", "-o", "absent/new"), "the folder .*absent does not exist"),
        (("blur.onnx", "-o", "notes.txt"), "is not a folder; name a new one"),
        (("blur.onnx", "-o", "others"), "exists and is no repository that keygraph wrote; give a new folder"),
        (("blur.onnx", "-o", "new", "--name", "a/b"), "the model's name is 'a/b'"),
    ],
)
def test_errors_of_the_command(
    tmp_path: Path,
    make_model: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    make_model("blur", tmp_path / "blur.onnx")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/mine.txt").write_text("mine")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "model.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert command(*words) == 2
    line = capsys.readouterr().err
    assert re.search(message, line), line
    assert line.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda repository: (repository / "blur/2").write_text("mine"), "holds blur/2, which keygraph did not write"),
        (
            lambda repository: (repository / "blur/config.pbtxt").write_text("mine"),
            r"config.pbtxt was changed since keygraph wrote it",
        ),
    ],
)
def test_a_repository_that_was_changed_is_kept(
    tmp_path: Path,
    make_model: ModelFile,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], Any],
    message: str,
) -> None:
    model, out = make_model("blur"), tmp_path / "repository"
    assert command(model, "-o", out) == 0
    change(out)
    assert command(model, "-o", out) == 2
    assert re.search(message, capsys.readouterr().err)
    assert any(file.read_text() == "mine" for file in (out / "blur").iterdir() if file.is_file())


def test_a_failed_write_leaves_nothing(tmp_path: Path, make_model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = make_model("blur"), tmp_path / "repository"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keygraph.serving.triton.repository.readme", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"cannot write .*repository: No space left on device"):
        write_repository(model, out, Settings("m"))
    assert sorted(tmp_path.iterdir()) == before


def test_the_model_is_not_replaced(tmp_path: Path, make_model: ModelFile) -> None:
    out = tmp_path / "repository"
    write_repository(make_model("blur"), out, Settings("m"))
    with pytest.raises(InputError, match="would be replaced, and holds the input"):
        write_repository(out / "m_core/1/model.onnx", out, Settings("m"))
