"""A service in a process of its own, as `keygraph serve` starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

#: Seconds that anything may take before a test fails.
LONG = 60.0


class Service:
    """Starts a service in a with block, and stops it at the end.

    Parameters
    ----------
    model
        The model's file.
    folder
        Folder for its temporary files and its log.
    options
        Further options of the command.
    environment
        Variables of its environment; None for those of the tests.
    """

    def __init__(self, model: Path, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.scratch, self.log = folder / "scratch", folder / "log"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-m", "keygraph", "serve", "--model", str(model), "--port", "0"]
        self._command += ["--threads", "1", "--scratch", str(self.scratch), *options]
        self._environment = environment
        self.url = ""

    def __enter__(self) -> Service:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log, env=self._environment)
        address = re.compile(r"at (http://\S+)/\n")  # to the line's end: it may be written in pieces
        until(lambda: address.search(self.log.read_text()) or self.process.poll() is not None, "the service started")
        try:
            found = address.search(self.log.read_text())
            assert found is not None, self.log.read_text()
            self.url = found[1]
            self.client = httpx.Client(base_url=self.url, timeout=LONG)
            until(self._answers, "the service answers")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def _answers(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def restore(self, image: bytes, media: str = "application/octet-stream", **parameters: Any) -> httpx.Response:
        """Send an image as the body."""
        return self.client.post("/v1/restore", content=image, headers={"Content-Type": media}, params=parameters)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 where it is not there yet."""
        wanted = "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}" if labels else ""
        for line in self.client.get("/metrics").text.splitlines():
            found, _, value = line.rpartition(" ")
            if found == name + wanted:
                return float(value)
        return 0.0

    def terminate(self) -> None:
        """Ask the service to stop."""
        self.process.send_signal(signal.SIGTERM)

    def left(self) -> list[Path]:
        """Return the files that it has in its folder."""
        # Not rglob: it raises where the service removes a folder meanwhile.
        return [Path(folder, name) for folder, _, names in os.walk(self.scratch) for name in names]


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    last = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < last, f"not within {LONG:g} s: {what}"
        time.sleep(0.02)


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the code of a refusal, whose form is checked."""
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"code", "message"}
    assert error["message"].isprintable()
    assert "/tmp" not in error["message"]
    return response.status_code, error["code"]
