from __future__ import annotations

from collections.abc import Callable

import pytest
from keygraph.errors import InputError
from keygraph.manifest import Manifest, Tiling
from keygraph.runtime.sizing import choose, smaller

MakeManifest = Callable[..., Manifest]


def test_a_small_image_is_restored_whole(make_manifest: MakeManifest) -> None:
    sizing = choose(make_manifest(), 500, 321)
    assert sizing.tile == (504, 328)
    assert len(sizing.plan.tiles) == 1


def test_a_large_image_takes_the_calibrated_tile(make_manifest: MakeManifest) -> None:
    sizing = choose(make_manifest(tiling=Tiling(tile=192, overlap=48, psnr=60.0)), 1000, 1000)
    assert (sizing.tile, sizing.overlap) == ((192, 192), 48)


def test_without_calibration_there_is_room_for_an_overlap_whatever_the_size_rule(make_manifest: MakeManifest) -> None:
    for multiple in (1, 8, 96, 128, 300):
        sizing = choose(make_manifest(size_multiple=multiple), 2000, 2000)
        assert sizing.tile[0] % multiple == 0
        assert sizing.overlap % multiple == 0
        assert 0 < sizing.overlap <= sizing.tile[0] // 2


def test_an_explicit_tile_is_kept(make_manifest: MakeManifest) -> None:
    manifest = make_manifest()
    sizing = choose(manifest, 300, 300, tile=64, batch=1)
    assert sizing.tile == (64, 64)
    assert smaller(manifest, 300, 300, sizing) is None
    whole = choose(manifest, 3000, 3000, tile="none", batch=1)
    assert whole.tile == (3000, 3000)
    assert smaller(manifest, 3000, 3000, whole) is None


def test_out_of_memory_halves_the_batch_then_an_automatic_tile_down_to_one_window(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(size_multiple=32)
    sizing = choose(manifest, 500, 500, batch=4)
    seen = []
    while (less := smaller(manifest, 500, 500, sizing)) is not None:
        sizing = less
        seen.append((sizing.tile[0], sizing.batch))
    assert seen == [(512, 2), (512, 1), (256, 1), (128, 1), (64, 1), (32, 1)]


def test_a_fixed_shape_is_the_tile(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(shape=(2, 64, 96))
    sizing = choose(manifest, 100, 100)
    assert (sizing.tile, sizing.batch) == ((64, 96), 2)
    assert choose(manifest, 5, 5).plan.rows.length == 64
    for wrong in ({"tile": 64}, {"tile": "none"}, {"batch": 3}):
        with pytest.raises(InputError, match="this file takes"):
            choose(manifest, 100, 100, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "use 96 or 104"),
        ({"tile": 5}, "use 8"),
        ({"tile": 0}, "use 8"),
        ({"tile": -16}, "use 8"),
        ({"tile": "big"}, "multiple of 8, or 'auto' or 'none'"),
        ({"tile": True}, "multiple of 8"),
        ({"tile": 64, "overlap": 20}, "use 16 or 24"),
        ({"tile": 64, "overlap": 40}, "at most 32"),
        ({"tile": 64, "overlap": -8}, "use 0"),
        ({"batch": 0}, "from 1"),
        ({"batch": "x"}, "from 1"),
    ],
)
def test_a_size_that_cannot_be_names_those_that_can(
    make_manifest: MakeManifest, options: dict[str, int | str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose(make_manifest(), 300, 300, **options)  # type: ignore[arg-type]
