"""Structural similarity of two images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Side of the Gaussian window and its standard deviation, in pixels; the constants K1 and K2 (Wang et al. 2004).
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03

#: Rows of windows that are taken at once.
_ROWS = 256


def structural_similarity(a: NDArray[np.float32], b: NDArray[np.float32], value_range: tuple[float, float]) -> float:
    """Mean structural similarity (SSIM) over all places of the window and all channels.

    SSIM(x, y) = (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)), with means, variances
    and covariance under a Gaussian window, C = (K * range)^2.

    Parameters
    ----------
    a, b
        float32[H, W, C], finite.
    value_range
        Of their values.

    Returns
    -------
    1 for equal images; NaN for images smaller than the window.

    References
    ----------
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli: Image Quality Assessment: From Error Visibility to Structural
    Similarity. IEEE Transactions on Image Processing 13(4), 2004. The 11 x 11 window with sigma 1.5 is theirs; windows
    lie inside of the image, as in their own program.
    """
    height, width, channels = a.shape
    if min(height, width) < WINDOW:
        return math.nan
    peak = value_range[1] - value_range[0]
    total = 0.0
    for channel in range(channels):
        for top in range(0, height - WINDOW + 1, _ROWS):
            rows = slice(top, min(top + _ROWS + WINDOW - 1, height))
            total += _similarities(a[rows, :, channel].astype(np.float64), b[rows, :, channel].astype(np.float64), peak)
    return total / (channels * (height - WINDOW + 1) * (width - WINDOW + 1))


def _similarities(x: NDArray[np.float64], y: NDArray[np.float64], peak: float) -> float:
    """The sum over all places of the window."""
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.sum())


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means under the window, wherever it lies inside; one axis after the other."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    height, width = (length - WINDOW + 1 for length in values.shape)
    down = sum(weight * values[i : i + height] for i, weight in enumerate(weights))
    across: NDArray[np.float64] = sum(weight * down[:, i : i + width] for i, weight in enumerate(weights))
    return across
