"""Train `examples/restormer-denoise-tiny.ckpt`, and its form with GLMHA, on a CPU.

    python examples/train_restormer.py csa -o restormer-denoise-tiny.ckpt                                  (65 minutes)
    python examples/train_restormer.py glmha --start restormer-denoise-tiny.ckpt -o glmha.ckpt             (15 minutes)

Blind colour denoising, for noise of sigma 15 to 50. The second command replaces the channel attention of the trained
network by GLMHA, or by one of the attentions that its paper compares with, and tunes it. A command that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from keygraph.models import enhance, load_checkpoint
from keygraph.models.channel_attention import ATTENTIONS, REDUCTION_PRESETS
from keygraph.models.restormer import Restormer, RestormerConfig
from photos import add_noise, unseen_photo
from torch import Tensor, nn
from training import Schedule, charbonnier, photo_pyramid, psnr, random_crops, seed_all, to_bytes, train

CROP = 64
SIGMAS = (15.0, 50.0)
REPORTED = (15, 25, 50)
CONFIG = RestormerConfig(
    channels=12, blocks=(2, 2, 2, 2), refinement_blocks=2, norm="BiasFree", task="blind denoising, sigma 15 to 50"
)
FROM_SCRATCH = Schedule(steps=4500, batch=8, rate=1e-3)
TUNING = Schedule(steps=1000, batch=8, rate=3e-4)


def noisy_loss(images: list[Tensor], model: nn.Module, count: int) -> Tensor:
    """Return the loss on random crops, each with noise of its own strength."""
    clean = random_crops(images, count, CROP)
    sigmas = torch.tensor([random.uniform(*SIGMAS) for _ in range(count)]).view(-1, 1, 1, 1)
    return charbonnier(model(to_bytes(clean + torch.randn_like(clean) * (sigmas / 255))), clean)


def gains(model: nn.Module) -> dict[str, float]:
    """Return the gain in PSNR on a 256 x 256 part of the unseen photo, in dB, by sigma."""
    photo = unseen_photo()[22:278, 97:353]
    figures = {}
    for sigma in REPORTED:
        noisy = torch.from_numpy(add_noise(photo, sigma, seed=0)).permute(2, 0, 1)[None].float() / 255
        figures[f"gain at sigma {sigma}"] = psnr(model(noisy), photo) - psnr(noisy, photo)
    return figures


def tuned_from(start: Path, attention: str, preset: str) -> nn.Module:
    """Return the trained network with another attention; what the new attention has no weights for starts as new."""
    trained: Any = load_checkpoint(start).module
    if attention == "glmha":
        return enhance(trained, attention, preset=preset).train()
    model = Restormer(replace(trained.config, attention=attention))
    kept = {name: values for name, values in trained.state_dict().items() if name in model.state_dict()}
    model.load_state_dict({**model.state_dict(), **kept})
    return model


def main() -> None:
    """Train one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attention", choices=ATTENTIONS)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--start", type=Path, help="the trained network with csa; needed for other attentions")
    parser.add_argument("--preset", choices=REDUCTION_PRESETS, default="uniform", help="reduction of GLMHA")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    if (options.attention == "csa") != (options.start is None):
        parser.error("csa is trained from scratch, every other attention from --start")

    schedule = FROM_SCRATCH if options.start is None else TUNING
    schedule = replace(schedule, steps=options.steps or schedule.steps)
    seed_all(schedule.seed)
    model = Restormer(CONFIG) if options.start is None else tuned_from(options.start, options.attention, options.preset)
    images = photo_pyramid()
    train(model, lambda network, count: noisy_loss(images, network, count), gains, schedule, options.output)


if __name__ == "__main__":
    main()
