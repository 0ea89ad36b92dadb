"""Structural similarity (SSIM) of two images, in strips so that memory stays bounded."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Standard deviation of the Gaussian window in pixels, and the window's side: scikit-image truncates at 3.5 sigma.
SIGMA, WINDOW = 1.5, 11

#: Rows of window centres that are processed at once.
_ROWS = 128


def structural_similarity(a: NDArray[np.float32], b: NDArray[np.float32], value_range: tuple[float, float]) -> float:
    """Return the mean structural similarity (SSIM) over all window positions and channels.

    SSIM(x, y) = (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)), with means, variances
    and covariance under an 11 x 11 Gaussian window with sigma 1.5, C1 = (0.01 L)^2 and C2 = (0.03 L)^2, where L is the
    length of the value range [1]_. Only windows that lie inside the image count, as in the authors' implementation.

    Parameters
    ----------
    a, b
        float32[H, W, C], finite.
    value_range
        Values of black and white.

    Returns
    -------
    1 for equal images; NaN for images smaller than the window.

    References
    ----------
    .. [1] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli: Image Quality Assessment: From Error Visibility to
       Structural Similarity. IEEE Transactions on Image Processing 13(4), 2004.
    """
    # Imported late: it takes half a second, and Polygraphy imports this package at every start.
    from skimage import metrics

    height, width, channels = a.shape
    if min(height, width) < WINDOW:
        return math.nan
    weighted_sum = 0.0
    for channel in range(channels):
        for top in range(0, height - WINDOW + 1, _ROWS):
            bottom = min(top + _ROWS + WINDOW - 1, height)
            strips = (np.asarray(image[top:bottom, :, channel], np.float64) for image in (a, b))
            mean: float = metrics.structural_similarity(
                *strips,
                data_range=value_range[1] - value_range[0],
                gaussian_weights=True,
                sigma=SIGMA,
                use_sample_covariance=False,
            )
            weighted_sum += mean * (bottom - top - WINDOW + 1)
    return float(weighted_sum / (channels * (height - WINDOW + 1)))
