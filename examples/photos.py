"""The photographs of scikit-image and scikit-learn, divided into those for the demo's training and a held-out one."""

from __future__ import annotations

import numpy as np
import skimage.data
import sklearn.datasets

#: The held-out photograph, which the demo restores.
UNSEEN = "chelsea"


def unseen_photo() -> np.ndarray:
    """Return the held-out photograph, uint8[300, 451, 3]."""
    photo: np.ndarray = skimage.data.chelsea()
    return photo


def training_photos() -> dict[str, np.ndarray]:
    """Return name -> photograph, uint8[H, W, 3]."""
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
    """Add white Gaussian noise, then round and clip as in an image file.

    Parameters
    ----------
    image
        uint8[H, W, C].
    sigma
        Standard deviation, on the scale of 0 to 255.
    seed
        Seed of the noise.

    Returns
    -------
    uint8[H, W, C]
    """
    noise = np.random.default_rng(seed).normal(0.0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
