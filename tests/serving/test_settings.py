"""The settings of a service, what they refuse, and the parts that need no running service."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.serving.delivery import as_header
from keygraph.serving.errors import RequestError
from keygraph.serving.metrics import Metrics
from keygraph.serving.queue import Queue
from keygraph.serving.server import _listening
from keygraph.serving.settings import Settings, read_api_key
from tiny_kgt import Tiny


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "restore.example", "localhost.example", ""])
def test_other_hosts_need_a_key(host: str) -> None:
    with pytest.raises(InputError, match="must bring a key; set KEYGRAPH_API_KEY"):
        Settings(host=host)
    assert not Settings(host=host, api_key="key").is_loopback


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"port": 70000}, "--port is 70000"),
        ({"queue": 0}, "--queue is 0"),
        ({"max_pixels": 0}, "--max-pixels is 0"),
        ({"max_batch": 0}, "--max-batch is 0"),
        ({"timeout": 0.0}, "--timeout is 0"),
        ({"timeout": float("nan")}, "--timeout is nan"),
        ({"grace": -1.0}, "--grace is -1"),
        ({"grace": float("inf")}, "--grace is inf"),
    ],
)
def test_numbers_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Settings(**changes)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--scratch is .*absent, which is no folder; make it first"):
        Settings(scratch=tmp_path / "absent")


def test_a_request_without_space_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(1, 1, tmp_path, Metrics())

    def full(**_options: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tempfile.mkdtemp", full)
        with pytest.raises(RequestError, match="no space left") as refused:
            queue.accept()
    assert refused.value.status == 507
    assert queue.idle
    queue.accept()  # The only place.
    queue.close()


def test_where_the_key_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  of-the-file\n")
    environment = {"KEYGRAPH_API_KEY": "of-the-environment"}
    assert read_api_key(file, environment) == "of-the-file"
    assert read_api_key(None, environment) == "of-the-environment"
    assert read_api_key(None, {}) is None


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", "schlüssel".encode(), b"a\nb"])
def test_what_is_no_key(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(InputError, match="holds no key"):
        read_api_key(file, {})


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_api_key(tmp_path / "absent", {})
    with pytest.raises(InputError, match="KEYGRAPH_API_KEY holds no key"):
        read_api_key(None, {"KEYGRAPH_API_KEY": ""})


def test_the_command_says_what_is_wrong(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", str(tiny.onnx), "--host", "0.0.0.0"]) == 2
    assert "must bring a key" in capsys.readouterr().err
    assert main(["serve", "--model", str(tiny.onnx), "--max-bytes", "many"]) == 2
    assert "--max-bytes is 'many'; give a number with the unit" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(tiny.onnx), "--port", str(port)]) == 2
    assert f"port {port}: Address already in use; choose another" in capsys.readouterr().err


def test_a_host_that_is_no_name() -> None:
    with pytest.raises(InputError, match=r"cannot listen at \.\., port 0: .*choose another --port or --host"):
        _listening(Settings(host="..", port=0, api_key="key"))


def test_a_model_with_other_inputs_is_refused(make_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from keygraph.manifest import ExtraInput

    model = make_model("masked", extra_inputs=(ExtraInput("mask", 3),))
    assert main(["serve", "--model", str(model), "--port", "0"]) == 2
    assert "takes mask beside the image" in capsys.readouterr().err


def test_a_model_that_fails_is_refused_at_the_start(make_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", str(make_model("bright_nan")), "--port", "0"]) == 1
    assert "the model gave NaN or infinity" in capsys.readouterr().err


def test_notices_fit_into_a_header() -> None:
    assert as_header([]) == "[]"
    assert as_header(["grün"]) == r'["gr\u00fcn"]'
    lines = [f"line {number} {'x' * 50}" for number in range(200)]
    text = as_header(lines)
    kept = json.loads(text)
    assert len(text) <= 3072
    assert kept[-1] == f"and {200 - len(kept) + 1} more"
    assert kept[:-1] == lines[: len(kept) - 1]
    assert json.loads(as_header(["y" * 5000])) == ["and 1 more"]
