"""What the training scripts share: random crops of photographs, and a seeded loop that goes on where it was stopped."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keygraph.models import save_checkpoint
from photos import training_photos
from torch import Tensor, nn

#: Steps between two lines of progress, after each of which a stopped training goes on.
REPORT_EVERY = 200

#: Share of the old average that one step keeps.
AVERAGE = 0.998


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes
    ----------
    steps
        Optimiser steps.
    batch
        Crops per step.
    rate
        Peak learning rate; a cosine after a warm-up.
    seed
        Seed of the weights, crops and noise.
    """

    steps: int
    batch: int
    rate: float
    seed: int = 0


def seed_all(seed: int) -> None:
    """Seed everything that a training draws from; before the network is built."""
    random.seed(seed)
    torch.manual_seed(seed)


def photo_pyramid() -> list[Tensor]:
    """Return the training photographs, float32[3, H, W] in 0 to 1, at full and half size: more data, sharper edges."""
    full = [torch.tensor(photo).permute(2, 0, 1).float() / 255 for photo in training_photos().values()]
    return [size for photo in full for size in (photo, nn.functional.avg_pool2d(photo, 2))]


def random_crops(images: list[Tensor], count: int, side: int) -> Tensor:
    """Return random crops, flipped and rotated.

    Parameters
    ----------
    images
        float32[3, H, W]; large ones are chosen more often.
    count
        Crops to return.
    side
        Their height and width in pixels.

    Returns
    -------
    float32[count, 3, side, side]
    """
    crops = []
    for image in random.choices(images, weights=[i.shape[1] * i.shape[2] for i in images], k=count):
        y, x = (random.randrange(n - side + 1) for n in image.shape[1:])
        crop = image[:, y : y + side, x : x + side].rot90(random.randrange(4), (1, 2))
        crops.append(crop.flip(2) if random.random() < 0.5 else crop)
    return torch.stack(crops)


def to_bytes(images: Tensor) -> Tensor:
    """Round and clip to the 256 values of an image file, in 0 to 1."""
    return (images.clamp(0, 1) * 255).round() / 255


def charbonnier(result: Tensor, target: Tensor) -> Tensor:
    """Return the mean of sqrt(difference^2 + 1e-6), a smooth absolute difference."""
    return (result - target).square().add(1e-6).sqrt().mean()


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    schedule: Schedule,
    output: Path,
) -> nn.Module:
    """Train, and save the averaged weights with every line of progress.

    Beside the checkpoint, `<output>.json` has the figures of every line, and `<output>.resume` what is needed to go on
    after a stop: the same call continues there, and ends with the same weights as without the stop.

    Parameters
    ----------
    model
        The network, built after `seed_all`.
    loss
        Draws a batch of the given size, and returns the network's loss on it.
    evaluate
        Figures of the averaged network, by name; reported only, not used to select.
    schedule
        How long and how fast.
    output
        The checkpoint.

    Returns
    -------
    nn.Module
        The averaged network.
    """
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE)
    )
    optimizer = torch.optim.AdamW(model.parameters(), schedule.rate, weight_decay=1e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, schedule.steps, pct_start=0.05)
    parts = {"model": model, "average": average, "optimizer": optimizer, "rates": rates}
    resume = output.with_name(f"{output.name}.resume")
    first, seconds, lines = _go_on(resume, parts)
    start = time.monotonic() - seconds
    for step in range(first + 1, schedule.steps + 1):
        optimizer.zero_grad()
        value = loss(model, schedule.batch)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        average.update_parameters(model)
        if step % REPORT_EVERY == 0 or step == schedule.steps:
            with torch.no_grad():
                figures = evaluate(average.module)
            seconds = time.monotonic() - start
            shown = ", ".join(f"{name} {figure:.2f}" for name, figure in figures.items())
            print(f"{step:6d}  {seconds:5.0f} s  loss {value.item():.4f}  {shown}", flush=True)
            lines.append({"step": step, "seconds": round(seconds), "loss": value.item(), **figures})
            save_checkpoint(output, average.module)
            text = json.dumps({"schedule": vars(schedule), "parameters": _size(model), "lines": lines}, indent=1)
            output.with_name(f"{output.name}.json").write_text(text + "\n")
            _keep(resume, parts, step, seconds, lines)
    resume.unlink(missing_ok=True)
    trained: nn.Module = average.module
    return trained


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _keep(resume: Path, parts: dict[str, Any], step: int, seconds: float, lines: list[dict[str, Any]]) -> None:
    """Write what is needed to go on, complete or not at all."""
    state = {name: part.state_dict() for name, part in parts.items()}
    drawn = {"python": random.getstate(), "torch": torch.get_rng_state()}
    partial = resume.with_name(f"{resume.name}.partial")
    torch.save({**state, "drawn": drawn, "step": step, "seconds": seconds, "lines": lines}, partial)
    os.replace(partial, resume)


def _go_on(resume: Path, parts: dict[str, Any]) -> tuple[int, float, list[dict[str, Any]]]:
    """Return the steps and seconds done, and their lines of progress."""
    if not resume.exists():
        return 0, 0.0, []
    state = torch.load(resume, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    random.setstate(state["drawn"]["python"])
    torch.set_rng_state(state["drawn"]["torch"])
    print(f"going on after step {state['step']} ({resume})", flush=True)
    return state["step"], state["seconds"], state["lines"]


def psnr(result: Tensor, clean: np.ndarray) -> float:
    """Return the PSNR of a restored image as an image file has it, in dB.

    Parameters
    ----------
    result
        float32[1, 3, H, W] in 0 to 1.
    clean
        uint8[H, W, 3].
    """
    restored = to_bytes(result)[0].permute(1, 2, 0).numpy() * 255.0
    return float(10 * np.log10(255.0**2 / np.mean((restored - clean) ** 2)))
