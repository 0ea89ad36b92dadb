"""Causes on images whose fault is known: each named as it is, and none where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keygraph.parity.localize.error_patterns import Cause, diagnose, geometry, pattern
from keygraph.runtime.tiling.blend import Plan, blend, cut
from numpy.typing import NDArray

Image = NDArray[np.float32]

#: Noise of this size leaves 120 dB, which is what rounding leaves.
ROUNDING = 1e-6
HEIGHT, WIDTH = 72, 88
PLAN = Plan(cut(HEIGHT, 32, 8, 8), cut(WIDTH, 32, 8, 8))
WHOLE = Plan(cut(HEIGHT, 256, 0, 8), cut(WIDTH, 256, 0, 8))


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image:
    """Structures of many sizes, in channels that are alike but not equal; some values beyond 0 to 1."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    values = np.stack(
        [np.sin(y / 5 + c / 3) * np.cos(x / 7 - c / 2) + 0.4 * np.sin(x * y / 90) for c in range(3)], axis=2
    )
    return (0.5 + 0.3 * values + 0.05 * random.normal(size=values.shape)).astype(np.float32)


def noisy(image: Image, size: float = ROUNDING) -> Image:
    return (image + np.random.default_rng(1).normal(0, size, image.shape)).astype(np.float32)


def found(candidate: Image, reference: Image, plan: Plan = WHOLE, **options: Any) -> tuple[Cause, ...]:
    options = {"value_range": (0.0, 1.0), "threshold": 90.0, **options}
    return diagnose(noisy(candidate), reference, plan=plan, **options)


def named(candidate: Image, reference: Image, plan: Plan = WHOLE, **options: Any) -> Cause:
    (cause,) = found(candidate, reference, plan, **options)
    return cause


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_swapped_channels(order: tuple[int, ...]) -> None:
    cause = named(picture()[:, :, order], picture())
    assert (cause.kind, cause.details) == ("channels", {"order": list(order)})
    assert f"the output's are the reference's {', '.join(map(str, order))}" in cause.text
    assert ("BGR for RGB" in cause.text) == (order == (2, 1, 0))
    assert cause.undone == pytest.approx(120, abs=1)
    assert cause.text.endswith(f"(undone: {cause.undone:.1f} dB)")


def test_reversed_bands() -> None:
    bands = np.concatenate([picture(seed=seed) for seed in range(10)], axis=2)
    cause = named(bands[:, :, ::-1], bands)
    assert cause.details == {"order": list(range(29, -1, -1))}
    assert "the output's are the reference's from the last to the first" in cause.text


TURNS: dict[str, Callable[[Image], Image]] = {
    "rotated by 180 degrees": lambda image: image[::-1, ::-1],
    "flipped upside down": lambda image: image[::-1],
    "mirrored left to right": lambda image: image[:, ::-1],
    "transposed": lambda image: image.swapaxes(0, 1),
    "rotated by 90 degrees counterclockwise": lambda image: np.rot90(image),
    "rotated by 90 degrees clockwise": lambda image: np.rot90(image, -1),
    "transposed across the other diagonal": lambda image: image[::-1, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("side", [64, 400])
def test_a_turned_image(turn: str, side: int) -> None:
    image = picture(side, side)
    cause = named(TURNS[turn](image), image)
    assert cause.kind == "orientation"
    assert cause.text == f"the output is the reference {turn} (undone: {cause.undone:.1f} dB)"
    assert cause.undone == pytest.approx(120, abs=1)
    if turn in list(TURNS)[:3]:
        assert named(TURNS[turn](picture()), picture()).details["orientation"] == turn


def test_a_turned_image_of_a_padded_one() -> None:
    """A model that turns what it is given turns the padding, too."""
    padded = picture(80, 96)
    cause = named(padded[::-1, ::-1][:HEIGHT, :WIDTH], padded[:HEIGHT, :WIDTH])
    assert cause.details == {"orientation": "rotated by 180 degrees", "down": 8, "right": 8, "each": False}
    assert "rotated by 180 degrees and shifted 8 pixels down and 8 pixels to the right" in cause.text


@pytest.mark.parametrize("offset", [(1, 0), (0, -1), (-2, 1), (7, -12)])
def test_a_shifted_image(offset: tuple[int, int]) -> None:
    down, right = offset
    large = picture(HEIGHT + 40, WIDTH + 40)
    reference = large[20 : 20 + HEIGHT, 20 : 20 + WIDTH]
    cause = named(large[20 - down : 20 - down + HEIGHT, 20 - right : 20 - right + WIDTH], reference)
    assert cause.kind == "shift"
    assert (cause.details["down"], cause.details["right"], cause.details["orientation"]) == (*offset, None)
    tiled = named(large[20 - down : 20 - down + HEIGHT, 20 - right : 20 - right + WIDTH], reference, PLAN)
    assert tiled.details == cause.details, "the whole image's, not every tile's, where both explain it"
    if offset == (1, 0):
        assert cause.text == f"the output is the reference shifted 1 pixel down (undone: {cause.undone:.1f} dB)"
    if offset == (-2, 1):
        assert "shifted 2 pixels up and 1 pixel to the right" in cause.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: 255 * image, "times 255 (0 to 255 in place of 0 to 1)"),
        (lambda image: 2 * image - 1, "times 2 minus 1 (-1 to 1 in place of 0 to 1)"),
        (lambda image: 1 - image, "times -1 plus 1 (inverted)"),
        (lambda image: image + np.float32(0.013), "plus 0.013"),
        (lambda image: image * np.float32(0.9), "times 0.9"),
    ],
)
def test_gain_and_offset(change: Callable[[Image], Image], words: str) -> None:
    cause = named(change(picture()), picture())
    assert cause.kind == "gain"
    assert cause.text.startswith(f"the output is the reference {words} (undone: 1")


def test_gain_and_offset_of_each_channel() -> None:
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    cause = named((picture() - mean) / deviation, picture())
    assert cause.kind == "gain"
    assert cause.details["gain"] == pytest.approx((1 / deviation).tolist(), rel=1e-3)
    assert "the output's channels are the reference's 0 times 4.367 minus 2.118; 1 times" in cause.text
    # A single channel with an offset: what a lost bias looks like.
    image = picture()
    image[:, :, 1] += np.float32(0.02)
    assert "0 itself; 1 plus 0.02; 2 itself" in named(image, picture()).text


def test_clipped_and_rounded() -> None:
    image = picture()
    assert image.min() < 0 < 1 < image.max()
    clipped = diagnose(np.clip(image, 0, 1), image, (0.0, 1.0), WHOLE, threshold=90.0)
    assert [cause.text for cause in clipped] == [
        "the output is the reference clipped: no value is below 0 or above 1 (undone: equal)"
    ]
    samples = (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)
    (rounded,) = diagnose(samples, noisy(image), (0.0, 1.0), WHOLE, threshold=90.0)
    assert rounded.kind == "rounded"
    assert "rounded to 8 bits" in rounded.text


def test_one_value_everywhere() -> None:
    (cause,) = diagnose(np.zeros_like(picture()), picture(), (0.0, 1.0), WHOLE, threshold=90.0)
    assert (cause.kind, cause.text) == ("constant", "every value of the output is 0")


def joined(image: Image, change: Callable[[int, Image], Image], scale: int = 1, plan: Plan = PLAN) -> Image:
    """An image cut and joined as the runtime does it; `change(index, tile)` plants what is wrong in a tile."""
    tiles = []
    for index, (top, left) in enumerate(plan.tiles):
        rows, columns = (slice(start * scale, (start + 32) * scale) for start in (top, left))
        tiles.append(np.moveaxis(change(index, image[rows, columns]), 2, 0))
    bands = [band.copy() for _, band in blend(plan, tiles, scale)]
    return np.moveaxis(np.concatenate(bands, axis=1), 0, 2)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("offset", [(0, 1), (-1, 0), (2, -2)])
def test_a_shifted_tile(scale: int, offset: tuple[int, int]) -> None:
    image = picture(HEIGHT * scale, WIDTH * scale)
    index = 5
    top, left = PLAN.tiles[index]
    candidate = joined(image, lambda i, tile: np.roll(tile, offset, axis=(0, 1)) if i == index else tile, scale)
    cause = named(candidate, image, PLAN, scale=scale)
    columns = len(PLAN.columns.origins)
    assert cause.kind == "tile"
    assert cause.details == {
        "row": index // columns,
        "column": index % columns,
        "top": top,
        "left": left,
        "down": offset[0],
        "right": offset[1],
    }
    assert cause.text.startswith(f"the tile at row {top}, column {left} (tile {index % columns + 1} of row ")
    assert cause.undone is not None
    assert cause.undone > 100
    if offset == (0, 1):
        assert "is shifted 1 pixel to the right (undone: " in cause.text


def test_tiles_that_differ_otherwise() -> None:
    image = picture()

    def wrong(index: int, tile: Image) -> Image:
        return noisy(tile, 0.1) if index in (2, 6) else tile

    causes = found(joined(image, wrong), image, PLAN)
    assert [(cause.kind, cause.details["top"], cause.details["left"]) for cause in causes] == [
        ("tile", *PLAN.tiles[2]),
        ("tile", *PLAN.tiles[6]),
    ]
    assert "differs: 2" in causes[0].text
    assert "at least 11" in causes[0].text
    assert found(joined(image, lambda i, tile: noisy(tile, 0.1) if i % 3 == 0 else tile), image, PLAN) == ()


def test_every_tile_turned_by_itself() -> None:
    image = picture()
    cause = named(joined(image, lambda _, tile: tile[::-1, ::-1]), image, PLAN)
    assert (cause.kind, cause.details["each"]) == ("orientation", True)
    assert cause.text.startswith("every tile of the output is the reference rotated by 180 degrees (undone: 1")


def test_seams() -> None:
    """What lies outside of the part in which a tile is alone: a wrong blend."""
    image = picture(80, 96)
    plan = Plan(cut(80, 32, 16, 8), cut(96, 32, 16, 8))
    candidate = image.copy()
    for origin in plan.rows.origins[1:]:
        candidate[origin + 4 : origin + 12] *= np.float32(0.9)
    (cause,) = found(candidate, image, plan)
    assert cause.kind == "seams"
    assert "the difference lies where tiles meet" in cause.text
    assert cause.details["elsewhere"] > 110 > 60 > cause.details["borders"]


def test_values_that_are_not_finite() -> None:
    image = picture()
    index = 5
    top, left = PLAN.tiles[index]
    candidate = joined(image, lambda i, tile: tile * np.float32(math.nan if i == index else 1))
    cause = named(candidate, image, PLAN)
    assert cause.kind == "nonfinite"
    assert f"the 3072 NaN or infinite values all lie in the tile at row {top}, column {left} (tile " in cause.text
    assert cause.details["values"] == 32 * 32 * 3
    assert cause.details["tiles"] == [{"row": index // 4, "column": index % 4, "top": top, "left": left}]
    one = image.copy()
    one[3, 5, 1] = math.inf
    cause = named(one, image)
    assert cause.text == "the 1 NaN or infinite values lie between the output's rows 3 and 3, columns 5 and 5"
    assert "every pixel has" in named(np.full_like(image, np.nan), image).text
    # A broken reference is no fault of the candidate's.
    assert found(image, candidate, PLAN) == ()


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("plan", [WHOLE, PLAN])
@pytest.mark.parametrize("seed", range(2))
def test_noise_gets_no_name(size: float, plan: Plan, seed: int) -> None:
    image = picture(seed=seed)
    noise = np.random.default_rng(seed).normal(0, size, image.shape).astype(np.float32)
    for candidate in (image + noise, np.clip(image + noise, 0, 1), noise, picture(seed=seed + 100)):
        assert [cause for cause in found(candidate, image, plan) if cause.kind != "clipped"] == []


@pytest.mark.parametrize("seed", range(2))
def test_noise_that_follows_the_image_gets_no_name(seed: int) -> None:
    """Errors of networks are larger at edges, smooth, or an image of their own; none of that is a cause."""
    image, other = picture(seed=seed), picture(seed=seed + 50)
    y, x = np.mgrid[:HEIGHT, :WIDTH, :1][:2]
    shifts = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
    blurred = sum((np.roll(image, shift, axis=(0, 1)) for shift in shifts), np.zeros_like(image)) / 5
    for candidate in (
        image + 0.01 * (image - 0.5) ** 2,
        image + 0.02 * np.float32(np.sin(y / 9) * np.cos(x / 11)),
        image + 0.05 * (other - 0.5),
        blurred,
    ):
        for plan in (WHOLE, PLAN):
            assert found(candidate.astype(np.float32), image, plan) == ()


def test_what_passes_gets_no_name() -> None:
    image = picture()
    assert found(image, image) == ()
    assert found(image + np.float32(1e-5), image) == ()
    assert found(image[::-1], image, threshold=0.0) == ()


@pytest.mark.parametrize("side", [1, 3, 7])
def test_tiny_images_get_no_name(side: int) -> None:
    plan = Plan(cut(side, 8, 0, 8), cut(side, 8, 0, 8))
    assert found(picture(side, side)[::-1] + np.float32(0.3), picture(side, side), plan) == ()


def test_flat_images() -> None:
    flat = np.full((40, 48, 3), 0.5, np.float32)
    assert named(flat + np.float32(0.1), flat).text.startswith("the output is the reference plus 0.1 (undone")
    assert found(noisy(flat, 0.01), flat) == ()


def test_large_images_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = named(picture()[::-1], picture())
    monkeypatch.setattr(pattern, "_STRIP", 5 * WIDTH * 3)
    parts = named(picture()[::-1], picture())
    assert (whole.kind, whole.details) == (parts.kind, parts.details)
    assert whole.undone == pytest.approx(parts.undone)


@pytest.mark.parametrize("offset", [(0, 0), (7, -5), (-12, 31)])
def test_an_offset_beyond_the_search_window_is_estimated(offset: tuple[int, int]) -> None:
    scene = np.random.default_rng(3).random((200, 240, 3), np.float32)
    down, right = offset
    candidate, reference = scene[40 - down : 160 - down, 50 - right : 190 - right], scene[40:160, 50:190]
    assert geometry.find_offset(candidate, reference) == offset


@pytest.mark.filterwarnings("error")
def test_a_constant_image_has_no_offset() -> None:
    varied = np.random.default_rng(0).random((40, 40, 3), np.float32)
    assert geometry.find_offset(np.full_like(varied, 0.5), np.full_like(varied, 0.25)) == (0, 0)
    assert max(map(abs, geometry.find_offset(np.full_like(varied, varied.mean()), varied))) <= 2
