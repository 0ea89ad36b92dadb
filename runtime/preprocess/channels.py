"""How an image's channels go through a model that has other ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...manifest import Manifest
from .normalization import is_spectrum

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Channels:
    """The way there and back.

    Attributes
    ----------
    planes
        Images that the model sees for each one of the user's.
    channels
        Channels of the restored image: bands, for a spectrum.
    split
        float32[H, W, C] -> float32[planes, in_channels, H, W]
    join
        float32[planes, out_channels, H, W] -> float32[channels, H, W]
    notice
        What must be said of it; empty for the straight way.
    """

    planes: int
    channels: int
    split: Callable[[Float32], Float32]
    join: Callable[[Float32], Float32]
    notice: str = ""


def straight(manifest: Manifest) -> Channels:
    """The way of an image that has the model's channels."""
    return Channels(1, manifest.out_channels, lambda image: np.moveaxis(image, 2, 0)[None], lambda planes: planes[0])


def adapt(manifest: Manifest, channels: int) -> Channels:
    """Find the way for an image with `channels` channels (without alpha), or for views with so many each.

    Raises
    ------
    InputError
        There is none: the model was made for another kind of image.
    """
    taken, given = manifest.in_channels, manifest.out_channels
    views = len(manifest.views) or 1
    picture = views == 1 and not manifest.extra_inputs and not is_spectrum(manifest)
    if channels * views == taken:
        return straight(manifest)
    if picture and channels == 1 and taken == given == 3:
        return Channels(
            1,
            1,
            lambda image: np.repeat(np.moveaxis(image, 2, 0)[None], 3, axis=1),
            lambda planes: planes[0].mean(axis=0, keepdims=True),
            "gray image, colour model: restored as three equal channels, then averaged",
        )
    if picture and channels == 3 and taken == given == 1:
        return Channels(
            3,
            3,
            lambda image: np.moveaxis(image, 2, 0)[:, None],
            lambda planes: planes[:, 0],
            "colour image, gray model: each channel restored apart",
        )
    of_each = f"{count(taken // views)} of each of {' and '.join(manifest.views)}" if views > 1 else count(taken)
    raise InputError(f"the image has {count(channels)} (alpha apart), but the model takes {of_each}")


def count(channels: int) -> str:
    """``"3 channels"``."""
    return "1 channel" if channels == 1 else f"{channels} channels"
