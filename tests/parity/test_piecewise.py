"""Reading inputs, cutting images into pieces and tiles, and joining the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.manifest import Profile
from keygraph.parity.inputs import Demands, demands, generated, read_inputs
from keygraph.parity.piecewise import count_pieces, in_pieces, in_tiles
from keygraph.runtime.preprocess.normalization import normalisation
from keygraph.runtime.tiling.blend import Plan, cut


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (256, 256), (257, 300), (520, 40)])
@pytest.mark.parametrize("shape", [None, (3, 16, 24)])
def test_pieces_show_every_pixel_once(make_manifest: Any, size: tuple[int, int], shape: Any) -> None:
    manifest = make_manifest(scale=1, shape=shape, value_range=(-1.0, 1.0))
    needs = demands(manifest, make_manifest(value_range=(-1.0, 1.0)))
    image = read_inputs([np.random.default_rng(1).random((*size, 3), np.float32)], needs)[0]
    done = []

    def ways(tensor: Any) -> Any:
        assert tensor.shape[1] == 3
        assert tensor.shape[2] % 8 == tensor.shape[3] % 8 == 0
        if shape:
            assert tensor.shape == (3, 3, 16, 24)
            np.testing.assert_array_equal(tensor[0], tensor[2])
        return np.stack([tensor, -tensor])

    found = in_pieces(image, needs, ways, lambda: done.append(1))
    assert len(done) == count_pieces(image, needs)
    picture = image.request.image
    assert isinstance(picture, np.ndarray)
    expected = normalisation(manifest, picture)(picture)
    np.testing.assert_array_equal(found, np.stack([expected, -expected]))


@pytest.mark.parametrize("shape", [None, (2, 16, 16)])
def test_tiles_are_joined_as_the_runtime_does(make_manifest: Any, shape: Any) -> None:
    needs = demands(make_manifest(scale=2, shape=shape))
    image = read_inputs([np.random.default_rng(1).random((50, 37, 3), np.float32)], needs)[0]
    plan = Plan(cut(50, 16, 8, 8), cut(37, 16, 8, 8))
    assert len(plan.tiles) > 9
    found = in_tiles(image, needs, plan, lambda tensor: np.stack([tensor.repeat(2, axis=2).repeat(2, axis=3)] * 2))
    picture = image.request.image
    assert isinstance(picture, np.ndarray)
    expected = picture.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(found, np.stack([expected] * 2), atol=1e-6)


def test_a_colour_picture_in_a_gray_model_is_three(make_manifest: Any) -> None:
    needs = Demands(make_manifest(in_channels=1, out_channels=1), 8, (2, 8, 8))
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = read_inputs([picture], needs)[0]
    assert "each channel" in image.notices[0]
    shapes = []

    def ways(tensor: Any) -> Any:
        shapes.append(tensor.shape)
        return tensor[None]

    found = in_pieces(image, needs, ways)
    assert shapes == [(2, 1, 8, 8)] * 3
    np.testing.assert_array_equal(found[0], picture / np.float32(255))


@pytest.mark.parametrize(("multiples", "size"), [((8, 8), (96, 104)), ((64, 48), (192, 384)), ((128, 128), (128, 256))])
def test_the_generated_picture_fits_both_size_rules(
    make_manifest: Any, multiples: tuple[int, int], size: tuple[int, int]
) -> None:
    needs = demands(*(make_manifest(size_multiple=multiple) for multiple in multiples))
    assert generated(needs).request.image.shape == (*size, 3)


def test_an_engine_sees_the_size_that_it_was_built_best_for(make_manifest: Any) -> None:
    engine = make_manifest(profiles=(Profile((1, 2, 4), (64, 128, 256), (64, 96, 256)),))
    assert demands(engine, make_manifest()).shape == (1, 128, 96)
    with pytest.raises(InputError, match=r"not the same \(1x128x96 and 1x64x64\)"):
        demands(engine, make_manifest(shape=(1, 64, 64)))
