"""Train a small KGT for super-resolution x2 with a random k, and the same network with a fixed k.

Each takes about 80 minutes of one CPU core.

    python examples/train_super_resolution.py random -o kgt-sr-x2-tiny.ckpt
    python examples/train_super_resolution.py fixed -o kgt-sr-x2-fixed.ckpt

The papers draw k at random in every step, so that one network serves any k. The second network shows what that costs,
and what it gains: it is trained with the default k alone. A command that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from keygraph.models.kgt import KGT, KGTConfig, Stage, Upsampler
from keygraph.plugins.torch import use_attention
from photos import unseen_photo
from torch import Tensor, nn
from training import Schedule, charbonnier, photo_pyramid, psnr, random_crops, seed_all, to_bytes, train

SCALE = 2
#: Height and width of a crop at low resolution.
CROP = 32
CONFIG = KGTConfig(
    body="columnar",
    layers=(2, 2, 2),
    channels=32,
    heads=2,
    window=16,
    k=64,
    k_trained=(16, 32, 64, 96, 128, 192),
    scale=SCALE,
    task="super-resolution x2",
)
SCHEDULE = Schedule(steps=6500, batch=8, rate=1e-3)
#: Values of k whose results are reported.
REPORTED = (16, 64, 256)


def low_resolution(images: Tensor) -> Tensor:
    """Return images at half the size, by bicubic interpolation with antialiasing, as an image file has them."""
    return to_bytes(nn.functional.interpolate(images, scale_factor=1 / SCALE, mode="bicubic", antialias=True))


def bicubic(images: Tensor) -> Tensor:
    """Return images at twice the size, by bicubic interpolation: what the network must beat."""
    return nn.functional.interpolate(images, scale_factor=SCALE, mode="bicubic")


def unseen() -> tuple[Tensor, Tensor]:
    """Return a 256 x 256 part of the photograph that is not used in training, float32[1, 3, H, W]: low, high."""
    high = torch.tensor(unseen_photo()[22:278, 97:353]).permute(2, 0, 1)[None].float() / 255
    return low_resolution(high), high


def gains(model: nn.Module) -> dict[str, float]:
    """Return the gain in PSNR over bicubic interpolation on the unseen photo, in dB, by k."""
    low, high = unseen()
    clean = (high[0].permute(1, 2, 0) * 255).round().byte().numpy()
    before = psnr(bicubic(low), clean)
    return {f"gain at k = {k}": psnr(model(low, k), clean) - before for k in REPORTED}


def start_as_interpolation(model: KGT) -> None:
    """Set weights so that the network begins as quadratic interpolation, and learns nothing but what that lacks.

    With random weights, most of the steps go into learning to copy the image.
    """
    tail = cast(Upsampler, model.tail)
    convolutions = [cast(Stage, stage).conv for stage in model.body]
    # Three taps at -1, 0 and 1, for values at a quarter of a pixel before and after 0 (Lagrange).
    taps = torch.tensor([[t * (t - 1) / 2, 1 - t * t, t * (t + 1) / 2] for t in (-0.25, 0.25)])
    with torch.no_grad():
        for conv in convolutions:
            conv.weight.zero_()
        for conv in (*convolutions, model.head, tail.expand, tail.image):
            cast(Tensor, conv.bias).zero_()
        tail.image.weight.zero_()
        for channel in range(3):
            model.head.weight[channel].zero_()[channel, 1, 1] = 1
            tail.image.weight[channel, channel, 1, 1] = 1
            for place in range(SCALE**2):
                row, column = divmod(place, SCALE)
                # The features are the head's twice: the sum of the body's input and output.
                kernel = torch.outer(taps[row], taps[column]) / 2
                tail.expand.weight[channel * SCALE**2 + place].zero_()[channel] = kernel


def loss(images: list[Tensor], numbers: tuple[int, ...], model: nn.Module, count: int) -> Tensor:
    """Return the loss on random crops with one of the numbers of neighbours."""
    high = random_crops(images, count, SCALE * CROP)
    with use_attention("sdpa"):
        return charbonnier(model(low_resolution(high), random.choice(numbers)), high)


def main() -> None:
    """Train one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("k", choices=("random", "fixed"))
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    schedule = replace(SCHEDULE, steps=options.steps or SCHEDULE.steps)
    config = CONFIG if options.k == "random" else replace(CONFIG, k_trained=(CONFIG.k,))
    seed_all(schedule.seed)
    model, images = KGT(config), photo_pyramid()
    start_as_interpolation(model)
    train(model, lambda network, count: loss(images, config.k_trained, network, count), gains, schedule, options.output)


if __name__ == "__main__":
    main()
