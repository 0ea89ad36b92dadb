"""Requests made from the OpenAPI document of a running service: no failure, and no answer that is not in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from service_process import Service, until
from tiny_kgt import Tiny

pytest.importorskip("schemathesis")

#: Requests to each address; `-m slow` tries more.
_FEW, _MANY = 15, 1000

#: The document cannot say which bytes are an image, nor that a tile is a multiple of 8.
_LEFT_OUT = "positive_data_acceptance"


@pytest.mark.parametrize("examples", [_FEW, pytest.param(_MANY, marks=pytest.mark.slow)])
def test_the_document_holds(tiny: Tiny, tmp_path: Path, examples: int) -> None:
    with Service(tiny.onnx, tmp_path, "--max-pixels", "20000") as service:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--no-color"]
        command += ["--checks", "all", "--exclude-checks", _LEFT_OUT, "--max-examples", str(examples), "--seed", "1"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        until(lambda: service.metric("keygraph_accepted_requests") == 0, "none is in progress")
        assert service.metric("keygraph_requests_total", path="/v1/restore", method="POST", status="200") > 0
        assert "Traceback" not in service.log.read_text()
        assert service.left() == []
