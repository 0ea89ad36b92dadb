"""The largest image that is restored without tiles."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from keygraph.errors import InputError
from keygraph.manifest import GlobalStatistics, Manifest
from keygraph.runtime.device import memory
from keygraph.runtime.device.spec import Device
from keygraph.runtime.tiling import whole_image
from keygraph.runtime.tiling.tile_size import WHOLE_PIXELS, choose


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


def test_memory_limits_every_run_on_a_cpu(
    make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo that fits on the machine, but not into the container, is tiled, for all models."""
    cpu: Any = SimpleNamespace(device=Device())
    measured = make_manifest(global_statistics=True, statistics=GlobalStatistics(55_000, (), None))
    monkeypatch.setattr(memory, "available", lambda: 900 * 2**20)
    limit = whole_image.run_pixels(measured, cpu)
    assert limit * 55_000 <= 0.6 * 900 * 2**20
    assert whole_image.whole_pixels(measured, cpu) == limit < WHOLE_PIXELS
    assert whole_image.run_pixels(make_manifest(), cpu) < WHOLE_PIXELS
    assert whole_image.run_pixels(make_manifest(global_statistics=True), cpu) < 256 * 256
    library: Any = SimpleNamespace(device=Device(), runs_library=True)
    assert whole_image.run_pixels(make_manifest(), library) > 3 * whole_image.run_pixels(make_manifest(), cpu)
    gpu: Any = SimpleNamespace(device=Device("cuda", 0))
    assert whole_image.run_pixels(measured, gpu) == whole_image.NO_LIMIT


def test_a_given_tile_that_certainly_does_not_fit_is_refused(
    make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu: Any = SimpleNamespace(device=Device())
    gpu: Any = SimpleNamespace(device=Device("cuda", 0))
    measured = make_manifest(global_statistics=True, statistics=GlobalStatistics(50_000, (), None))
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    whole = choose(measured, 400, 400, tile="none", batch=1)
    with pytest.raises(InputError, match=r"1 x 400 x 400 pixels at once need about 7,629 MiB.* 954 MiB are free"):
        whole_image.check_fits(measured, cpu, whole)
    whole_image.check_fits(measured, gpu, whole)
    whole_image.check_fits(make_manifest(), cpu, whole)  # Nothing is known.
    whole_image.check_fits(measured, cpu, choose(measured, 400, 400, tile=160, batch=1))  # May fit.
    whole_image.check_fits(measured, cpu, choose(measured, 400, 400))
    streams: Any = SimpleNamespace(device=Device(), streams=2)
    with pytest.raises(InputError, match=r"2 x 160 x 160 pixels at once need about 2,441 MiB"):
        whole_image.check_fits(measured, streams, choose(measured, 400, 400, tile=160, batch=1))
    whole_image.check_fits(measured, streams, choose(measured, 160, 160, tile=160, batch=1))  # One run.
