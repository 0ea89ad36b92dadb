from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keygraph.errors import InputError, KeygraphError
from keygraph.manifest import Manifest
from keygraph.runtime.backends.base import Inputs
from keygraph.runtime.errors import SessionMemoryError
from keygraph.runtime.notices import KeygraphWarning
from keygraph.runtime.preprocess.request import check_sizes
from keygraph.runtime.restorer import Restorer
from keygraph.runtime.tiling.blend import seam_ratio

ModelFile = Callable[..., Path]


def load(path: Path) -> Restorer:
    return keygraph.load(path, library=None)


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64"])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_type_and_values_survive(make_model: ModelFile, dtype: str, value_range: tuple[float, float]) -> None:
    image = noise(37, 21, 3, dtype=dtype)
    restored = load(make_model("identity", value_range=value_range))(image)
    assert restored.dtype == image.dtype
    if image.dtype.kind == "u":
        np.testing.assert_array_equal(restored, image)
    else:
        np.testing.assert_allclose(
            restored.astype(np.float64), image, rtol=0, atol=1e-3 if dtype == "float16" else 3e-7
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(1, 5),
    overlap=st.integers(0, 2),
    batch=st.integers(1, 5),
)
def test_an_identity_stays_one_however_it_is_cut(
    make_model: ModelFile, tmp_path: Path, height: int, width: int, tile: int, overlap: int, batch: int
) -> None:
    path = tmp_path / "identity.onnx"
    restorer = load(path if path.exists() else make_model("identity"))
    image = noise(height, width, 3)
    restored = restorer.restore(image, tile=8 * tile, overlap=8 * min(overlap, tile // 2), batch=batch).image
    np.testing.assert_array_equal(restored, image)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5000, 3), (5000, 3, 3), (1, 1)])
def test_odd_sizes(make_model: ModelFile, shape: tuple[int, ...]) -> None:
    image = noise(*shape)
    for tile in ("auto", "none", 128):
        np.testing.assert_array_equal(load(make_model("identity")).restore(image, tile=tile).image, image)


def test_upscaling(make_model: ModelFile) -> None:
    image = noise(45, 30, 3)
    expected = image.repeat(2, axis=0).repeat(2, axis=1)
    restorer = load(make_model("nearest", scale=2))
    np.testing.assert_array_equal(restorer(image), expected)
    np.testing.assert_array_equal(restorer(image, tile=16, overlap=8), expected)


def test_tiles_give_what_the_whole_gives_when_the_overlap_covers_the_receptive_field(make_model: ModelFile) -> None:
    restorer = load(make_model("blur"))
    image = noise(150, 130, 3, dtype=np.float32)
    whole = restorer.restore(image, tile="none").image
    tiled = restorer.restore(image, tile=32, overlap=8)  # 8 / 4 = 2 pixels, as far as the blur sees
    np.testing.assert_allclose(tiled.image, whole, rtol=0, atol=1e-6)
    assert 0.9 < seam_ratio(tiled.image, tiled.plan) < 1.1


def test_without_overlap_the_same_model_leaves_seams(make_model: ModelFile) -> None:
    restorer = load(make_model("blur"))
    tiled = restorer.restore(noise(160, 128, 3), tile=32, overlap=0)
    assert seam_ratio(tiled.image, tiled.plan) > 1.5
    assert "seams" in tiled.notices[0]


def test_a_fixed_shape_file_takes_any_image(make_model: ModelFile) -> None:
    restorer = load(make_model("identity", shape=(2, 16, 24)))
    for shape in ((5, 7, 3), (16, 24, 3), (50, 70, 3)):
        np.testing.assert_array_equal(restorer(noise(*shape)), noise(*shape))


def test_gray_in_a_colour_model_and_colour_in_a_gray_one(make_model: ModelFile) -> None:
    gray = noise(20, 30)
    restored = load(make_model("identity")).restore(gray)
    np.testing.assert_array_equal(restored.image, gray)
    assert "averaged" in restored.notices[0]
    colour = noise(50, 70, 3)
    for shape in (None, (2, 16, 16)):
        restored = load(make_model("identity", in_channels=1, out_channels=1, shape=shape)).restore(colour)
        np.testing.assert_array_equal(restored.image, colour)
        assert "separately" in restored.notices[0]


def test_gray_in_a_gray_model_is_nothing_special(make_model: ModelFile) -> None:
    restorer = load(make_model("identity", in_channels=1, out_channels=1))
    for image in (noise(9, 9), noise(9, 9, 1)):
        restored = restorer.restore(image)
        assert restored.image.shape == image.shape
        assert restored.notices == ()


def test_what_leaves_the_range_is_clipped_in_integers_only(make_model: ModelFile) -> None:
    restorer = load(make_model("add_k", neighbours={"default": 500, "maximum": 1024, "trained": (), "runtime": True}))
    assert restorer(np.full((8, 8, 3), 200, np.uint8)).max() == 255
    assert restorer(np.full((8, 8, 3), 0.8, np.float32)).max() == pytest.approx(1.3)


def test_k_reaches_the_model_and_is_never_clamped(make_model: ModelFile) -> None:
    neighbours = {"default": 64, "maximum": 256, "trained": (64, 128), "runtime": True}
    restorer = load(make_model("add_k", neighbours=neighbours))
    black = np.zeros((8, 8, 3))
    assert restorer(black).max() == pytest.approx(0.064)
    assert restorer(black, 128).max() == pytest.approx(0.128)
    assert restorer.restore(black, np.int64(100)).k == 100
    with pytest.warns(KeygraphWarning, match="trained with 64 to 128"):
        restorer(black, 200)
    for wrong in (0, -1, 257, "many", 2.5, True):
        with pytest.raises(InputError, match="1 to 256"):
            restorer(black, wrong)  # type: ignore[arg-type]


def test_k_of_a_file_with_a_fixed_k_or_none(make_model: ModelFile) -> None:
    black = np.zeros((8, 8, 3))
    fixed = load(make_model("identity", neighbours={"default": 64, "maximum": 256, "trained": (), "runtime": False}))
    assert fixed.restore(black).k == fixed.restore(black, 64).k == 64
    with pytest.raises(InputError, match="--k runtime"):
        fixed(black, 65)
    with pytest.raises(InputError, match="no key graph"):
        load(make_model("identity"))(black, 64)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), "4 channels.*takes 3"),
        (np.zeros((8, 8, 2), np.uint8), "2 channels"),
        (np.zeros((8, 8, 3), np.int32), "type is int32"),
        (np.zeros((8, 8, 3), bool), "type is bool"),
        (np.zeros((1, 8, 8, 3), np.uint8), "shape"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.full((8, 8, 3), 255.0), "from 0 to 1"),
    ],
)
def test_an_image_that_cannot_be(make_model: ModelFile, image: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(make_model("identity"))(image)


def test_results_of_more_than_two_to_the_31_values_are_no_error(make_manifest: Callable[..., Manifest]) -> None:
    assert 30000 * 30000 * 3 > 2**31
    assert check_sizes(make_manifest(), {"image": (30000, 30000, 3)}).channels == 3
    assert check_sizes(make_manifest(scale=4), {"image": (10000, 10000, 3)}).channels == 3


def test_nan_in_one_tile_is_an_error_that_names_it(make_model: ModelFile) -> None:
    image = np.full((96, 96, 3), 0.5, np.float32)
    image[63, 30] = 1
    with pytest.raises(KeygraphError, match="row 32, column 0") as caught:
        load(make_model("bright_nan")).restore(image, tile=32, overlap=0)
    assert not isinstance(caught.value, InputError)


def test_a_model_that_breaks_its_promise_is_an_error(make_model: ModelFile) -> None:
    with pytest.raises(KeygraphError, match="promises"):
        load(make_model("identity", scale=2))(noise(8, 8, 3))


def test_tiles_of_a_model_with_global_statistics_are_said(make_model: ModelFile) -> None:
    restorer = load(make_model("identity", global_statistics=True))
    assert restorer.restore(noise(64, 64, 3)).notices == ()
    with pytest.warns(KeygraphWarning, match="statistics"):
        restorer(noise(64, 64, 3), tile=32, global_statistics="tile")


def test_progress_counts_tiles(make_model: ModelFile) -> None:
    seen: list[tuple[int, int]] = []
    load(make_model("identity")).restore(
        noise(96, 64, 3), tile=32, overlap=0, batch=4, progress=lambda *done: seen.append(done)
    )
    assert seen == [(4, 6), (6, 6)]


class Small:
    """A session that runs out of memory above a number of pixels."""

    description = "small"

    def __init__(self, manifest: Manifest, pixels: int) -> None:
        self.manifest, self.pixels = manifest, pixels

    def run(self, images: np.ndarray[Any, Any], k: int | None, *extras: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if images[:, 0].size > self.pixels:
            raise SessionMemoryError("out of memory")
        return images


def test_memory_that_runs_out_halves_the_batch_then_the_tile_and_says_so(
    make_manifest: Callable[..., Manifest],
) -> None:
    image = noise(300, 300, 3)
    restored = Restorer(Small(make_manifest(), 100 * 100)).restore(image, batch=2)
    np.testing.assert_array_equal(restored.image, image)
    assert restored.plan.rows.tile == 72
    assert [notice.split(": ")[1] for notice in restored.notices] == [
        "went on with 1",
        "went on with tiles of 152 x 152",
        "went on with tiles of 72 x 72",
    ]


def test_memory_that_runs_out_never_changes_a_tile_that_was_asked_for(make_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(InputError, match="tiles of 128 x 128 one by one; choose a smaller tile"):
        Restorer(Small(make_manifest(), 100 * 100)).restore(noise(300, 300, 3), tile=128)
    with pytest.raises(InputError, match="use a machine with more"):
        Restorer(Small(make_manifest(), 10)).restore(noise(300, 300, 3))


def test_onnx_runtime_really_out_of_memory(make_model: ModelFile) -> None:
    # In a process of its own, with limited address space.
    model = make_model("outer", in_channels=1, out_channels=1)
    code = f"""
        import resource, numpy as np, keygraph
        restorer = keygraph.load({str(model)!r}, library=None, threads=1)
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        image = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        restored = restorer.restore(image)
        assert (restored.image == image).all()
        print(*restored.notices, sep="\\n")
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("ONNX Runtime ran out of memory with tiles of 256 x 256: went on with")


class Ahead:
    """A session that takes two batches before it returns the first result, always in the same memory."""

    description = "ahead"

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.log: list[str] = []

    def run(self, images: np.ndarray[Any, Any], k: int | None, *extras: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise AssertionError("a session that streams is not asked for single runs")

    def run_batches(self, batches: Iterator[Inputs], k: int | None) -> Iterator[np.ndarray[Any, Any]]:
        waiting: list[np.ndarray[Any, Any]] = []
        memory: np.ndarray[Any, Any] | None = None
        try:
            for number, (images,) in enumerate(batches):
                self.log.append(f"take {number}")
                waiting.append(images.copy())
                if len(waiting) == 3:
                    memory = np.full_like(waiting[0], -1) if memory is None else memory
                    memory[...] = waiting.pop(0)
                    self.log.append("give")
                    yield memory
                    memory[...] = -1
            yield from waiting
        finally:
            self.log.append("closed")


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("shape", [None, (2, 32, 32), (4, 32, 32)])
def test_a_session_may_take_batches_before_it_gives_results(
    make_manifest: Callable[..., Manifest], shape: tuple[int, int, int] | None, channels: int
) -> None:
    session = Ahead(make_manifest(in_channels=channels, out_channels=channels, shape=shape))
    image = noise(150, 90, 3)
    restored = Restorer(session).restore(image, tile=32, overlap=8, batch=shape[0] if shape else 3)
    np.testing.assert_array_equal(restored.image, image)
    assert session.log[:5] == ["take 0", "take 1", "take 2", "give", "take 3"]


def test_a_restoration_that_fails_leaves_nothing_running(make_manifest: Callable[..., Manifest]) -> None:
    session = Ahead(make_manifest(scale=2))
    with pytest.raises(KeygraphError, match="promises"):
        Restorer(session).restore(noise(96, 96, 3), tile=32, overlap=0, batch=1)
    assert session.log[-1] == "closed"
