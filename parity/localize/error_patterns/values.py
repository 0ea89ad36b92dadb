"""Error patterns that change values and leave every pixel in its place."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .pattern import ErrorPattern, Image, psnr

Vector = NDArray[np.float64]

#: Common mistakes of the value range: (gain, offset) for a value range of 0 to 1, and their description.
_KNOWN_RANGES = {
    (255.0, 0.0): "0 to 255 in place of 0 to 1",
    (1 / 255, 0.0): "0 to 1 in place of 0 to 255",
    (2.0, -1.0): "-1 to 1 in place of 0 to 1",
    (0.5, 0.5): "0 to 1 in place of -1 to 1",
    (-1.0, 1.0): "inverted",
}

#: In dB: what separate gains for each channel must gain over a single one. More parameters always explain more.
_PER_CHANNEL_GAIN = 6.0

#: Bits of integer samples, and the sample of white.
_SAMPLES = {8: 255, 16: 65535}


def value_changes(candidate: Image, reference: Image, value_range: tuple[float, float]) -> Iterator[ErrorPattern]:
    """Yield possible changes of values: channels in another order, gain and offset, clipping, rounding to samples.

    Parameters
    ----------
    candidate, reference
        float32[H, W, C], finite.
    value_range
        Values of black and white.
    """
    before = psnr(candidate, reference, value_range)
    moments = _Moments(candidate, reference)
    yield from _channels(candidate, reference, value_range, before, moments)
    yield from _gain(candidate, reference, value_range, before, moments)
    yield from _clipped(candidate, reference, value_range, before)
    yield from _rounded(candidate, reference, value_range, before)


class _Moments:
    """Means and covariances of all channels of both images."""

    def __init__(self, candidate: Image, reference: Image) -> None:
        channels = reference.shape[2]
        pixels = math.prod(reference.shape[:2])
        # Centred first: sums of squares of large values would lose their small differences to rounding.
        self.candidate, self.reference = (
            image.reshape(-1, channels).mean(axis=0, dtype=np.float64) for image in (candidate, reference)
        )
        self.cross, self.variance, self.candidate_variance = np.zeros((3, channels, channels))
        for ours, theirs in zip(candidate, reference, strict=True):
            one, other = ours - self.candidate, theirs - self.reference
            self.cross += one.T @ other / pixels
            self.variance += other.T @ other / pixels
            self.candidate_variance += one.T @ one / pixels


def _channels(
    candidate: Image, reference: Image, value_range: tuple[float, float], before: float, moments: _Moments
) -> Iterator[ErrorPattern]:
    """Yield the permutation of channels that fits best, if it is one."""
    apart = (
        np.diag(moments.candidate_variance)[:, None]
        - 2 * moments.cross
        + np.diag(moments.variance)[None]
        + (moments.candidate[:, None] - moments.reference[None]) ** 2
    )
    order = [int(nearest) for nearest in apart.argmin(axis=1)]
    if order == list(range(len(order))) or sorted(order) != list(range(len(order))):
        return
    undone = psnr(candidate, reference[:, :, order], value_range)
    listed = ", ".join(map(str, order))
    if order == sorted(order, reverse=True):
        listed = "2, 1, 0 (BGR for RGB)" if len(order) == 3 else "from the last to the first"
    text = f"the channels are swapped: the output's are the reference's {listed}"
    yield ErrorPattern("channels", text, {"order": order}, undone, undone - before)


def _gain(
    candidate: Image, reference: Image, value_range: tuple[float, float], before: float, moments: _Moments
) -> Iterator[ErrorPattern]:
    """Yield a gain and an offset: common to all channels, or one for each where that explains far more."""
    peak = value_range[1] - value_range[0]
    gains, offsets = _common_gain(moments)
    undone, gained = _undo_gain(candidate, reference, value_range, before, gains, offsets)
    gain, offset = float(gains[0]), float(offsets[0])
    residual = _residual(undone, peak)
    change = _describe_gain(gain, offset, residual, peak) + _describe_range(gain, offset, value_range)
    text = f"the output is the reference {change}"
    found = ErrorPattern("gain", text, {"gain": gain, "offset": offset}, undone, gained)
    if reference.shape[2] > 1:
        gains, offsets = _channel_gains(moments)
        undone, gained = _undo_gain(candidate, reference, value_range, before, gains, offsets)
        if gained > found.gained + _PER_CHANNEL_GAIN:
            residual = _residual(undone, peak)
            lines = [_describe_gain(gain, offset, residual, peak) for gain, offset in zip(gains, offsets, strict=True)]
            text = "the output's channels are the reference's " + "; ".join(
                f"{index} {line}" for index, line in enumerate(lines[:4])
            )
            text += f"; and {len(lines) - 4} more" if len(lines) > 4 else ""
            found = ErrorPattern("gain", text, {"gain": gains.tolist(), "offset": offsets.tolist()}, undone, gained)
    yield found


def _common_gain(moments: _Moments) -> tuple[Vector, Vector]:
    """Fit one gain and offset for all channels by least squares; return them repeated for each channel."""
    channels = len(moments.variance)
    middle = moments.candidate.mean(), moments.reference.mean()
    together = np.trace(moments.cross) + (moments.candidate - middle[0]) @ (moments.reference - middle[1])
    alone = np.trace(moments.variance) + ((moments.reference - middle[1]) ** 2).sum()
    gain = _ratio(np.full(channels, together), np.full(channels, alone))
    return gain, middle[0] - gain * middle[1]


def _channel_gains(moments: _Moments) -> tuple[Vector, Vector]:
    """Fit a gain and an offset for each channel by least squares."""
    gain = _ratio(np.diag(moments.cross), np.diag(moments.variance))
    return gain, moments.candidate - gain * moments.reference


def _ratio(covariances: Vector, variances: Vector) -> Vector:
    """Return the least-squares gains; 1 where the reference is constant."""
    return np.where(variances > 1e-12, covariances / np.maximum(variances, 1e-12), 1.0)


def _undo_gain(
    candidate: Image,
    reference: Image,
    value_range: tuple[float, float],
    before: float,
    gains: Vector,
    offsets: Vector,
) -> tuple[float, float]:
    """Return the PSNR with gains and offsets undone, and how much it gains."""
    if (np.abs(gains) < 1e-6).any():
        return -math.inf, -math.inf
    factors, summands = gains.astype(np.float32), offsets.astype(np.float32)
    undone = psnr(candidate, reference, value_range, lambda values: (values - summands) / factors)
    # Undoing a large gain shrinks any noise, and so does applying a small one: the fit must hold in both directions.
    done = psnr(reference, candidate, value_range, lambda values: values * factors + summands)
    return undone, min(undone, done) - before


def _describe_range(gain: float, offset: float, value_range: tuple[float, float]) -> str:
    """Name a common mistake of the value range; empty where it is none."""
    for (factor, summand), words in _KNOWN_RANGES.items():
        near = math.isclose(gain, factor, rel_tol=1e-2) and abs(offset - summand) < 1e-2 * abs(factor)
        if near and value_range == (0.0, 1.0):
            return f" ({words})"
    return ""


def _residual(undone: float, peak: float) -> float:
    """Return the RMS error that is left; a gain or an offset with a smaller effect is not mentioned."""
    return peak * max(1e-7, 10 ** (-undone / 20))


def _describe_gain(gain: float, offset: float, residual: float, peak: float) -> str:
    """Describe a gain and an offset: ``"times 1.02 plus 0.1"``."""
    words = [f"times {gain:.4g}"] if abs(gain - 1) * peak > residual * max(1, abs(gain)) else []
    if abs(offset) > residual * abs(gain):
        words.append(f"{'plus' if offset > 0 else 'minus'} {abs(offset):.4g}")
    return " ".join(words) or "itself"


def _clipped(
    candidate: Image, reference: Image, value_range: tuple[float, float], before: float
) -> Iterator[ErrorPattern]:
    """Yield the reference clipped to the candidate's range of values."""
    low, high = float(candidate.min()), float(candidate.max())
    below, above = float(reference.min()) < low, high < float(reference.max())
    if not below and not above:
        return
    undone = psnr(reference, candidate, value_range, lambda values: np.clip(values, low, high))
    limits = [f"below {low:.4g}"] * below + [f"above {high:.4g}"] * above
    text = f"the output is the reference clipped: no value is {' or '.join(limits)}"
    yield ErrorPattern("clipped", text, {"lowest": low, "highest": high}, undone, undone - before)


def _rounded(
    candidate: Image, reference: Image, value_range: tuple[float, float], before: float
) -> Iterator[ErrorPattern]:
    """Yield the reference clipped and rounded to the integer samples of an image file."""
    low, high = value_range
    for bits, white in _SAMPLES.items():

        def as_samples(values: Image, white: int = white) -> Image:
            samples = np.rint(np.clip((values - low) / (high - low), 0, 1) * white)
            rounded: Image = (samples / white * (high - low) + low).astype(np.float32)
            return rounded

        undone = psnr(reference, candidate, value_range, as_samples)
        yield ErrorPattern(
            "rounded", f"the output is the reference rounded to {bits} bits", {"bits": bits}, undone, undone - before
        )
