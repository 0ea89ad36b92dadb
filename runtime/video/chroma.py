"""Chroma resampling: pairs of filters of which the second inverts the first, so that nothing is lost on the way.

Chroma of 4:2:0 and 4:2:2 video has half the samples of luma along an axis. To the model it is interpolated, and of its
result it is decimated. With the usual filters (bicubic both ways, as in libswscale) a video that the model does not
change would change; with the pairs here, ``decimate(interpolate(c)) == c`` for any c:

- cosited samples (chroma sample i lies on luma sample 2i): the 5/3 filters of Le Gall and Tabatabai (1988), by lifting:
  linear interpolation, and the low-pass filter [-1, 2, 6, 2, -1] / 8;
- centred samples (between luma samples 2i and 2i + 1): the 2/6 filters, quadratic interpolation that keeps the mean of
  each pair, and the mean of each pair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def interpolate(chroma: Float32, axis: int, size: int, *, cosited: bool) -> Float32:
    """Return chroma at every luma sample of an axis.

    Parameters
    ----------
    chroma
        float32[h, w]; ceil(size / 2) samples along `axis`.
    axis
        0 for rows, 1 for columns.
    size
        Luma samples along the axis.
    cosited
        Where chroma samples lie; see above.
    """
    samples = np.swapaxes(chroma, 0, axis)
    after = np.concatenate([samples[1:], samples[-1:]])
    result = np.empty((2 * len(samples), samples.shape[1]), np.float32)
    if cosited:
        result[0::2] = samples
        np.add(samples, after, out=result[1::2])
        result[1::2] *= np.float32(0.5)
    else:
        change = after - np.concatenate([samples[:1], samples[:-1]])
        change *= np.float32(0.125)
        if size % 2:
            change[-1] = 0
        np.subtract(samples, change, out=result[0::2])
        np.add(samples, change, out=result[1::2])
    return np.swapaxes(result[:size], 0, axis)


def decimate(chroma: Float32, axis: int, *, cosited: bool) -> Float32:
    """Return every second chroma sample of an axis, low-pass filtered.

    Parameters
    ----------
    chroma
        float32[H, W] at every luma sample.
    axis
        0 for rows, 1 for columns.
    cosited
        Where the samples of the result lie; see above.
    """
    samples = np.swapaxes(chroma, 0, axis)
    even, odd = samples[0::2], samples[1::2]
    if len(odd) < len(even):
        odd = np.concatenate([odd, even[-1:]])
    if not cosited:
        return np.swapaxes((even + odd) * np.float32(0.5), 0, axis)
    detail = odd - (even + np.concatenate([even[1:], even[-1:]])) * np.float32(0.5)
    smooth = detail + np.concatenate([detail[:1], detail[:-1]])
    return np.swapaxes(even + smooth * np.float32(0.25), 0, axis)
