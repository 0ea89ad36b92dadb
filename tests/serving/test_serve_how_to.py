"""The examples in docs/how-to/serve.md run as they stand, against a service of the small KGT."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
from service_process import Service
from tiny_kgt import Tiny

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_examples(tiny: Tiny, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    image = pyvips.Image.new_from_array(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3))
    for name in ("photo.png", "photo.jpg"):
        image.write_to_file(str(tmp_path / name))
    (tmp_path / "key").write_text("of-the-how-to\n")
    scripts, programs = examples("sh"), examples("python")
    assert (len(scripts), len(programs)) == (2, 1)
    restored = tmp_path / "restored.png"
    with Service(tiny.onnx, tmp_path / "open") as service:
        for command in (["bash", "-e", "-c", scripts[0]], [sys.executable, "-c", programs[0]]):
            restored.unlink(missing_ok=True)
            text = command[-1].replace("http://localhost:8000", service.url)
            subprocess.run([*command[:-1], text], cwd=tmp_path, check=True, capture_output=True)
            assert pyvips.Image.new_from_file(str(restored)).width == 40
        assert pyvips.Image.new_from_file(str(tmp_path / "restored.webp")).get("vips-loader") == "webpload"
    with Service(tiny.onnx, tmp_path / "closed", "--api-key-file", str(tmp_path / "key")) as service:
        restored.unlink()
        text = scripts[1].replace("http://localhost:8000", service.url)
        said = subprocess.run(["bash", "-e", "-c", text], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert restored.exists()
        assert "keygraph_accepted_requests" in said.stdout
