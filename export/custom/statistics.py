"""Find out whether a module's result depends on the whole image: a change is looked for far away."""

from __future__ import annotations

import functools

import torch

from ...runtime.device import memory
from ...runtime.preprocess.padding import round_up
from .sizes import Sizes
from .trial import Trial

#: Widths of the images in which a change at the left is looked for in the middle: shifted windows join both ends. What
#: reaches through the first may be a large receptive field; what reaches through the last is taken for a statistic over
#: the whole image.
WIDTHS = (256, 1024, 4096)

#: Height of these images, and width of the part that is changed, and of that where the change is looked for.
_HEIGHT, _PART = 16, 32


def finds_far_change(trial: Trial, channels: int, scale: int, sizes: Sizes) -> tuple[bool, str]:
    """Tell whether a change at one end of a long image reaches its middle.

    Both images have the same shape and run the same operations, so that a pixel which does not depend on the change has
    exactly the same value.

    Parameters
    ----------
    trial
        The module, which gives the same result for the same image.
    channels, scale, sizes
        What is known of its images.

    Returns
    -------
    (bool, str)
        Whether it does, and a line that says what was seen.
    """
    height = max(round_up(_HEIGHT, sizes.multiple), sizes.smallest)
    effects: list[float] = []
    seen = grown = before = 0
    for width in (max(round_up(width, sizes.multiple), sizes.smallest) for width in WIDTHS):
        # What relates all pixels with each other takes memory for the square of their number.
        free = memory.available()
        if seen and free is not None and grown * (width / before) ** 2 > free / memory.MARGIN:
            break
        image = trial.image(1, channels, height, width)
        grown = memory.growth(functools.partial(_measure, effects, trial, image, scale)) or 0
        if effects[-1] == 0:
            return False, f"no statistics over the whole image: a change {_distance(width)} pixels away has no effect"
        seen, before = _distance(width), width
    return True, f"statistics over the whole image: a change {seen} pixels away changes the result by {effects[-1]:.2g}"


def reaches_middle(trial: Trial, channels: int, shape: tuple[int, int, int], scale: int) -> bool:
    """Tell whether a change at the left reaches the middle, in a module that takes one shape only.

    Parameters
    ----------
    trial
        The module.
    channels, scale
        What is known of its images.
    shape
        The (B, H, W) that it takes.
    """
    return _change(trial, trial.image(shape[0], channels, *shape[1:]), scale) != 0


def _measure(effects: list[float], trial: Trial, image: torch.Tensor, scale: int) -> None:
    effects.append(_change(trial, image, scale))


def _distance(width: int) -> int:
    return width // 2 - _PART // 2 - _PART


def _change(trial: Trial, image: torch.Tensor, scale: int) -> float:
    """Return the largest effect that another content of the left end has on the middle."""
    part = max(1, min(image.shape[3] // 8, _PART))
    low, high = trial.value_range
    changed = image.clone()
    changed[..., :part] = high + low - changed[..., :part]
    left = (image.shape[3] // 2 - part // 2) * scale
    before, after = (trial.run(given)[..., left : left + part * scale] for given in (image, changed))
    return float((before - after).abs().max())
