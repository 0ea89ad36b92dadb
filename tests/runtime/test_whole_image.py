"""The largest image that is restored without tiles."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from keygraph.manifest import GlobalStatistics, Manifest
from keygraph.runtime.device import memory
from keygraph.runtime.device.spec import Device
from keygraph.runtime.tiling import whole_image
from keygraph.runtime.tiling.tile_size import WHOLE_PIXELS


def test_images_are_whole_while_they_fit(
    make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu: Any = SimpleNamespace(device=Device())
    gpu: Any = SimpleNamespace(device=Device("cuda", 0))
    measured = make_manifest(global_statistics=True, statistics=GlobalStatistics(10_000, (), None))
    monkeypatch.setattr(memory, "available", lambda: 20 * 10**9)
    assert whole_image.whole_pixels(measured, cpu) == pytest.approx(whole_image.SHARE * 2e6)
    assert whole_image.whole_pixels(measured, gpu) == whole_image.NO_LIMIT
    assert whole_image.whole_pixels(make_manifest(global_statistics=True), cpu) == WHOLE_PIXELS
    assert whole_image.whole_pixels(make_manifest(), gpu) == WHOLE_PIXELS
    monkeypatch.setattr(memory, "available", lambda: None)
    assert whole_image.whole_pixels(measured, cpu) == WHOLE_PIXELS
