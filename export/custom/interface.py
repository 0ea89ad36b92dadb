"""Find the inputs and outputs of a module by running it: channels, scale, sizes, batches, global statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...instrumentation.metrics import psnr
from ...manifest import Interface
from ..opaque import OpaqueError
from .sizes import FIRST_SIDES, Sizes, find_sizes, shapes
from .statistics import finds_far_change, reaches_middle
from .trial import ResultError, Trial

#: PSNR in dB by which the result of an image in a batch must agree with that of the image alone. Rounding alone stays
#: far above it, near ties of a selection mostly.
_BATCH_DB = 40.0

#: Numbers of channels that are tried besides those of the module's convolutions.
_CHANNELS = (3, 1, 4, 2, 6)


def find_interface(
    trial: Trial,
    *,
    task: str,
    shape: tuple[int, int, int] | None,
    size_multiple: int | None,
    progress: Callable[[str], None],
) -> tuple[Interface, list[str]]:
    """Find the inputs and outputs of a module.

    Parameters
    ----------
    trial
        The module.
    task
        Free text for the interface.
    shape
        The only (B, H, W) that the file is to take; None to find the sizes that the module takes.
    size_multiple
        The multiple that the user says; None to find it.
    progress
        Called with a line before each step.

    Returns
    -------
    Interface, notes
        The interface, and a line for each thing that was found.

    Raises
    ------
    InputError
        The module does not map an image batch to an image batch, image by image, in a way that can be exported.
    """
    progress("finding channels and scale")
    image, result, notes = _first_run(trial, shape)
    channels, scale = image.shape[1], _scale(trial, image, result)
    _check_repeatable(trial, image, result)
    if shape is None:
        progress("finding the size multiple")
        sizes = find_sizes(trial, channels, scale, size_multiple)
        progress("looking for global statistics")
        far, said = finds_far_change(trial, channels, scale, sizes)
        notes += [_sizes_found(sizes, size_multiple), said]
        _check_batch(trial, channels, (2, *shapes(sizes.multiple, sizes.smallest)[0]))
    else:
        sizes = Sizes(1, 1)
        far = reaches_middle(trial, channels, shape, scale)
        if shape[0] > 1:
            _check_batch(trial, channels, shape)
    interface = Interface(
        task=task,
        scale=scale,
        in_channels=channels,
        out_channels=result.shape[1],
        value_range=trial.value_range,
        size_multiple=sizes.multiple,
        smallest=sizes.smallest if sizes.smallest > sizes.multiple else 1,
        global_statistics=far,
    )
    return interface, notes


def _first_run(trial: Trial, shape: tuple[int, int, int] | None) -> tuple[Tensor, Tensor, list[str]]:
    """Find a number of channels and a size that run; return the image, the result, and notes."""
    sizes = [shape] if shape is not None else [(1, side, side) for side in FIRST_SIDES]
    candidates = list(dict.fromkeys((*_CHANNELS[:2], *_convolution_channels(trial.module), *_CHANNELS[2:])))
    if trial.channels is not None:
        candidates = [trial.channels]
    errors: dict[int, InputError] = {}
    for batch, height, width in sizes:
        for channels in candidates:
            image = trial.image(batch, channels, height, width)
            try:
                result = trial.run(image)
            except (ResultError, OpaqueError):
                raise
            except InputError as error:
                errors.setdefault(channels, error)
                continue
            others = [other for other in candidates if other != channels and _runs(trial, image, other)]
            notes = [f"{channels} -> {result.shape[1]} channels"]
            if others:
                notes[0] += f"; it runs with {', '.join(map(str, others[:3]))} as well"
            return image, result, notes
    # Of all attempts, the one with the channels of the module's first convolution says most.
    likely = trial.channels or next(_convolution_channels(trial.module), _CHANNELS[0])
    sides = ", ".join(dict.fromkeys(f"{height} x {width}" for _, height, width in sizes))
    raise InputError(
        f"{errors[likely]} (tried: {', '.join(map(str, candidates))} channels, sizes {sides}); its forward must take "
        "one image batch [batch, channels, height, width]" + _advice(shape)
    )


def _advice(shape: tuple[int, int, int] | None) -> str:
    return "; if it takes one size only, give it with --shape, for instance 1x256x256" if shape is None else ""


def _runs(trial: Trial, image: Tensor, channels: int) -> bool:
    try:
        trial.run(trial.image(image.shape[0], channels, *image.shape[2:]))
    except InputError:
        return False
    return True


def _convolution_channels(module: nn.Module) -> Iterator[int]:
    """Yield the input channels of a module's convolutions, first ones first, each number once and few of them."""
    found = [one.in_channels for one in module.modules() if isinstance(one, nn.Conv2d)]
    yield from list(dict.fromkeys(found))[:4]


def _scale(trial: Trial, image: Tensor, result: Tensor) -> int:
    height, width = image.shape[2:]
    scale = result.shape[2] // height
    if scale < 1 or tuple(result.shape[2:]) != (height * scale, width * scale):
        got = " x ".join(map(str, result.shape[2:]))
        raise InputError(
            f"{trial.name} returns {got} pixels for {height} x {width}; the result must be as large as the image, or a "
            "whole number of times as large in both directions"
        )
    return scale


def _check_repeatable(trial: Trial, image: Tensor, first: Tensor) -> None:
    second = trial.run(image)
    if not bool(first.isfinite().all()):
        raise InputError(f"{trial.name} returns values that are not finite for a generated image")
    if not torch.equal(first, second):
        raise InputError(
            f"{trial.name} gives another result each time it restores the same image, as random numbers in forward "
            "do; export a module whose result depends on the image alone"
        )


def _check_batch(trial: Trial, channels: int, shape: tuple[int, int, int]) -> None:
    """Check that the images of a batch do not affect each other, and that the batch is not baked in.

    Raises
    ------
    InputError
        They do, or it is.
    """
    batch, height, width = shape
    images = trial.image(batch, channels, height, width)
    try:
        together = trial.run(images)
    except InputError as error:
        raise InputError(
            f"{trial.name} restores one image, but not a batch of {batch}: {error}; "
            "take the batch from the input's shape"
        ) from error
    low, high = trial.value_range
    changed = images.clone()
    changed[1:] = high + low - changed[1:]
    if not torch.equal(trial.run(changed)[0], together[0]):
        raise InputError(
            f"{trial.name}: the result of an image depends on the other images of its batch, so tiles would change "
            "each other; compute statistics for each image alone"
        )
    for index, alone in enumerate(_alone(trial, images)):
        result = together[index].numpy()
        span = (float(np.minimum(low, result.min())), float(np.maximum(high, result.max())))
        if not psnr(result, alone, span) >= _BATCH_DB:
            raise InputError(
                f"{trial.name}: image {index + 1} of a batch of {batch} has another result than alone "
                f"({psnr(result, alone, span):.0f} dB); the batch seems to be fixed in its code: take it from the "
                "input's shape"
            )


def _alone(trial: Trial, images: Tensor) -> Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [trial.run(images[index : index + 1])[0].numpy() for index in range(len(images))]


def _sizes_found(sizes: Sizes, given: int | None) -> str:
    what = f"height and width in multiples of {sizes.multiple}" if sizes.multiple > 1 else "any height and width"
    least = f", at least {sizes.smallest}" if sizes.smallest > sizes.multiple else ""
    return f"{what}{least}: {'as given, and tried' if given is not None else 'found by running sizes'}"
