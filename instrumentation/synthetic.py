"""Deterministic synthetic images, for checks that were given no images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..manifest import Manifest
from ..runtime.backends.base import image_inputs

#: ``"picture"``: smooth waves of several lengths, edges and noise. ``"flat"``: mid-gray everywhere, so that all
#: similarities tie. ``"noise"``: uniform noise over the whole value range.
Content: TypeAlias = Literal["picture", "flat", "noise"]


def synthetic_image(
    shape: tuple[int, ...], value_range: tuple[float, float], content: Content = "picture"
) -> NDArray[np.float32]:
    """Return an image.

    Parameters
    ----------
    shape
        (B, C, H, W).
    value_range
        Values of black and white.
    content
        What it shows.

    Returns
    -------
    float32[B, C, H, W]
    """
    batch, channels, height, width = shape
    low, high = value_range
    if content != "picture":
        plain = np.full(shape, 0.5) if content == "flat" else np.random.default_rng(1).random(shape)
        return (plain * (high - low) + low).astype(np.float32)
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
    image = np.clip(np.stack(planes), 0, 1).reshape(shape) * (high - low) + low
    result: NDArray[np.float32] = image.astype(np.float32)
    return result


def synthetic_inputs(
    manifest: Manifest, shape: tuple[int, int, int], content: Content = "picture"
) -> tuple[NDArray[np.float32], ...]:
    """Return a batch of such images for every input of a model except k.

    Parameters
    ----------
    manifest
        The model's manifest.
    shape
        (B, H, W) of the result, divided by the scale.
    content
        As for `synthetic_image`.
    """
    batch, height, width = shape
    return tuple(
        synthetic_image(
            (batch, given.channels, height + given.margin[0], width + given.margin[1]), manifest.value_range, content
        )
        for given in image_inputs(manifest)
    )


def synthetic_scene(manifest: Manifest, height: int, width: int) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Return such images in the form that users give them to `Restorer`.

    Parameters
    ----------
    manifest
        The model's manifest.
    height, width
        Size of the result in input pixels.

    Returns
    -------
    image : float32[H, W, C]
        Values from 0 to 1.
    inputs : dict
        The other views and extra inputs, by name.
    """
    image, *extras = (
        np.ascontiguousarray(np.moveaxis(image[0], 0, 2))
        for image in synthetic_inputs(replace(manifest, value_range=(0.0, 1.0)), (1, height, width))
    )
    first, *views = np.split(image, len(manifest.views) or 1, axis=2)
    named = zip((*manifest.views[1:], *(extra.name for extra in manifest.extra_inputs)), (*views, *extras), strict=True)
    return first, dict(named)
