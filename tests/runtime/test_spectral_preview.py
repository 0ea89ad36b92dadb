"""Colours of spectra, and the contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.runtime.io import colorimetry, images, spectral_preview
from keygraph.runtime.io.cubes import Cube

Array = np.ndarray[Any, Any]

MST_PLUS_PLUS = tuple(float(value) for value in range(400, 701, 10))
#: The bands of MST's data sets: unevenly spaced, starting above the peak of z.
MST = (
    *(453.3, 457.6, 462.1, 466.8, 471.6, 476.5, 481.6, 486.9, 492.4, 498.0, 503.9, 509.9, 516.2, 522.7),
    *(529.5, 536.5, 543.8, 551.4, 558.6, 567.5, 575.3, 584.3, 594.4, 604.2, 614.4, 625.1, 636.3, 648.1),
)


@pytest.mark.parametrize(
    ("wavelength", "tabulated"),
    [
        (450, (0.3362, 0.0380, 1.7721)),
        (500, (0.0049, 0.3230, 0.2720)),
        (550, (0.4334, 0.9950, 0.0087)),
        (600, (1.0622, 0.6310, 0.0008)),
        (650, (0.2835, 0.1070, 0.0)),
    ],
)
def test_matching_functions_are_the_cies(wavelength: float, tabulated: tuple[float, ...]) -> None:
    """Against the CIE's table; the authors of the fit report errors of about 1 % of the peaks."""
    fitted = colorimetry.matching_functions(np.array([float(wavelength)]))[0]
    np.testing.assert_allclose(fitted, tabulated, atol=0.02)


def test_d65_has_its_chromaticity() -> None:
    grid = np.arange(380.0, 781, 5)
    white = (colorimetry.matching_functions(grid) * colorimetry._d65(grid)[:, None]).sum(axis=0)
    np.testing.assert_allclose(white[:2] / white.sum(), (0.3127, 0.3290), atol=2e-3)


@pytest.mark.parametrize("wavelengths", [MST_PLUS_PLUS, MST, MST[::-1]], ids=["mst++", "mst", "reversed"])
def test_known_colours(wavelengths: tuple[float, ...]) -> None:
    weights = colorimetry.rgb_weights(wavelengths)
    assert weights is not None
    np.testing.assert_allclose(np.ones(len(wavelengths)) @ weights, 1, atol=1e-12)
    for centre, strongest in ((460, 2), (540, 1), (620, 0)):
        narrow = np.exp(-0.5 * ((np.array(wavelengths) - centre) / 8) ** 2)
        colour = colorimetry.encode(narrow @ weights / (narrow @ weights).max())
        assert colour[strongest] == 255, centre
        assert max(np.delete(colour, strongest)) < 130, (centre, colour)


def test_bands_that_are_not_seen_have_no_colours() -> None:
    assert colorimetry.rgb_weights(tuple(np.arange(900.0, 1700, 10))) is None
    assert colorimetry.rgb_weights(tuple(np.arange(600.0, 701, 10))) is None  # no blue
    assert colorimetry.rgb_weights((450.0, 620.0)) is None
    assert colorimetry.rgb_weights((450.0, 540.0, 540.0, 620.0)) is None
    # Bands outside the visible range change nothing.
    seen = colorimetry.rgb_weights(tuple(np.arange(380.0, 791, 10)))
    more = colorimetry.rgb_weights(tuple(np.arange(300.0, 1001, 10)))
    assert seen is not None
    assert more is not None
    np.testing.assert_allclose(more[8:50], seen, atol=1e-12)
    np.testing.assert_array_equal(more[50:], 0)


def test_the_transfer_curve() -> None:
    assert colorimetry.encode(np.array([-1.0, 0.0, 0.002, 0.2140, 1.0, 2.0])).tolist() == [0, 0, 7, 127, 255, 255]


def scene(height: int, width: int) -> Array:
    """Blue, green and red stripes beside a flat gray one, each a quarter of the width."""
    bands = np.array(MST_PLUS_PLUS)
    spectra = [np.exp(-0.5 * ((bands - centre) / 12) ** 2) for centre in (450, 540, 620)] + [np.full(31, 0.5)]
    columns = np.repeat(np.array(spectra), width // 4, axis=0)
    return np.broadcast_to(columns, (height, *columns.shape)).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (482, 512), (4, 8), (300, 40)])
def test_the_sheet(height: int, width: int) -> None:
    sheet, notices = spectral_preview.draw(Cube(scene(height, width), MST_PLUS_PLUS))
    grid = spectral_preview.layout(height, width, 31, True)
    assert notices == []
    assert sheet.shape == (*grid.size, 3)
    assert sheet.dtype == np.uint8
    assert max(grid.band) == spectral_preview.BAND_SIDE
    assert grid.rows * grid.columns >= 35
    gap = spectral_preview.GAP
    rendering = sheet[gap : gap + grid.large[0], gap : gap + grid.large[1]].astype(int)
    middle = grid.large[0] // 2
    blue, green, red, flat = (rendering[middle, (2 * i + 1) * grid.large[1] // 8] for i in range(4))
    assert blue.argmax() == 2
    assert green.argmax() == 1
    assert red.argmax() == 0
    assert flat.max() - flat.min() <= 1
    places = grid.places()
    assert len(places) >= 31
    # A narrow stripe is bright in its band only; the flat one is equal in all bands, on one scale.
    values = [
        sheet[top + grid.band[0] // 2, [left + (2 * i + 1) * grid.band[1] // 8 for i in range(4)], 0]
        for top, left in places[:31]
    ]
    for stripe, wavelength in enumerate((450.0, 540.0, 620.0)):
        assert int(np.argmax([value[stripe] for value in values])) == MST_PLUS_PLUS.index(wavelength)
    assert len({int(value[3]) for value in values}) == 1
    # Something is written below each band, and nothing over the bands.
    for top, left in places[:31]:
        label = sheet[top + grid.band[0] : top + grid.band[0] + spectral_preview.LINE, left : left + grid.band[1]]
        assert label.max() > 150
        assert label.min() == spectral_preview._BACKGROUND
    top, left = places[-1] if len(places) > 31 else (0, 0)
    assert (sheet[:gap] == spectral_preview._BACKGROUND).all()


def test_labels_say_the_wavelengths() -> None:
    """The same cube with other wavelengths differs in the labels of the bands, and only there."""
    pixels = scene(64, 64)
    first, _ = spectral_preview.draw(Cube(pixels))
    again, _ = spectral_preview.draw(Cube(pixels, tuple(np.linspace(900, 1700, 31))))
    grid = spectral_preview.layout(64, 64, 31, False)
    for top, left in grid.places()[:31]:
        bottom = top + grid.band[0]
        np.testing.assert_array_equal(first[top:bottom, left : left + 64], again[top:bottom, left : left + 64])
        line = slice(bottom, bottom + spectral_preview.LINE), slice(left, left + grid.band[1])
        assert (first[line] != again[line]).any()


@pytest.mark.parametrize(
    ("wavelengths", "reason"), [((), "wavelengths are unknown"), (tuple(np.linspace(900, 1700, 31)), "too little")]
)
def test_without_colours(wavelengths: tuple[float, ...], reason: str) -> None:
    sheet, (notice,) = spectral_preview.draw(Cube(scene(64, 64), wavelengths))
    assert reason in notice
    assert sheet.shape == (*spectral_preview.layout(64, 64, 31, False).size, 3)
    assert (sheet[..., 0] == sheet[..., 1]).all()
    assert (sheet[..., 0] == sheet[..., 2]).all()


@pytest.mark.parametrize("pixels", [np.zeros((8, 9, 4)), -np.ones((8, 9, 4)), np.full((8, 9), 7, np.uint16)])
def test_cubes_with_nothing_to_see(pixels: Array) -> None:
    sheet, _ = spectral_preview.draw(Cube(pixels))
    grid = spectral_preview.layout(8, 9, 4 if pixels.ndim == 3 else 1, False)
    top, left = grid.places()[0]
    assert (sheet[top : top + grid.band[0], left : left + grid.band[1]] == (0 if pixels.ndim == 3 else 255)).all()


def test_a_few_highlights_leave_the_rest_visible() -> None:
    pixels = np.full((200, 200, 3), 0.5, np.float32)
    pixels[0, 0] = 1000
    sheet, _ = spectral_preview.draw(Cube(pixels))
    top, left = spectral_preview.layout(200, 200, 3, False).places()[0]
    assert sheet[top + 100, left + 100, 0] == 255


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_files(tmp_path: Path, suffix: str) -> None:
    cube = Cube(scene(24, 32), MST_PLUS_PLUS)
    spectral_preview.check_target(tmp_path / f"a{suffix}", 24, 32, 31)
    assert spectral_preview.write(tmp_path / f"a{suffix}", cube) == []
    drawn, _ = spectral_preview.draw(cube)
    read = images.read(tmp_path / f"a{suffix}").pixels
    assert read.shape == drawn.shape
    if suffix != ".jpg":
        np.testing.assert_array_equal(read, drawn)


def test_targets_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no image format"):
        spectral_preview.check_target(tmp_path / "a.mat", 24, 32, 31)
    with pytest.raises(InputError, match="does not exist"):
        spectral_preview.check_target(tmp_path / "absent" / "a.png", 24, 32, 31)
