"""Train the demo's denoiser, `examples/kgt-denoise-tiny.ckpt`, on two CPU cores in about half an hour.

    python examples/train_denoiser.py -o kgt-denoise-tiny.ckpt

As in the papers, k is drawn at random in every step, so that the same weights work for any k.
"""

from __future__ import annotations

import argparse
import math
import random
import time

import numpy as np
import torch
from keygraph.models import save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from keygraph.plugins.torch import use_attention
from photos import add_noise, training_photos, unseen_photo

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


def pyramid(photo: np.ndarray) -> list[torch.Tensor]:
    """Return a photo as float [3, H, W] at full and at half size, for more data and sharper edges."""
    full = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    return [full, torch.nn.functional.avg_pool2d(full, 2)]


def batch(images: list[torch.Tensor], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random crops, flipped and rotated, as (noisy, clean), both [size, 3, CROP, CROP]."""
    crops = []
    for image in random.choices(images, weights=[i.shape[1] * i.shape[2] for i in images], k=size):
        y, x = (random.randrange(n - CROP + 1) for n in image.shape[1:])
        crop = image[:, y : y + CROP, x : x + CROP].rot90(random.randrange(4), (1, 2))
        crops.append(crop.flip(2) if random.random() < 0.5 else crop)
    clean = torch.stack(crops)
    noisy = clean + torch.randn_like(clean) * (SIGMA / 255)
    return (noisy.clamp(0, 1) * 255).round() / 255, clean


@torch.no_grad()
def gain(model: torch.nn.Module, k: int) -> float:
    """Return the gain in PSNR on a 256 x 256 crop of the held-out photo, in dB; reported only, not used to select."""
    photo = unseen_photo()[22:278, 97:353]
    noisy = add_noise(photo, SIGMA, seed=0)
    image = torch.from_numpy(noisy).permute(2, 0, 1)[None].float() / 255
    restored = (model(image, k)[0].permute(1, 2, 0) * 255).clamp(0, 255).numpy()
    return 10 * math.log10(((noisy - photo.astype(float)) ** 2).mean() / ((restored - photo) ** 2).mean())


def main() -> None:
    """Train, and save the averaged weights every 200 steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate (cosine, after a warm-up)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    random.seed(options.seed)
    torch.manual_seed(options.seed)
    images = [image for photo in training_photos().values() for image in pyramid(photo)]
    model = KGT(CONFIG)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.AdamW(model.parameters(), options.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, options.steps, pct_start=0.05)

    start = time.monotonic()
    for step in range(1, options.steps + 1):
        noisy, clean = batch(images, options.batch)
        with use_attention("sdpa"):
            loss = (model(noisy, random.choice(CONFIG.k_trained)) - clean).square().add(1e-6).sqrt().mean()
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        if step % 200 == 0 or step == options.steps:
            gains = ", ".join(f"k={k}: +{gain(average.module, k):.2f} dB" for k in (32, 256))
            print(f"{step:5d}  {time.monotonic() - start:5.0f} s  loss {loss.item():.4f}  held out {gains}", flush=True)
            save_checkpoint(options.output, average.module)


if __name__ == "__main__":
    main()
