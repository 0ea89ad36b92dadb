"""Causes that change values and leave every pixel in its place."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .numbers import Finding, Image, psnr

Sums = NDArray[np.float64]

#: Mistakes of range that have a name: (gain, offset) for a value range of 0 to 1, and what they are.
_KNOWN = {
    (255.0, 0.0): "0 to 255 in place of 0 to 1",
    (1 / 255, 0.0): "0 to 1 in place of 0 to 255",
    (2.0, -1.0): "-1 to 1 in place of 0 to 1",
    (0.5, 0.5): "0 to 1 in place of -1 to 1",
    (-1.0, 1.0): "inverted",
}

#: In dB: what gains of each channel must explain beyond one for all; more numbers explain more of anything.
MORE = 6.0

#: Samples that results are rounded to.
_SAMPLES = {8: 255, 16: 65535}


def changes(candidate: Image, reference: Image, value_range: tuple[float, float]) -> Iterator[Finding]:
    """Everything that is possible: channels in another order, gain and offset, clipped, rounded to samples."""
    before = psnr(candidate, reference, value_range)
    sums = _Sums(candidate, reference)
    yield from _channels(candidate, reference, value_range, before, sums)
    yield from _gain(candidate, reference, value_range, before, sums)
    yield from _clipped(candidate, reference, value_range, before)
    yield from _rounded(candidate, reference, value_range, before)


class _Sums:
    """Means and covariances of all channels of both images, from one pass."""

    def __init__(self, candidate: Image, reference: Image) -> None:
        channels = reference.shape[2]
        pixels = math.prod(reference.shape[:2])
        # Around the means: what is left of large values would be rounding.
        self.candidate, self.reference = (
            image.reshape(-1, channels).mean(axis=0, dtype=np.float64) for image in (candidate, reference)
        )
        self.cross, self.own, self.candidates = np.zeros((3, channels, channels))
        for ours, theirs in zip(candidate, reference, strict=True):
            one, other = ours - self.candidate, theirs - self.reference
            self.cross += one.T @ other / pixels
            self.own += other.T @ other / pixels
            self.candidates += one.T @ one / pixels


def _channels(
    candidate: Image, reference: Image, value_range: tuple[float, float], before: float, sums: _Sums
) -> Iterator[Finding]:
    """The reference's channels in another order."""
    apart = (
        np.diag(sums.candidates)[:, None]
        - 2 * sums.cross
        + np.diag(sums.own)[None]
        + (sums.candidate[:, None] - sums.reference[None]) ** 2
    )
    order = [int(nearest) for nearest in apart.argmin(axis=1)]
    if order == list(range(len(order))) or sorted(order) != list(range(len(order))):
        return
    undone = psnr(candidate, reference[:, :, order], value_range)
    listed = ", ".join(map(str, order))
    if order == sorted(order, reverse=True):
        listed = "2, 1, 0 (BGR for RGB)" if len(order) == 3 else "from the last to the first"
    text = f"the channels are swapped: the output's are the reference's {listed}"
    yield Finding("channels", text, {"order": order}, undone, undone - before)


def _gain(
    candidate: Image, reference: Image, value_range: tuple[float, float], before: float, sums: _Sums
) -> Iterator[Finding]:
    """A gain and an offset: the same for all channels, or each channel its own where that explains far more."""
    peak = value_range[1] - value_range[0]
    gains, offsets = _gains(sums)
    undone, gained = _without(candidate, reference, value_range, before, gains, offsets)
    gain, offset = float(gains[0]), float(offsets[0])
    rest = _rest(undone, peak)
    text = f"the output is the reference {_line(gain, offset, rest, peak)}{_known(gain, offset, value_range)}"
    found = Finding("gain", text, {"gain": gain, "offset": offset}, undone, gained)
    if reference.shape[2] > 1:
        gains, offsets = _gains_of_each(sums)
        undone, gained = _without(candidate, reference, value_range, before, gains, offsets)
        if gained > found.gained + MORE:
            rest = _rest(undone, peak)
            lines = [_line(gain, offset, rest, peak) for gain, offset in zip(gains, offsets, strict=True)]
            text = "the output's channels are the reference's " + "; ".join(
                f"{index} {line}" for index, line in enumerate(lines[:4])
            )
            text += f"; and {len(lines) - 4} more" if len(lines) > 4 else ""
            found = Finding("gain", text, {"gain": gains.tolist(), "offset": offsets.tolist()}, undone, gained)
    yield found


def _gains(sums: _Sums) -> tuple[Sums, Sums]:
    """The gain and the offset that explain most, for each channel the same."""
    channels = len(sums.own)
    middle = sums.candidate.mean(), sums.reference.mean()
    together = np.trace(sums.cross) + (sums.candidate - middle[0]) @ (sums.reference - middle[1])
    alone = np.trace(sums.own) + ((sums.reference - middle[1]) ** 2).sum()
    gain = _ratio(np.full(channels, together), np.full(channels, alone))
    return gain, middle[0] - gain * middle[1]


def _gains_of_each(sums: _Sums) -> tuple[Sums, Sums]:
    gain = _ratio(np.diag(sums.cross), np.diag(sums.own))
    return gain, sums.candidate - gain * sums.reference


def _ratio(covariances: Sums, variances: Sums) -> Sums:
    """The gains that fit best; 1 where the reference does not vary."""
    return np.where(variances > 1e-12, covariances / np.maximum(variances, 1e-12), 1.0)


def _without(
    candidate: Image,
    reference: Image,
    value_range: tuple[float, float],
    before: float,
    gains: Sums,
    offsets: Sums,
) -> tuple[float, float]:
    """PSNR with gains and offsets undone, and what that gains."""
    if (np.abs(gains) < 1e-6).any():
        return -math.inf, -math.inf
    factors, summands = gains.astype(np.float32), offsets.astype(np.float32)
    undone = psnr(candidate, reference, value_range, lambda values: (values - summands) / factors)
    # A large gain makes any noise small when it is undone, a small one when it is done: it must explain either way.
    done = psnr(reference, candidate, value_range, lambda values: values * factors + summands)
    return undone, min(undone, done) - before


def _known(gain: float, offset: float, value_range: tuple[float, float]) -> str:
    for (factor, summand), words in _KNOWN.items():
        near = math.isclose(gain, factor, rel_tol=1e-2) and abs(offset - summand) < 1e-2 * abs(factor)
        if near and value_range == (0.0, 1.0):
            return f" ({words})"
    return ""


def _rest(undone: float, peak: float) -> float:
    """The error that is left, rms: a gain or an offset that does less is not worth its words."""
    return peak * max(1e-7, 10 ** (-undone / 20))


def _line(gain: float, offset: float, rest: float, peak: float) -> str:
    words = [f"times {gain:.4g}"] if abs(gain - 1) * peak > rest * max(1, abs(gain)) else []
    if abs(offset) > rest * abs(gain):
        words.append(f"{'plus' if offset > 0 else 'minus'} {abs(offset):.4g}")
    return " ".join(words) or "itself"


def _clipped(candidate: Image, reference: Image, value_range: tuple[float, float], before: float) -> Iterator[Finding]:
    """Cut off where the candidate's values end."""
    low, high = float(candidate.min()), float(candidate.max())
    below, above = float(reference.min()) < low, high < float(reference.max())
    if not below and not above:
        return
    undone = psnr(reference, candidate, value_range, lambda values: np.clip(values, low, high))
    limits = [f"below {low:.4g}"] * below + [f"above {high:.4g}"] * above
    text = f"the output is the reference clipped: nothing is {' or '.join(limits)}"
    yield Finding("clipped", text, {"lowest": low, "highest": high}, undone, undone - before)


def _rounded(candidate: Image, reference: Image, value_range: tuple[float, float], before: float) -> Iterator[Finding]:
    """Rounded, and clipped, to the samples of an image file."""
    low, high = value_range
    for bits, white in _SAMPLES.items():

        def as_samples(values: Image, white: int = white) -> Image:
            samples = np.rint(np.clip((values - low) / (high - low), 0, 1) * white)
            return (samples / white * (high - low) + low).astype(np.float32)

        undone = psnr(reference, candidate, value_range, as_samples)
        yield Finding(
            "rounded", f"the output is the reference rounded to {bits} bits", {"bits": bits}, undone, undone - before
        )
