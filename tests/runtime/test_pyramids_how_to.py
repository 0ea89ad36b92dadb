"""docs/how-to/pyramids-slides-zarr.md: its commands, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keygraph.cli import main
from keygraph.runtime.io import images, zarr_stores
from keygraph.runtime.io.encoding import Encoding
from keygraph.runtime.io.images import Picture
from test_tiff_pyramids import levels, write_slide

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "pyramids-slides-zarr.md"


def test_the_commands_of_the_page(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zarr", reason="zarr needs Python 3.11")
    monkeypatch.chdir(tmp_path)
    make_model("identity", tmp_path / "kgt.onnx")
    picture = Picture(np.random.default_rng(0).integers(0, 255, (300, 600, 3)).astype(np.uint8))
    images.write("large.tif", picture)
    images.write("large.png", picture)
    write_slide(Path("slide.svs"))
    zarr_stores.write(Path("slide.ome.zarr"), picture, Encoding())
    commands = re.findall(r"^    keygraph (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(commands) == 6
    found = []
    for command in commands:
        assert main(command.split()) == 0
        if "restored.tif" in command:
            found.append(levels(Path("restored.tif")))
    assert [len(one) for one in found] == [3, 3, 3]
    assert "OME-Zarr 0.5" in capsys.readouterr().out
    assert np.array_equal(zarr_stores.read(Path("restored.ome.zarr")).pixels, picture.pixels)
