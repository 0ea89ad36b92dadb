"""Draw a preview of a spectral cube: a contact sheet of all bands, and an sRGB rendering."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from ... import forks
from . import colorimetry, images
from .cubes import Cube
from .cubes.contents import library

#: Longest side of a band in the sheet, in pixels; smaller cubes are enlarged.
BAND_SIDE = 192

#: Gap between bands, height of a line of text, and font size, in pixels.
GAP = 8
LINE = 22
FONT_SIZE = 15

#: Preferred ratio of width to height of a sheet.
_ASPECT = 1.5

#: White is this quantile of all samples, so that a few highlights do not make the rest dark.
_WHITE_SHARE = 0.995

_BACKGROUND, _INK = 24, 224


@dataclass(frozen=True)
class Layout:
    """Layout of a sheet, in pixels.

    The rendering takes 2 x 2 cells at the top left; bands fill the other cells row by row.

    Attributes
    ----------
    band
        Height and width of a band.
    columns, rows
        Number of cells across and down.
    rendering
        True when there is an sRGB rendering.
    """

    band: tuple[int, int]
    columns: int
    rows: int
    rendering: bool

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a cell with its label and the gap."""
        return self.band[0] + LINE + GAP, self.band[1] + GAP

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the sheet, with a line of text below the cells."""
        return GAP + self.rows * self.cell[0] + LINE, GAP + self.columns * self.cell[1]

    @property
    def large(self) -> tuple[int, int]:
        """Height and width of the rendering."""
        return self.cell[0] + self.band[0], self.cell[1] + self.band[1]

    def places(self) -> list[tuple[int, int]]:
        """Return top and left of the cells for bands, in order."""
        cells = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        return [
            (GAP + row * self.cell[0], GAP + column * self.cell[1])
            for row, column in cells
            if not self.rendering or row > 1 or column > 1
        ]


def layout(height: int, width: int, bands: int, rendering: bool) -> Layout:
    """Choose the layout of a sheet: about 3 to 2, with few empty cells.

    Parameters
    ----------
    height, width, bands
        Size of the cube.
    rendering
        True when there is an sRGB rendering.
    """
    scale = BAND_SIDE / max(height, width)
    band = (max(1, round(height * scale)), max(1, round(width * scale)))
    needed = bands + (4 if rendering else 0)
    least = 2 if rendering else 1
    best, least_cost = None, math.inf
    for columns in range(least, needed + 1):
        grid = Layout(band, columns, max(least, -(-needed // columns)), rendering)
        cost = abs(math.log(grid.size[1] / grid.size[0] / _ASPECT)) + 2 * (1 - needed / (grid.rows * columns))
        if cost < least_cost:
            best, least_cost = grid, cost
    assert best is not None
    return best


def check_target(path: str | os.PathLike[str], height: int, width: int, bands: int) -> None:
    """Check that the preview of a cube can be drawn and written, before any work.

    Parameters
    ----------
    path
        The picture to write.
    height, width, bands
        Size of the cube.

    Raises
    ------
    InputError
        The picture cannot be written there.
    MissingDependencyError
        Pillow is not installed.
    """
    library("PIL.ImageFont", path)
    images.check_target(path, *layout(height, width, bands, True).size, 3)


def write(path: str | os.PathLike[str], cube: Cube) -> list[str]:
    """Draw the preview of a cube into a picture file.

    Returns
    -------
    list[str]
        A line for everything that could not be drawn.

    Raises
    ------
    InputError
        As `check_target`.
    """
    sheet, notices = draw(cube)
    return [*notices, *images.write(path, images.Picture(sheet))]


def draw(cube: Cube) -> tuple[NDArray[np.uint8], list[str]]:
    """Draw the preview of a cube.

    Bands are gray on one common scale, from 0 to white. The rendering treats samples as reflectances under D65
    (`colorimetry.rgb_weights`), clipped to sRGB's gamut, on a scale of its own. Both are encoded as sRGB. Needs memory
    for two more bands.

    Parameters
    ----------
    cube
        The cube, with or without wavelengths.

    Returns
    -------
    sheet, notices
        uint8[H', W', 3], and a line for everything that could not be drawn.
    """
    pixels = cube.pixels if cube.pixels.ndim == 3 else cube.pixels[:, :, None]
    height, width, bands = pixels.shape
    weights = colorimetry.rgb_weights(cube.wavelengths) if cube.wavelengths else None
    grid = layout(height, width, bands, weights is not None)
    small = np.empty((bands, *grid.band), dtype=np.float32)
    colours = np.zeros((*grid.large, 3))
    for band in range(bands):
        plane = np.ascontiguousarray(pixels[:, :, band], dtype=np.float32)
        small[band] = _resized(plane, *grid.band)
        if weights is not None:
            colours += _resized(plane, *grid.large)[:, :, None] * weights[band]
    white = white_of(small)
    sheet = np.full((*grid.size, 3), _BACKGROUND, dtype=np.uint8)
    places = grid.places()
    labels = []
    for band in range(bands):
        top, left = places[band]
        _paste(sheet, colorimetry.encode(small[band] / white)[:, :, None], top, left)
        name = f"{cube.wavelengths[band]:.4g} nm" if cube.wavelengths else f"band {band + 1}"
        labels.append((name, top + grid.band[0], left))
    notices = []
    if weights is not None:
        _paste(sheet, colorimetry.encode(colours / white_of(colours)), GAP, GAP)
        labels.append(("sRGB, reflectances under D65", GAP + grid.large[0], GAP))
    else:
        reason = "the bands cover too little of the visible" if cube.wavelengths else "wavelengths are unknown"
        notices.append(f"no colours in the preview: {reason}")
    labels.append((f"{height} x {width} x {bands}, white is {white:.4g}", grid.size[0] - LINE - GAP // 2, GAP))
    return _labelled(sheet, labels), notices


def white_of(values: NDArray[Any]) -> float:
    """Return the value to draw as white, below which nearly all samples are; never 0."""
    white = float(np.quantile(values, _WHITE_SHARE))
    return white if white > 0 else max(float(values.max()), 0.0) or 1.0


def _resized(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize by averaging areas or repeating samples, which does not overshoot the plane's range."""
    forks.require_vips()
    image = pyvips.Image.new_from_memory(plane.data, plane.shape[1], plane.shape[0], 1, "float")
    kernel = "linear" if height <= plane.shape[0] else "nearest"
    resized = image.resize(width / plane.shape[1], vscale=height / plane.shape[0], kernel=kernel)
    # The size may be off by a pixel after rounding.
    resized = resized.embed(0, 0, width, height, extend="copy")
    values: NDArray[np.float32] = resized.numpy()
    return values


def _paste(sheet: NDArray[np.uint8], tile: NDArray[np.uint8], top: int, left: int) -> None:
    sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile


def _labelled(sheet: NDArray[np.uint8], labels: list[tuple[str, int, int]]) -> NDArray[np.uint8]:
    """Write labels at the given places, in Pillow's own font (libvips has none)."""
    image = library("PIL.Image", "a preview").fromarray(sheet)
    pen = library("PIL.ImageDraw", "a preview").Draw(image)
    font = library("PIL.ImageFont", "a preview").load_default(FONT_SIZE)
    for text, top, left in labels:
        pen.text((left, top + LINE // 2), text, fill=(_INK, _INK, _INK), font=font, anchor="lm")
    return np.asarray(image)
