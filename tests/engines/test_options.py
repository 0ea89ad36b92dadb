"""Build options: sizes, k and flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from keygraph.engines.options import Options, engine_manifest, read_bytes, read_k, read_profiles
from keygraph.errors import InputError
from keygraph.manifest import Manifest, Neighbours, Profile, Tiling

Make = Callable[..., Manifest]


def test_profiles(make_manifest: Make) -> None:
    manifest = make_manifest(size_multiple=16)
    assert read_profiles(manifest, [], []) == (Profile((1, 1, 1), (256,) * 3, (256,) * 3),)
    assert read_profiles(manifest, ["64x96"], ["2"]) == (Profile((2, 2, 2), (64,) * 3, (96,) * 3),)
    assert read_profiles(manifest, ["64:128:256", "32x64:32x64:64x64"], ["1:2:4"]) == (
        Profile((1, 2, 4), (64, 128, 256), (64, 128, 256)),
        Profile((1, 2, 4), (32, 32, 64), (64, 64, 64)),
    )
    assert [p.batch for p in read_profiles(manifest, ["64", "128"], ["8", "1"])] == [(8, 8, 8), (1, 1, 1)]


def test_by_default_tiles_are_batched_as_the_runtime_batches_them(make_manifest: Make) -> None:
    profiles = read_profiles(make_manifest(size_multiple=16), ["64", "32:128:256", "512"], [])
    assert [profile.batch for profile in profiles] == [(1, 16, 16), (1, 4, 4), (1, 1, 1)]


def test_a_batch_that_a_tool_fixed_is_kept(make_manifest: Make) -> None:
    sides = (8, 256, 2**20)
    manifest = make_manifest(profiles=(Profile((1, 1, 1), sides, sides),))
    assert read_profiles(manifest, ["64"], []) == (Profile((1, 1, 1), (64,) * 3, (64,) * 3),)
    with pytest.raises(InputError, match=r"--batch is 1:2:4, but a tool has fixed the batch of this file at 1"):
        read_profiles(manifest, ["64"], ["1:2:4"])


def test_the_default_tile_is_the_calibrated_one(make_manifest: Make) -> None:
    (profile,) = read_profiles(make_manifest(tiling=Tiling(192, 16, 60.0)), [], [])
    assert profile.height == (192, 192, 192)
    (profile,) = read_profiles(make_manifest(size_multiple=48), [], [])
    assert profile.width == (288, 288, 288)


def test_where_tiles_change_the_result_engines_take_whole_images(make_manifest: Make) -> None:
    manifest = make_manifest(size_multiple=24, global_statistics=True, tiling=Tiling(192, 48, 30.0))
    assert read_profiles(manifest, [], []) == (Profile((1, 1, 1), (72, 528, 1296), (72, 528, 1296)),)
    assert read_profiles(manifest, ["480x720"], []) == (Profile((1, 1, 1), (480,) * 3, (720,) * 3),)


@pytest.mark.parametrize(
    ("tiles", "batches", "words"),
    [
        (["100"], [], "--tile is 100, but sizes must be multiples of 16: for 100 use 96 or 112"),
        (["8"], [], "for 8 use 16"),
        (["0"], [], "for 0 use 16"),
        (["-16"], [], "for -16 use 16"),
        (["64:96:100"], [], "for 100 use 96 or 112"),
        (["64x100"], [], "for 100 use 96 or 112"),
        (["128:64:256"], [], "must not decrease"),
        (["64:128"], [], "give one size, or minimum:optimum:maximum"),
        (["big"], [], "give one size, or minimum:optimum:maximum"),
        (["1x2x3"], [], "give a side or height x width"),
        ([], ["0"], "--batch is 0; sizes must be at least 1"),
        ([], ["4:2:1"], "must not decrease"),
        (["64", "128"], ["1", "2", "4"], "there are 2 --tile and 3 --batch"),
    ],
)
def test_sizes_that_cannot_be(make_manifest: Make, tiles: list[str], batches: list[str], words: str) -> None:
    with pytest.raises(InputError, match="--") as caught:
        read_profiles(make_manifest(size_multiple=16), tiles, batches)
    assert words in str(caught.value)


def test_a_fixed_shape(make_manifest: Make) -> None:
    manifest = make_manifest(shape=(2, 64, 96))
    expected = (Profile((2, 2, 2), (64,) * 3, (96,) * 3),)
    assert read_profiles(manifest, [], []) == read_profiles(manifest, ["64x96"], ["2"]) == expected
    for tiles, batches in ((["64"], []), ([], ["1:2:4"])):
        with pytest.raises(InputError, match="takes batches of 2 with 64 x 96 pixels only"):
            read_profiles(manifest, tiles, batches)


def test_k(make_manifest: Make) -> None:
    manifest = make_manifest(neighbours=Neighbours(16, 64))
    assert read_k(manifest, None) == (1, 16, 64)
    assert read_k(manifest, 8) == (1, 8, 8)
    for k in (0, 65):
        with pytest.raises(InputError, match=f"--k is {k}; it must be a whole number from 1 to 64"):
            read_k(manifest, k)
    fixed = make_manifest(neighbours=Neighbours(16, 64, runtime=False))
    assert read_k(fixed, None) is read_k(fixed, 16) is None
    with pytest.raises(InputError, match="k is fixed at 16 in this file"):
        read_k(fixed, 8)
    assert read_k(make_manifest(), None) is None
    with pytest.raises(InputError, match="takes no k"):
        read_k(make_manifest(), 8)


def test_an_engine_says_what_it_was_narrowed_to(make_manifest: Make) -> None:
    manifest = make_manifest(neighbours=Neighbours(16, 64))
    options = Options(read_profiles(manifest, ["64"], ["1"]), read_k(manifest, 8))
    narrowed = engine_manifest(manifest, options)
    assert narrowed.neighbours == Neighbours(8, 8)
    assert narrowed.profiles == options.profiles


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 << 30), ("512m", 512 << 20), ("1.5GiB", 3 << 29), ("64KB", 65536), ("7", 7)]
)
def test_bytes(text: str, size: int) -> None:
    assert read_bytes(text, "--workspace") == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "4T", "four"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match=r"--workspace is .*; give a size, for instance 4G"):
        read_bytes(text, "--workspace")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compatible": "ampere-plus"}, "no --hardware-compatible"),
        ({"version_compatible": True}, "no --version-compatible"),
        ({"timing_cache": True}, "no --timing-cache"),
        ({"strip_weights": True}, "needs a GPU to strip weights"),
    ],
)
def test_what_rtx_cannot_do(changes: dict[str, Any], words: str) -> None:
    options = Options((), None, **changes)
    options.check_backend("tensorrt", has_gpu=True)
    with pytest.raises(InputError, match=words):
        options.check_backend("tensorrt-rtx", has_gpu=False)


@pytest.mark.parametrize("changes", [{"optimization": 6}, {"optimization": -1}, {"compatible": "all"}])
def test_options_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="it must be"):
        Options((), None, **changes)
