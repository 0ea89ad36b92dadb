from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keygraph.runtime.preprocess.padding import reflected
from keygraph.runtime.tiling.blend import Axis, Plan, blend, cut, seam_ratio, weights


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, Axis]:
    multiple = draw(st.sampled_from([1, 2, 7, 8, 16]))
    tile = draw(st.integers(1, 8)) * multiple
    overlap = draw(st.integers(0, tile // 2 // multiple)) * multiple
    length = draw(st.integers(1, 40 * multiple))
    return multiple, overlap, cut(length, tile, overlap, multiple)


@given(axes())
def test_tiles_are_aligned_overlap_enough_and_cover_everything(cutting: tuple[int, int, Axis]) -> None:
    multiple, overlap, axis = cutting
    assert axis.origins[0] == 0
    assert axis.origins[-1] + axis.tile == axis.length
    assert all(origin % multiple == 0 for origin in axis.origins)
    steps = np.diff(axis.origins)
    assert (steps > 0).all()
    assert (steps <= axis.tile - overlap).all()


@given(axes())
def test_no_fewer_tiles_would_do(cutting: tuple[int, int, Axis]) -> None:
    _, overlap, axis = cutting
    reach = axis.tile + (len(axis.origins) - 2) * (axis.tile - overlap)
    assert len(axis.origins) == 1 or reach < axis.length


@given(axes(), st.integers(1, 3))
def test_weights_sum_to_one(cutting: tuple[int, int, Axis], scale: int) -> None:
    axis = cutting[2]
    total = np.zeros(axis.length * scale)
    for origin, row in zip(axis.origins, weights(axis, scale), strict=True):
        assert (row >= 0).all()
        total[origin * scale : (origin + axis.tile) * scale] += row
    np.testing.assert_allclose(total, 1, rtol=0, atol=3e-7)


@given(axes(), st.integers(1, 3))
def test_the_quarter_of_an_overlap_beside_a_cut_edge_has_no_weight(cutting: tuple[int, int, Axis], scale: int) -> None:
    _, overlap, axis = cutting
    unused = overlap * scale // 4
    for index, row in enumerate(weights(axis, scale)):
        if index > 0:
            assert not row[:unused].any()
        if index < len(axis.origins) - 1:
            assert not row[axis.tile * scale - unused :].any()


@given(axes(), axes(), st.integers(1, 2))
def test_blending_pieces_of_an_image_gives_the_image(
    first: tuple[int, int, Axis], second: tuple[int, int, Axis], scale: int
) -> None:
    plan = Plan(first[2], second[2])
    shape = (2, plan.rows.length * scale, plan.columns.length * scale)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    pieces = (
        image[:, y * scale : (y + plan.rows.tile) * scale, x * scale : (x + plan.columns.tile) * scale]
        for y, x in plan.tiles
    )
    joined = np.full_like(image, np.nan)
    below = 0
    for top, band in blend(plan, pieces, scale):
        assert top == below
        below = top + band.shape[1]
        joined[:, top:below] = band
    np.testing.assert_allclose(joined, image, rtol=0, atol=5e-7)


def test_a_fixed_tile_is_padded_up_to() -> None:
    assert cut(5, 32, 8, 8, least=32) == Axis(32, 32, (0,))
    assert cut(5, 32, 8, 8) == Axis(8, 8, (0,))


@pytest.mark.parametrize(
    ("length", "padded", "expected"),
    [
        (1, 4, [0, 0, 0, 0]),
        (2, 5, [0, 1, 0, 1, 0]),
        (3, 10, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]),
        (4, 4, [0, 1, 2, 3]),
    ],
)
def test_reflection_goes_on_as_long_as_needed(length: int, padded: int, expected: list[int]) -> None:
    assert reflected(length, padded).tolist() == expected


def test_reflection_is_numpys() -> None:
    for length in range(2, 9):
        np.testing.assert_array_equal(
            reflected(length, 30), np.pad(np.arange(length), (0, 30 - length), mode="reflect")
        )


def test_the_seam_metric_sees_seams_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    plan = Plan(cut(256, 64, 16, 8), cut(256, 64, 16, 8))
    smooth = rng.normal(0, 1, (256, 256, 3))
    assert 0.9 < seam_ratio(smooth, plan) < 1.1
    stepped = smooth.copy()
    for number, origin in enumerate(plan.rows.origins):
        stepped[origin:] += 5 * (-1) ** number
    assert seam_ratio(stepped, plan) > 1.5
    assert seam_ratio(np.zeros((256, 256)), plan) == 1
    assert seam_ratio(smooth, Plan(cut(256, 256, 0, 8), cut(256, 256, 0, 8))) == 1
