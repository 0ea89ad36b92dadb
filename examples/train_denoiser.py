"""Train the demo's denoiser, `examples/kgt-denoise-tiny.ckpt`, on two CPU cores in about half an hour.

    python examples/train_denoiser.py -o kgt-denoise-tiny.ckpt

As in the papers, k is drawn at random in every step, so that the same weights work for any k. A command that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from keygraph.models.kgt import KGT, KGTConfig
from keygraph.plugins.torch import use_attention
from photos import add_noise, unseen_photo
from torch import Tensor, nn
from training import Schedule, charbonnier, photo_pyramid, psnr, random_crops, seed_all, to_bytes, train

SIGMA = 25.0
CROP = 64
CONFIG = KGTConfig(
    body="unet",
    layers=(1, 3, 1, 1),
    channels=32,
    heads=2,
    window=16,
    k=128,
    k_trained=(32, 64, 96, 128, 192, 256),
    task="denoising",
)
SCHEDULE = Schedule(steps=1500, batch=4, rate=1.5e-3)
#: Values of k whose results are reported.
REPORTED = (32, 256)


def loss(images: list[Tensor], model: nn.Module, count: int) -> Tensor:
    """Return the loss on random, noisy crops with one of the numbers of neighbours."""
    clean = random_crops(images, count, CROP)
    noisy = to_bytes(clean + torch.randn_like(clean) * (SIGMA / 255))
    with use_attention("sdpa"):
        return charbonnier(model(noisy, random.choice(CONFIG.k_trained)), clean)


def gains(model: nn.Module) -> dict[str, float]:
    """Return the gain in PSNR on a 256 x 256 part of the unseen photo, in dB, by k."""
    photo = unseen_photo()[22:278, 97:353]
    noisy = torch.from_numpy(add_noise(photo, SIGMA, seed=0)).permute(2, 0, 1)[None].float() / 255
    before = psnr(noisy, photo)
    return {f"gain at k = {k}": psnr(model(noisy, k), photo) - before for k in REPORTED}


def main() -> None:
    """Train, and save the averaged weights every 200 steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    schedule = replace(SCHEDULE, steps=options.steps or SCHEDULE.steps)
    seed_all(schedule.seed)
    images = photo_pyramid()
    train(KGT(CONFIG), lambda network, count: loss(images, network, count), gains, schedule, options.output)


if __name__ == "__main__":
    main()
