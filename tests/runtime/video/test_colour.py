from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from keygraph.runtime.video.chroma import interpolate
from keygraph.runtime.video.colour import LOCATIONS, MATRICES, Coding, PixelFormat, assumed_matrix, from_rgb, to_rgb

LAYOUTS = [
    PixelFormat("yuv", 8, (True, True)),
    PixelFormat("yuv", 10, (True, True)),
    PixelFormat("yuv", 8, (False, True)),
    PixelFormat("yuv", 12),
    PixelFormat("gray", 16),
    PixelFormat("rgb", 8),
]


def noise(layout: PixelFormat, height: int, width: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(height)
    shapes = layout.shapes(height, width)
    return [rng.integers(0, 1 << layout.bits, shape).astype(layout.dtype) for shape in shapes]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("full", [False, True])
def test_planes_come_back_as_they_were(layout: PixelFormat, full: bool) -> None:
    # Noise of any value, beyond black, white and the gamut too.
    for matrix, location, size in itertools.product(MATRICES, LOCATIONS, ((33, 65), (16, 8), (2, 2), (1, 1))):
        coding = Coding(layout, matrix, full, location)
        planes = noise(layout, *size)
        for before, after in zip(planes, from_rgb(to_rgb(planes, coding), coding), strict=True):
            np.testing.assert_array_equal(after, before)
            assert after.dtype == layout.dtype


@pytest.mark.parametrize(
    ("matrix", "equation"),
    [
        # R, G, B of Y, Cb, Cr (0 to 1, and -0.5 to 0.5), as the recommendations print them.
        ("bt601", [[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]),
        ("bt709", [[1, 0, 1.5748], [1, -0.187324, -0.468124], [1, 1.8556, 0]]),
        ("bt2020", [[1, 0, 1.4746], [1, -0.164553, -0.571353], [1, 1.8814, 0]]),
    ],
)
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
def test_rgb_is_that_of_the_recommendations(matrix: str, equation: Any, bits: int, full: bool) -> None:
    layout = PixelFormat("yuv", bits)
    luma, blue, red = (plane.astype(np.float64) for plane in noise(layout, 16, 16))
    unit, most = 2 ** (bits - 8), 2**bits - 1
    fractions = [
        luma / most if full else (luma - 16 * unit) / (219 * unit),
        *((plane - 128 * unit) / (most if full else 224 * unit) for plane in (blue, red)),
    ]
    expected = np.moveaxis(np.array(fractions), 0, 2) @ np.array(equation).T
    planes = [plane.astype(layout.dtype) for plane in (luma, blue, red)]
    np.testing.assert_allclose(to_rgb(planes, Coding(layout, matrix, full)), expected, atol=2e-5)


def test_libswscale_agrees_in_8_bits() -> None:
    av = pytest.importorskip("av", reason="videos need the package av")
    from av.video.reformatter import ColorRange, Colorspace

    layout = PixelFormat("yuv", 8)
    image = np.random.default_rng(0).random((16, 32, 3)).astype(np.float32)
    for full, (matrix, name) in itertools.product(
        (False, True), {"bt601": "ITU601", "bt709": "ITU709", "bt2020": "BT2020"}.items()
    ):
        planes = from_rgb(image, Coding(layout, matrix, full))
        frame = av.VideoFrame(32, 16, "yuv444p")
        for plane, samples in zip(frame.planes, planes, strict=True):
            np.frombuffer(plane, np.uint8).reshape(16, -1)[:, :32] = samples
        source = ColorRange.JPEG if full else ColorRange.MPEG
        rgb = frame.reformat(
            format="rgb24",
            src_colorspace=Colorspace[name],
            dst_colorspace=Colorspace[name],
            src_color_range=source,
            dst_color_range=ColorRange.JPEG,
        ).to_ndarray()
        ours = np.clip(255 * to_rgb(planes, Coding(layout, matrix, full)), 0, 255)
        assert np.abs(ours - rgb).max() <= 1


@pytest.mark.parametrize(("cosited", "first"), [(True, 0.0), (False, 0.5)])
def test_interpolated_chroma_lies_where_it_should(cosited: bool, first: float) -> None:
    # A ramp, sampled where the chroma samples lie, is the same ramp at the luma samples, but at the edges.
    samples = (2 * np.arange(10, dtype=np.float32) + first)[None]
    np.testing.assert_allclose(interpolate(samples, 1, 20, cosited=cosited)[0, 2:-2], np.arange(2, 18), atol=1e-5)


def test_the_matrix_that_is_assumed() -> None:
    assert [assumed_matrix(*size) for size in ((576, 720), (720, 1280), (1080, 1920), (480, 1280))] == [
        "bt601",
        "bt709",
        "bt709",
        "bt709",
    ]
