"""A service with more work than it can do: the queue, time-outs, clients that leave, and the end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import pyvips
from service_process import LONG, Service, error_of, until
from tiny_kgt import Tiny


def gradient(height: int, width: int) -> bytes:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=2).astype(np.uint8)
    return bytes(pyvips.Image.new_from_array(pixels).write_to_buffer(".png"))


SMALL = gradient(24, 32)
LARGE = gradient(2000, 2000)


@contextmanager
def long_request(service: Service) -> Iterator[socket.socket]:
    """A request that takes minutes if nobody ends it: tens of thousands of tiles."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LONG) as connection:
        head = f"POST /v1/restore?tile=8 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(LARGE)}\r\n"
        connection.sendall(f"{head}Content-Type: image/png\r\n\r\n".encode() + LARGE)
        yield connection


def answer(connection: socket.socket) -> bytes:
    """Return what comes until the connection is closed."""
    received = b""
    while chunk := connection.recv(1 << 16):
        received += chunk
    return received


def running(service: Service) -> int:
    return int(service.metric("keygraph_running_requests"))


def accepted(service: Service) -> int:
    return int(service.metric("keygraph_accepted_requests"))


def test_a_full_queue_refuses_and_clients_that_leave_make_room(tiny: Tiny, tmp_path: Path) -> None:
    with Service(tiny.onnx, tmp_path, "--queue", "3") as service:
        with long_request(service), long_request(service) as second:
            until(lambda: running(service) == 2, "both threads work")
            with long_request(service):
                until(lambda: accepted(service) == 3, "the third one waits")
                refused = service.restore(SMALL)
                assert error_of(refused) == (429, "too_many_requests")
                assert int(refused.headers["Retry-After"]) >= 1
                assert service.client.get("/healthz").status_code == 200
            # The third one left while it waited, and the second one leaves while it is restored.
            until(lambda: accepted(service) == 2, "the place in the queue is free")
            second.close()
            assert service.restore(SMALL).status_code == 200
        until(lambda: accepted(service) == 0 and running(service) == 0, "all clients have left")
        until(lambda: service.left() == [], "no file is left")
        assert service.metric("keygraph_refused_requests_total", code="client_gone") == 3
        assert service.metric("keygraph_requests_total", path="/v1/restore", method="POST", status="200") == 1


def test_time_limits(tiny: Tiny, tmp_path: Path) -> None:
    with Service(tiny.onnx, tmp_path, "--timeout", "1") as service:
        assert error_of(service.restore(LARGE, tile=8)) == (504, "timed_out")
        until(lambda: running(service) == 0, "its work has ended")
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=LONG) as slow:
            head = "POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n"
            slow.sendall(head.encode() + b"Connection: close\r\n\r\n" + SMALL[:10])
            assert answer(slow).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection((host, int(port)), timeout=LONG) as gone:
            gone.sendall(head.encode() + b"\r\n" + SMALL[:10])
        until(lambda: accepted(service) == 0, "all clients have left")
        until(lambda: service.left() == [], "no file is left")


def test_a_key(tiny: Tiny, tmp_path: Path) -> None:
    key = "a-key-of-this-test"
    (tmp_path / "key").write_text(f"{key}\n")
    with Service(tiny.onnx, tmp_path, "--api-key-file", str(tmp_path / "key")) as service:
        get, post = service.client.get, service.client.post
        for headers in (
            {},
            {"X-API-Key": "wrong"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {key}"},
        ):
            refused = post("/v1/restore", content=SMALL, headers={"Content-Type": "image/png", **headers})
            assert error_of(refused) == (401, "unauthorized")
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert error_of(get("/metrics", headers=headers)) == (401, "unauthorized")
        odd = {b"Content-Type": b"image/png", b"X-API-Key": b"\xff\xfe"}
        assert error_of(post("/v1/restore", content=SMALL, headers=odd)) == (401, "unauthorized")
        for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
            given = post("/v1/restore", content=SMALL, headers={"Content-Type": "image/png", **headers})
            assert given.status_code == 200
            assert get("/metrics", headers=headers).status_code == 200
        assert get("/v1/model").json()["needs_api_key"] is True
        assert key not in service.log.read_text()


def test_a_key_of_the_environment_and_other_hosts(tiny: Tiny, tmp_path: Path) -> None:
    environment = {**os.environ, "KEYGRAPH_API_KEY": "from-the-environment"}
    with Service(tiny.onnx, tmp_path, "--host", "0.0.0.0", environment=environment) as service:
        host = {"Host": "restore.example", "Content-Type": "image/png"}
        assert error_of(service.client.post("/v1/restore", content=SMALL, headers=host)) == (401, "unauthorized")
        given = {**host, "X-API-Key": "from-the-environment"}
        assert service.client.post("/v1/restore", content=SMALL, headers=given).status_code == 200


def test_sigterm_finishes_what_was_accepted(tiny: Tiny, tmp_path: Path) -> None:
    with Service(tiny.onnx, tmp_path) as service, ThreadPoolExecutor() as pool:
        medium = gradient(120, 120)
        asked: list[Future[httpx.Response]] = [pool.submit(service.restore, medium, tile=16) for _ in range(4)]
        until(lambda: accepted(service) == 4 or asked[0].done(), "they are accepted")
        service.terminate()
        assert [one.result().status_code for one in asked] == [200] * 4
        assert service.process.wait(LONG) == 0
        assert list(service.scratch.iterdir()) == []
        with pytest.raises(httpx.TransportError):
            service.restore(SMALL)


def test_sigterm_ends_what_takes_longer_than_the_grace(tiny: Tiny, tmp_path: Path) -> None:
    with (
        Service(tiny.onnx, tmp_path, "--grace", "1") as service,
        long_request(service) as first,
        long_request(service),
        long_request(service) as waiting,
    ):
        until(lambda: accepted(service) == 3, "they are accepted")
        service.terminate()
        for connection in (first, waiting):
            said = answer(connection)
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b'"code":"stopping"' in said
        assert service.process.wait(LONG) == 1
        assert "give a longer --grace" in service.log.read_text()
        assert list(service.scratch.iterdir()) == []
