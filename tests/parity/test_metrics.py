"""Metrics on arrays whose differences are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from keygraph.instrumentation.key_graphs import Selection
from keygraph.instrumentation.metrics import psnr
from keygraph.manifest import Manifest
from keygraph.parity import Difference, StageAgreement
from keygraph.parity.localize.tile_regions import tile_regions
from keygraph.parity.metrics import image as module
from keygraph.parity.metrics import ssim
from keygraph.parity.metrics.selection import agreements
from keygraph.plugins.torch import pack_graph
from keygraph.runtime.tiling.blend import Plan, cut
from torch import from_numpy


def difference(manifest: Manifest, candidate: Any, reference: Any, dtype: Any = np.uint8) -> Difference:
    """Of two batches of one image, float[1, C, H, W]."""
    one, other = (np.moveaxis(np.asarray(values, np.float32)[0], 0, 2) for values in (candidate, reference))
    return module.difference(one, other, manifest, np.dtype(dtype))


def test_known_differences(make_manifest: Any) -> None:
    reference = np.full((1, 3, 4, 5), 0.5, np.float32)
    candidate = reference.copy()
    candidate[0, 1, 2, 3] += 0.25
    numbers = difference(make_manifest(), candidate, reference)
    assert numbers.max_abs == 0.25
    assert numbers.mean_abs == pytest.approx(0.25 / 60)
    assert numbers.psnr == pytest.approx(10 * math.log10(60 / 0.0625))
    assert numbers.identical_8bit == pytest.approx(19 / 20)
    assert numbers.finite


def test_the_value_range_is_the_peak(make_manifest: Any) -> None:
    pair = (np.full((1, 3, 2, 2), 130.0), np.full((1, 3, 2, 2), 129.0))
    numbers = difference(make_manifest(value_range=(0.0, 255.0)), *pair)
    assert numbers.psnr == pytest.approx(48.13, abs=0.01)
    assert numbers.identical_8bit == 0


def test_eight_bits_clip_and_round(make_manifest: Any) -> None:
    candidate = np.array([1.0, 1.3, -0.2, 0.5005]).reshape(1, 1, 2, 2)
    reference = np.array([1.2, 1.0, 0.0, 0.4995]).reshape(1, 1, 2, 2)
    numbers = difference(make_manifest(), candidate, reference)
    assert numbers.identical_8bit == 0.75


def test_strips_add_up_to_the_whole(make_manifest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(0).random((2, 1, 3, 40, 16), np.float32)
    whole = difference(make_manifest(), a, b)
    monkeypatch.setattr(module, "_STRIP", 7 * 16 * 3)
    monkeypatch.setattr(ssim, "_ROWS", 9)
    strips = difference(make_manifest(), a, b)
    assert strips.psnr == pytest.approx(whole.psnr)
    assert strips.ssim == pytest.approx(whole.ssim)
    assert strips.mean_abs == pytest.approx(whole.mean_abs)
    for name in ("max_abs", "identical_8bit", "histogram"):
        assert getattr(strips, name) == getattr(whole, name)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_is_never_lost(make_manifest: Any, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STRIP", 6)
    fine = np.zeros((1, 3, 6, 2), np.float32)
    broken = fine.copy()
    broken[0, 0, 2, 0] = bad
    for first, second, counts in ((broken, fine, (1, 0)), (fine, broken, (0, 1)), (broken, broken, (1, 1))):
        numbers = difference(make_manifest(), first, second)
        assert (numbers.nonfinite_candidate, numbers.nonfinite_reference) == counts
        assert math.isnan(numbers.psnr)
        assert math.isnan(numbers.ssim)
        assert math.isnan(numbers.max_abs)
        assert not numbers.finite
        assert numbers.identical_8bit == pytest.approx(11 / 12)
        assert sum(numbers.histogram.counts) == numbers.histogram.counts[0] == 35


@pytest.mark.parametrize(
    ("dtype", "white", "bits"), [(np.uint8, 255, 8), (np.uint16, 65535, 16), (np.float32, 65535, 16)]
)
def test_the_histogram_counts_steps_of_the_output(make_manifest: Any, dtype: Any, white: int, bits: int) -> None:
    steps = np.array([0, 0.4, 1, 2, 3, 4, 5, 8, 9, 16, 17, white])
    candidate = np.zeros((1, 1, 1, len(steps)))
    found = difference(make_manifest(value_range=(0.0, 2.0)), candidate + 2 * steps / white, candidate, dtype).histogram
    assert found.bits == bits
    assert found.labels[:6] == ("0", "1", "2", "3-4", "5-8", "9-16")
    assert len(found.labels) == len(found.counts) == bits + 2
    assert found.counts[:7] == (2, 1, 1, 2, 2, 2, 1)
    assert found.counts[-1] == 1
    assert sum(found.counts) == len(steps)


@pytest.mark.parametrize("shape", [(11, 11, 1), (40, 57, 3)])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_structural_similarity_is_that_of_wang_2004(shape: tuple[int, ...], value_range: tuple[float, float]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    low, high = value_range
    random = np.random.default_rng(0)
    a = (random.random(shape) * (high - low) + low).astype(np.float32)
    b = a + random.normal(0, 0.1 * (high - low), shape).astype(np.float32)
    expected = metrics.structural_similarity(
        a.astype(np.float64),
        b.astype(np.float64),
        data_range=high - low,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2,
    )
    assert ssim.structural_similarity(a, b, value_range) == pytest.approx(expected, abs=1e-9)
    assert ssim.structural_similarity(a, a, value_range) == pytest.approx(1)


def test_an_image_smaller_than_the_window_has_no_structural_similarity() -> None:
    image = np.zeros((10, 40, 3), np.float32)
    assert math.isnan(ssim.structural_similarity(image, image, (0.0, 1.0)))


def selection(similarity: np.ndarray[Any, Any], chosen: list[list[int]]) -> Selection:
    """A selection whose similarities are the given ones: queries are unit vectors."""
    rows = np.zeros(similarity.shape, bool)
    for row, nodes in zip(rows, chosen, strict=True):
        row[nodes] = True
    graph = pack_graph(from_numpy(rows)[None, None]).numpy()
    query = np.eye(similarity.shape[0], dtype=np.float32)[None, None]
    return Selection("stage", query, similarity.T[None, None].astype(np.float32), graph)


def agreement(similarity: Any, ours: list[list[int]], theirs: list[list[int]], k: int) -> StageAgreement:
    values = np.asarray(similarity, np.float32)
    (result,) = agreements([selection(values, ours)], [selection(values, theirs)], k)
    return result


def test_links_are_counted() -> None:
    found = agreement([[4, 3, 2, 1], [1, 2, 3, 4]], [[0, 1], [1, 3]], [[0, 1], [2, 3]], 2)
    assert (found.rows, found.links_candidate, found.links_reference) == (2, 4, 4)
    assert (found.common, found.different) == (3, 2)
    assert found.jaccard == pytest.approx(3 / 5)
    # The second row: node 1 is no neighbour. Node 2, the k-th itself, is at no distance from the k-th and not counted.
    assert (found.beyond_tolerance, found.misjudged) == (1, 1)


@pytest.mark.parametrize(("gap", "harmless"), [(0.0, True), (5e-5, True), (1e-3, False)])
def test_a_near_tie_is_within_the_tolerance(gap: float, harmless: bool) -> None:
    found = agreement([[1, 0.5 + gap, 0.5, 0.1]], [[0, 2]], [[0, 1]], 2)
    assert found.different == 2
    assert (found.beyond_tolerance == 0) == harmless
    assert (found.misjudged == 0) == harmless


def test_another_number_of_neighbours_is_never_a_tie() -> None:
    found = agreement([[1, 1, 1, 1]], [[0]], [[0, 1]], 2)
    assert found.beyond_tolerance > 0
    assert found.misjudged > 0


def test_stages_add_up() -> None:
    one = StageAgreement("a", 1, 2, 3, 1, 3, 5, 6)
    assert one + one == StageAgreement("a", 2, 4, 6, 2, 6, 10, 12)
    assert StageAgreement("a", 0, 0, 0, 0, 0, 0, 0).jaccard == 1


def test_half_of_every_tile_is_measured() -> None:
    """What near ties do, some rows of some windows, does not count; a tile that is off does, wherever tiles overlap."""
    plan = Plan(cut(64, 32, 8, 8), cut(64, 32, 8, 8))
    tiles = tile_regions(plan, 2, (128, 128))
    regions = [tile.dominant for tile in tiles]
    covered = np.zeros((128, 128), int)
    for region in regions:
        covered[region] += 1
    np.testing.assert_array_equal(covered, 1)
    reference = np.zeros((128, 128, 3), np.float32)
    candidate = reference + np.float32(1e-6)
    candidate.reshape(-1)[::3] += 1
    assert module.median_tile_error(candidate, reference, (0.0, 1.0), regions) == pytest.approx(120, abs=0.01)
    assert module.median_tile_error(reference, reference, (0.0, 1.0), regions) == math.inf
    candidate[regions[4]] += np.float32(1e-2)
    assert module.median_tile_error(candidate, reference, (0.0, 1.0), regions) == pytest.approx(40, abs=0.01)
    candidate[regions[4]] = math.nan
    assert math.isnan(module.median_tile_error(candidate, reference, (0.0, 1.0), regions))


@pytest.mark.parametrize(
    ("choice", "slip"),
    [
        ([0], "keeps one neighbour too few"),
        ([0, 1, 2], "keeps one neighbour too many"),
        ([0, 2], "leaves out the k-th neighbour and takes the next"),
        ([3, 4], "keeps the least similar nodes"),
        ([0, 4], None),
    ],
)
def test_what_a_selection_does_wrong(choice: list[int], slip: str | None) -> None:
    rows = [np.roll([5, 4, 3, 2, 1], turn) for turn in range(5)]

    def turned(nodes: list[int]) -> list[list[int]]:
        return [[(node + turn) % 5 for node in nodes] for turn in range(5)]

    found = agreement(rows, turned(choice), turned([0, 1]), 2)
    assert (found.slip, found.misjudged > 0, found.misjudged_reference) == (slip, True, 0)
    assert (found + found).slip == slip
    # The same fault of the reference is not the candidate's.
    other = agreement(rows, turned([0, 1]), turned(choice), 2)
    assert (other.slip, other.misjudged, other.misjudged_reference > 0) == (slip, 0, True)
    # Too few rows to call it a habit.
    mixed = [*turned([0, 1])[:2], *turned(choice)[2:]]
    assert agreement(rows, mixed, turned([0, 1]), 2).slip is None


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 2.0), (1.0, 3.0)])
def test_psnr_counts_from_black_to_white(value_range: tuple[float, float]) -> None:
    a = np.zeros((4, 4, 3), np.float32)
    assert psnr(a, a + 0.5, value_range) == pytest.approx(10 * math.log10(2**2 / 0.25))
