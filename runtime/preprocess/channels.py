"""How an image's channels map to a model's: unchanged, gray through a colour model, or colour through a gray model."""

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
    """The mapping from an image's channels to a model's, and back.

    Attributes
    ----------
    planes
        Tensors that the model runs for one image.
    channels
        Channels of the restored image: bands, for a spectrum.
    split
        float32[H, W, C] -> float32[planes, in_channels, H, W]
    join
        float32[planes, out_channels, H, W] -> float32[channels, H, W]
    notice
        Line to show to the user; empty where the channels are unchanged.
    """

    planes: int
    channels: int
    split: Callable[[Float32], Float32]
    join: Callable[[Float32], Float32]
    notice: str = ""


def straight(manifest: Manifest) -> Channels:
    """Return the mapping for an image that has the model's channels."""
    return Channels(1, manifest.out_channels, lambda image: np.moveaxis(image, 2, 0)[None], lambda planes: planes[0])


def adapt(manifest: Manifest, channels: int) -> Channels:
    """Return the mapping for an image, or views, of `channels` channels each (without alpha).

    Raises
    ------
    InputError
        The model takes another number of channels, and there is no mapping.
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
            "colour image, gray model: each channel restored separately",
        )
    of_each = f"{count(taken // views)} of each of {' and '.join(manifest.views)}" if views > 1 else count(taken)
    raise InputError(f"the image has {count(channels)} (alpha apart), but the model takes {of_each}")


def count(channels: int) -> str:
    """Return the number in words: ``"1 channel"``, ``"3 channels"``."""
    return "1 channel" if channels == 1 else f"{channels} channels"
