from __future__ import annotations

from collections.abc import Callable

import pytest
from keygraph.errors import InputError
from keygraph.manifest import Manifest, Profile, Tiling, from_json
from keygraph.runtime.tiling.tile_size import choose, smaller

MakeManifest = Callable[..., Manifest]


def test_a_small_image_is_restored_whole(make_manifest: MakeManifest) -> None:
    choice = choose(make_manifest(), 500, 321)
    assert choice.tile == (504, 328)
    assert len(choice.plan.tiles) == 1


def test_a_large_image_takes_the_calibrated_tile(make_manifest: MakeManifest) -> None:
    choice = choose(make_manifest(tiling=Tiling(tile=192, overlap=48, psnr=60.0)), 1000, 1000)
    assert (choice.tile, choice.overlap) == ((192, 192), 48)


def test_without_calibration_there_is_room_for_an_overlap_whatever_the_size_rule(make_manifest: MakeManifest) -> None:
    for multiple in (1, 8, 96, 128, 300):
        choice = choose(make_manifest(size_multiple=multiple), 2000, 2000)
        assert choice.tile[0] % multiple == 0
        assert choice.overlap % multiple == 0
        assert 0 < choice.overlap <= choice.tile[0] // 2


def test_an_explicit_tile_is_kept(make_manifest: MakeManifest) -> None:
    manifest = make_manifest()
    choice = choose(manifest, 300, 300, tile=64, batch=1)
    assert choice.tile == (64, 64)
    assert smaller(manifest, 300, 300, choice) is None
    whole = choose(manifest, 3000, 3000, tile="none", batch=1)
    assert whole.tile == (3000, 3000)
    assert smaller(manifest, 3000, 3000, whole) is None


def test_out_of_memory_halves_the_batch_then_an_automatic_tile_down_to_one_window(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(size_multiple=32)
    choice = choose(manifest, 500, 500, batch=4)
    seen = []
    while (less := smaller(manifest, 500, 500, choice)) is not None:
        choice = less
        seen.append((choice.tile[0], choice.batch))
    assert seen == [(512, 2), (512, 1), (256, 1), (128, 1), (64, 1), (32, 1)]


def test_a_fixed_shape_is_the_tile(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(shape=(2, 64, 96))
    choice = choose(manifest, 100, 100)
    assert (choice.tile, choice.batch) == ((64, 96), 2)
    assert choose(manifest, 5, 5).plan.rows.length == 64
    for wrong in ({"tile": 64}, {"tile": "none"}, {"batch": 3}):
        with pytest.raises(InputError, match="this file takes"):
            choose(manifest, 100, 100, **wrong)


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


BUILT = (Profile((1, 4, 8), (64, 256, 384), (64, 256, 512)), Profile((1, 1, 2), (512,) * 3, (512,) * 3))


def test_an_engine_gets_what_it_was_built_for(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(profiles=BUILT)
    choice = choose(manifest, 2000, 2000)
    assert (choice.tile, choice.batch, choice.max_batch) == ((256, 256), 4, 8)
    calibrated = choose(make_manifest(profiles=BUILT, tiling=Tiling(320, 64, 60.0)), 2000, 2000)
    assert (calibrated.tile, calibrated.overlap) == ((320, 320), 64)
    too_large = choose(make_manifest(profiles=BUILT, tiling=Tiling(1024, 64, 60.0)), 2000, 2000)
    assert too_large.tile == (256, 256)
    other = choose(manifest, 2000, 2000, tile=512)
    assert (other.tile, other.batch, other.max_batch) == ((512, 512), 1, 2)


def test_a_small_image_is_padded_to_the_least_that_an_engine_takes(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(profiles=BUILT)
    assert choose(manifest, 10, 100).tile == (64, 104)
    assert choose(manifest, 10, 100, tile="none").tile == (64, 104)
    assert choose(manifest, 400, 500, tile="none").tile == (512, 512)


def test_where_tiles_change_the_result_an_engine_gets_whole_images_as_long_as_it_takes_them(
    make_manifest: MakeManifest,
) -> None:
    manifest = make_manifest(profiles=BUILT, global_statistics=True, tiling=Tiling(320, 64, 30.0))
    assert choose(manifest, 300, 450).tile == (304, 456)
    assert choose(manifest, 300, 450).batch == 4  # As many as it was built for; there is one tile.
    assert choose(manifest, 400, 500).tile == (512, 512)  # Padded: nearer to the whole image than any tile.
    cut = choose(manifest, 500, 520)
    assert (cut.tile, len(cut.plan.tiles)) == ((256, 256), 9)
    assert choose(manifest, 300, 450, tile=128).tile == (128, 128)
    fixed = make_manifest(shape=(1, 480, 720), global_statistics=True)
    assert choose(fixed, 321, 481).tile == (480, 720)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 32}, r"tile is 32 .*built for 64 x 64 to 384 x 512 or 512 x 512 to 512 x 512; .*--tile 32"),
        ({"tile": 640}, "keygraph build MODEL.onnx --tile 640"),
        ({"tile": "none"}, r"tile is none \(2000 x 1000 pixels\), but this engine"),
        ({"batch": 9}, "at most 8 tiles of 256 x 256 together; .*--batch 1:9:9"),
        ({"tile": 512, "batch": 3}, "at most 2 tiles of 512 x 512"),
    ],
)
def test_what_an_engine_was_not_built_for_is_refused_with_the_way_to_build_it(
    make_manifest: MakeManifest, options: dict[str, int | str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose(make_manifest(profiles=BUILT), 2000, 1000, **options)  # type: ignore[arg-type]


def test_an_engine_out_of_memory_stays_within_what_it_was_built_for(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(profiles=BUILT)
    choice = choose(manifest, 2000, 2000)
    seen = []
    while (following := smaller(manifest, 2000, 2000, choice)) is not None:
        choice = following
        seen.append((choice.tile, choice.batch))
    assert seen == [((256, 256), 2), ((256, 256), 1), ((128, 128), 1), ((64, 64), 1)]


def test_profiles_survive_in_the_manifest(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(profiles=BUILT)
    assert from_json(manifest.to_json(), "test") == manifest


def test_what_is_chosen_automatically_fits_into_memory(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(tiling=Tiling(tile=192, overlap=48, psnr=60.0))
    assert choose(manifest, 500, 321, run_pixels=504 * 328).tile == (504, 328)
    assert choose(manifest, 500, 321, run_pixels=504 * 328 - 1).tile == (192, 192)
    little = choose(manifest, 500, 321, run_pixels=100 * 100 + 5)
    assert (little.tile, little.overlap, little.batch) == ((96, 96), 48, 1)
    assert choose(manifest, 500, 321, run_pixels=3).tile == (64, 64)
    assert choose(manifest, 500, 321, tile=64, run_pixels=64 * 64 * 5).batch == 5
    assert choose(manifest, 500, 321, tile=192, run_pixels=3).tile == (192, 192)
    # A whole image is one run; the tiles of two runs share the memory.
    assert choose(manifest, 500, 321, run_pixels=504 * 328, runs_at_a_time=2).tile == (504, 328)
    assert choose(manifest, 500, 321, run_pixels=2 * (100 * 100 + 5), runs_at_a_time=2) == little
    large = make_manifest(size_multiple=128)
    assert choose(large, 500, 321, run_pixels=3).tile == (256, 256)  # Room for an overlap.
    assert choose(make_manifest(shape=(2, 64, 96)), 100, 100, run_pixels=3).tile == (64, 96)


def test_images_below_the_smallest_size_are_padded_to_it(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest(size_multiple=4, smallest=12)
    assert choose(manifest, 5, 40).tile == (12, 40)
    assert choose(manifest, 30, 13).tile == (32, 16)
    with pytest.raises(InputError, match="tile is 8; it must be a multiple of 4: use 12"):
        choose(manifest, 100, 100, tile=8)
    tiled = choose(manifest, 100, 7, tile=16)
    assert tiled.tile == (16, 12)
