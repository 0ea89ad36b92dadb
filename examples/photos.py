"""The photographs that scikit-image and scikit-learn bring along, split into seen and unseen by the demo's training."""

from __future__ import annotations

import numpy as np
import skimage.data
import sklearn.datasets

#: Never used in training: the demo restores it.
UNSEEN = "chelsea"


def unseen_photo() -> np.ndarray:
    """The held-out photograph, uint8 [300, 451, 3]."""
    return skimage.data.chelsea()


def training_photos() -> dict[str, np.ndarray]:
    """Name -> uint8 [H, W, 3]."""
    left, right, _ = skimage.data.stereo_motorcycle()
    return {
        "astronaut": skimage.data.astronaut(),
        "coffee": skimage.data.coffee(),
        "rocket": skimage.data.rocket(),
        "motorcycle left": left,
        "motorcycle right": right,
        "china": sklearn.datasets.load_sample_image("china.jpg"),
        "flower": sklearn.datasets.load_sample_image("flower.jpg"),
    }


def add_noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """White Gaussian noise of standard deviation `sigma` (0 to 255 scale), rounded and clipped as a file has it."""
    noise = np.random.default_rng(seed).normal(0.0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
