"""Pictures for checks that need some and were given none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifest import IMAGE_INPUT, Manifest


def test_image(shape: tuple[int, ...], value_range: tuple[float, float]) -> NDArray[np.float32]:
    """A deterministic picture, float32 of this NCHW shape: smooth waves of several lengths, edges and some noise."""
    batch, channels, height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    random = np.random.default_rng(0)
    planes = []
    for i in range(batch * channels):
        waves = sum(
            np.sin((x * math.cos(a) + y * math.sin(a)) / length + i)
            for a, length in ((0.3 + i, 17.0), (1.9 * i, 5.0), (2.5, 53.0))
        )
        edges = np.sign(np.sin(x / 29 + i) * np.sin(y / 37))
        planes.append(0.5 + 0.1 * waves + 0.1 * edges + random.normal(0, 0.05, (height, width)))
    low, high = value_range
    image = np.clip(np.stack(planes), 0, 1).reshape(shape) * (high - low) + low
    return image.astype(np.float32)


test_image.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever its name suggests to pytest


def test_inputs(manifest: Manifest, shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], ...]:
    """A batch of such pictures for everything that a model takes but k, for results of (B, H, W)."""
    batch, height, width = shape
    return tuple(
        test_image((batch, channels, height + down, width + across), manifest.value_range)
        for _, channels, (down, across) in tensors(manifest)
    )


test_inputs.__test__ = False  # type: ignore[attr-defined]


def test_scene(manifest: Manifest, height: int, width: int) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Such pictures as users would give them, from 0 to 1: the image, and the others by name; for a result of H x W."""
    image, *extras = (
        np.ascontiguousarray(np.moveaxis(test_image((1, channels, height + down, width + across), (0.0, 1.0))[0], 0, 2))
        for _, channels, (down, across) in tensors(manifest)
    )
    first, *views = np.split(image, len(manifest.views) or 1, axis=2)
    named = zip((*manifest.views[1:], *(extra.name for extra in manifest.extra_inputs)), (*views, *extras), strict=True)
    return first, dict(named)


test_scene.__test__ = False  # type: ignore[attr-defined]


def tensors(manifest: Manifest) -> tuple[tuple[str, int, tuple[int, int]], ...]:
    """Name, channels and margin of everything that a model takes but k, in its order."""
    extras = ((extra.name, extra.channels, extra.margin) for extra in manifest.extra_inputs)
    return (IMAGE_INPUT, manifest.in_channels, manifest.margin), *extras
