"""Pictures of a compared image: the outputs of all sides, the inputs, the clean image, and the differences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....manifest import Manifest
from ....runtime.io import colorimetry
from ....runtime.io.spectral_preview import white_of
from ....runtime.preprocess.normalization import from_model, white_level
from ...results import ComparedImage
from .encoding import largest_difference, logarithmic

Pixels = NDArray[np.uint8]

#: Most pixels of one picture. Of a larger image, the part around its largest difference is shown.
PICTURE_PIXELS = 1 << 23

#: Most pixels of all pictures of a page: at most about 200 MB for noise.
PAGE_PIXELS = 1 << 26

#: Pictures that a page shows first.
OPENING = ("candidate-0", "reference", "difference-0")


@dataclass(frozen=True)
class Part:
    """The part of the output that is shown, in output pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: NDArray[Any]) -> NDArray[Any]:
        """Crop an image of the output's size."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Shown:
    """A compared image as the page shows it.

    Attributes
    ----------
    image
        The image.
    manifest
        The reference's.
    part
        The part that is shown.
    """

    image: ComparedImage
    manifest: Manifest
    part: Part

    @property
    def whole(self) -> bool:
        """Whether the whole image is shown."""
        return self.image.reference.shape[:2] == (self.part.height, self.part.width)

    @property
    def keys(self) -> list[str]:
        """Keys of its pictures, in the order of the reader's menu."""
        numbers = range(len(self.image.candidates))
        keys = [*(f"candidate-{i}" for i in numbers), "reference", "input"]
        keys += [f"beside-{name}" for name in self.image.beside]
        keys += ["clean"] if self.image.clean is not None else []
        return keys + [f"difference-{i}" for i in numbers]

    def size(self, key: str) -> tuple[int, int]:
        """Return height and width of a picture, in its own pixels."""
        if key != "input" and not key.startswith("beside-"):
            return self.part.height, self.part.width
        height, width = self._given(key).shape[:2]
        return height, width

    def scale(self, key: str) -> int:
        """Return the number of output pixels per pixel of the picture, along each axis."""
        return self.manifest.scale if key == "input" or key.startswith("beside-") else 1

    def picture(self, key: str) -> Pixels:
        """Render a picture, uint8[H, W] or [H, W, 3]; for a difference, the codes of `logarithmic`."""
        kind, _, rest = key.partition("-")
        if kind in ("input", "beside"):
            return _of_input(self._given(key), self.manifest)
        if kind == "difference":
            low, high = self.manifest.value_range
            return logarithmic(self.difference(int(rest)), high - low)
        values = {"reference": self.image.reference, "clean": self.image.clean}
        image = self.image.candidates[int(rest)] if kind == "candidate" else values[kind]
        assert image is not None
        return self._of_result(self.part.of(image))

    def difference(self, candidate: int) -> NDArray[np.float32]:
        """Return the largest absolute difference over all channels, [H, W], in units of the value range."""
        return largest_difference(self.part.of(self.image.candidates[candidate]), self.part.of(self.image.reference))

    def _given(self, key: str) -> NDArray[Any]:
        """Return a model input cropped to the part that is shown; a margin beyond the output stays."""
        values = self.image.input if key == "input" else self.image.beside[key.removeprefix("beside-")]
        if self.whole:
            return values
        scale, part = self.manifest.scale, self.part
        rows = slice(part.top // scale, math.ceil((part.top + part.height) / scale))
        return values[rows, part.left // scale : math.ceil((part.left + part.width) / scale)]

    def _of_result(self, values: NDArray[np.float32]) -> Pixels:
        finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        if values.shape[2] in (1, 3):
            return _plain(from_model(finite, self.manifest, np.dtype(np.uint8)))
        return _rendered(finite, self.manifest.wavelengths, self._white)

    @property
    def _white(self) -> float:
        """White level of a rendered cube, common to all sides so that they can be compared."""
        reference = np.nan_to_num(self.part.of(self.image.reference), nan=0.0, posinf=0.0, neginf=0.0)
        return white_of(_linear(reference, self.manifest.wavelengths))


def choose(images: tuple[ComparedImage, ...], manifest: Manifest, order: list[int]) -> list[Shown | None]:
    """Choose what a page shows of each image, within the limits of its size.

    Parameters
    ----------
    images
        The compared images.
    manifest
        The reference's.
    order
        Indices of the images, the most important first; images beyond `PAGE_PIXELS` are not shown.
    """
    shown: list[Shown | None] = [None] * len(images)
    left = PAGE_PIXELS
    for number, index in enumerate(order):
        image = images[index]
        whole = Shown(image, manifest, Part(0, 0, *image.reference.shape[:2]))
        pictures = len(whole.keys)
        part = _part(whole, min(PICTURE_PIXELS, PAGE_PIXELS // pictures))
        cost = part.height * part.width * pictures
        if number == 0 or cost <= left:
            shown[index] = Shown(image, manifest, part)
            left -= cost
    return shown


def pictures(shown: list[Shown | None], first: int) -> Iterator[tuple[str, Pixels]]:
    """Yield (name, picture) of all pictures of a page, one at a time to save memory.

    The `OPENING` pictures of the image `first`, which the page shows first, come before all others.
    """
    order = [(first, key) for key in OPENING] if shown[first] is not None else []
    for index, one in enumerate(shown):
        order += [(index, key) for key in (one.keys if one is not None else ()) if (index, key) not in order]
    for index, key in order:
        image = shown[index]
        assert image is not None
        yield picture_name(index, key), image.picture(key)


def picture_name(image: int, key: str) -> str:
    """Return the id of a picture in the page."""
    return f"picture-{image}-{key}"


def _part(whole: Shown, pixels: int) -> Part:
    """Choose the whole image, or the part around the largest difference of all candidates."""
    height, width = whole.part.height, whole.part.width
    if height * width <= pixels:
        return whole.part
    side = math.isqrt(pixels)
    rows = min(height, max(side, pixels // width))
    columns = min(width, pixels // rows)
    worst, place = -1.0, 0
    for candidate in range(len(whole.image.candidates)):
        difference = np.nan_to_num(whole.difference(candidate), nan=np.inf)
        if difference.max() > worst:
            worst, place = float(difference.max()), int(difference.argmax())
    scale = whole.manifest.scale  # So that no input pixel is cut.
    y, x = divmod(place, width)
    top = min(max(0, y - rows // 2), height - rows) // scale * scale
    left = min(max(0, x - columns // 2), width - columns) // scale * scale
    return Part(top, left, rows, columns)


def _of_input(values: NDArray[Any], manifest: Manifest) -> Pixels:
    """Render a model input: white is that of its type where that is defined, else its own maximum."""
    planes = values if values.ndim == 3 else values[:, :, None]
    kind = planes.dtype.kind
    if manifest.normalisation == "type" and kind in "uf" and planes.shape[2] in (1, 3):
        low, high = 0.0, white_level(planes.dtype)
    else:
        planes = planes if planes.shape[2] in (1, 3) else planes.mean(axis=2, keepdims=True, dtype=np.float32)
        low, high = float(planes.min()), float(planes.max())
    scaled = (planes.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low or 1.0))
    return _plain(np.rint(np.clip(scaled, 0, 255)).astype(np.uint8))


def _plain(pixels: Pixels) -> Pixels:
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def _linear(values: NDArray[np.float32], wavelengths: tuple[float, ...]) -> NDArray[np.float32]:
    """Render a cube in linear light under D65; as the mean of its bands where their wavelengths are unknown."""
    weights = colorimetry.rgb_weights(wavelengths) if len(wavelengths) == values.shape[2] else None
    if weights is None:
        mean: NDArray[np.float32] = values.mean(axis=2, keepdims=True)
        return mean
    linear: NDArray[np.float32] = values @ weights.astype(np.float32)
    return linear


def _rendered(values: NDArray[np.float32], wavelengths: tuple[float, ...], white: float) -> Pixels:
    return _plain(colorimetry.encode(_linear(values, wavelengths) / np.float32(white)))
