"""Requests: inputs and results as the manifest describes them, tiled and whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keygraph.errors import InputError
from keygraph.manifest import ExtraInput, Manifest
from keygraph.runtime.notices import KeygraphWarning
from keygraph.runtime.preprocess.normalization import result_type
from keygraph.runtime.restorer import Restorer

torch = pytest.importorskip("torch")

from keygraph.runtime.backends.pytorch import TorchSession  # noqa: E402

MakeManifest = Callable[..., Manifest]
Array = np.ndarray[Any, Any]
BANDS, STEP = 3, 2
MARGIN = (1, STEP * (BANDS - 1))


def random(*shape: int, dtype: Any = np.float32) -> Array:
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


class Dispersed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Bands from a measurement and a mask, each from its own columns: a snapshot compressive imager."""

    def forward(self, image, mask, offset):  # type: ignore[no-untyped-def]
        assert image.shape[2:] == (mask.shape[2] + 1, mask.shape[3] + MARGIN[1])
        assert offset.shape[2:] == (mask.shape[2], mask.shape[3] + 1)
        bands = [image[:, :, 1:, STEP * band : STEP * band + mask.shape[3]] for band in range(BANDS)]
        return torch.cat(bands, 1) * mask + offset[:, :, :, 1:]


def dispersed(image: Array, mask: Array, offset: Array) -> Array:
    """The same in NumPy, on arrays as users give them."""
    bands = [image[1:, STEP * band : STEP * band + mask.shape[1]] for band in range(BANDS)]
    return np.stack(bands, axis=2) * mask[:, :, None] + offset[:, 1:]


@pytest.fixture
def imager(make_manifest: MakeManifest) -> Callable[..., Restorer]:
    def make(**changes: Any) -> Restorer:
        manifest = make_manifest(
            **{
                "in_channels": 1,
                "out_channels": BANDS,
                "size_multiple": 4,
                "normalisation": "none",
                "margin": MARGIN,
                "extra_inputs": (ExtraInput("mask", 1), ExtraInput("offset", BANDS, (0, 1))),
                "wavelengths": (450.0, 550.0, 650.0),
            }
            | changes
        )
        return Restorer(TorchSession(Dispersed(), manifest))

    return make


def measurement(height: int, width: int) -> tuple[Array, dict[str, Array]]:
    image = 100 * random(height + MARGIN[0], width + MARGIN[1]) - 20
    return image, {"mask": random(height, width), "offset": random(height, width + 1, BANDS)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile=st.integers(1, 5),
    overlap=st.integers(0, 2),
    batch=st.integers(1, 5),
)
def test_inputs_and_margins_are_cut_at_the_same_place(
    imager: Callable[..., Restorer], height: int, width: int, tile: int, overlap: int, batch: int
) -> None:
    image, inputs = measurement(height, width)
    restored = imager().restore(image, inputs=inputs, tile=4 * tile, overlap=4 * min(overlap, tile // 2), batch=batch)
    # Blending weights add up to 1 up to rounding; where nothing is blended, results must be equal.
    np.testing.assert_allclose(restored.image, dispersed(image, **inputs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [(3, 5), (16, 24), (40, 50)])
def test_a_fixed_shape_speaks_of_the_results_size(imager: Callable[..., Restorer], size: tuple[int, int]) -> None:
    image, inputs = measurement(*size)
    restored = imager(shape=(2, 16, 24)).restore(image, inputs=inputs)
    assert (restored.plan.rows.tile, restored.plan.columns.tile) == (16, 24)
    np.testing.assert_allclose(restored.image, dispersed(image, **inputs), rtol=1e-5, atol=1e-4)


def test_what_lacks_or_does_not_belong_is_named(imager: Callable[..., Restorer]) -> None:
    restorer, (image, inputs) = imager(), measurement(8, 12)
    mask, offset = inputs["mask"], inputs["offset"]
    nan = np.where(np.arange(12) == 5, np.nan, mask)
    for wrong, message in (
        (
            {},
            "takes mask and offset beside the image, and mask and offset are missing; give --input mask=FILE --inp",
        ),
        ({"mask": mask}, r"offset is missing; give --input offset=FILE \(in Python: inputs=\{'offset'"),
        ({**inputs, "musk": mask}, "has no input musk; it takes mask and offset beside the image"),
        ({**inputs, "image": image}, "has no input image"),
        ({**inputs, "mask": mask[:, 1:]}, r"mask is 8 x 11 \(.*but for an image of 9 x 16 .* it must be 8 x 12"),
        ({**inputs, "mask": np.repeat(mask[..., None], 3, 2)}, "mask is 8 x 12 .* with 3 channels"),
        ({**inputs, "offset": offset[..., 0]}, "offset is 8 x 13 .* with 1 channel, .* with 3 channels"),
        ({**inputs, "mask": nan}, "the mask holds NaN"),
        ({**inputs, "mask": mask * 1j}, "the mask's type is complex64"),
        ({**inputs, "mask": mask[None, None]}, "the mask has shape"),
        ({**inputs, "mask": mask[:0]}, "the mask is empty"),
    ):
        with pytest.raises(InputError, match=message):
            restorer(image, inputs=wrong)
    for bad, message in (
        (image[:, :4], r"9 x 4 \(height x width\), but this model's images are 1 x 4 larger .* at least 2 x 5"),
        (np.where(image > 40, np.inf, image), "the image holds NaN or infinity"),
        (image.astype(np.complex64), "the image's type is complex64"),
        (np.repeat(image[..., None], 3, 2), "has 3 channels .* but the model takes 1 channel"),
    ):
        with pytest.raises(InputError, match=message):
            restorer(bad, inputs=inputs)


def test_a_model_without_inputs_says_so(make_manifest: MakeManifest) -> None:
    restorer = Restorer(TorchSession(torch.nn.Identity(), make_manifest()))
    with pytest.raises(InputError, match="has no input mask; it takes nothing beside the image"):
        restorer(random(8, 8, 3), inputs={"mask": random(8, 8)})


def test_a_mask_that_was_saved_as_a_picture_goes_to_one(imager: Callable[..., Restorer]) -> None:
    image, inputs = measurement(8, 12)
    open_or_not = inputs["mask"] > 0.5
    expected = dispersed(image, open_or_not.astype(np.float32), inputs["offset"])
    for mask, said in (
        (open_or_not, ()),
        (open_or_not.astype(np.uint8), ()),
        (open_or_not.astype(np.uint8) * np.uint8(255), ("mask: integers up to 255 divided by 255",)),
    ):
        restored = imager().restore(image, inputs={**inputs, "mask": mask})
        np.testing.assert_allclose(restored.image, expected, rtol=1e-5, atol=1e-4)
        assert restored.notices == said


class Seen(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Returns its input, and records its range."""

    def __init__(self) -> None:
        super().__init__()
        self.least, self.largest = np.inf, -np.inf

    def forward(self, image):  # type: ignore[no-untyped-def]
        self.least = min(self.least, float(image.min()))
        self.largest = max(self.largest, float(image.max()))
        return image


NUMBERS = (-3.0, 40.0)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("none", lambda x: x),
        ("range", lambda x: (x - x.min()) / (x.max() - x.min())),
        ("peak", lambda x: np.maximum(x, 0) / x.max() * 0.8),
    ],
)
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("tile", [8, "none"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint16", "int32", "uint8"])
def test_normalisation_is_of_the_whole_image(
    make_manifest: MakeManifest, way: str, expected: Any, value_range: tuple[float, float], tile: Any, dtype: str
) -> None:
    model = Seen()
    manifest = make_manifest(normalisation=way, gain=0.8, value_range=value_range)
    rows, columns = np.mgrid[0:30, 0:20]
    # The extremes are in two corners, so that few tiles have both.
    image = np.repeat((rows * 20 + columns)[..., None], 3, axis=2).astype(dtype) // (4 if dtype == "uint8" else 1)
    image = image - 300 if np.dtype(dtype).kind in "fi" else image
    low, high = value_range
    restored = Restorer(TorchSession(model, manifest)).restore(image, tile=tile, overlap=0)
    wanted = expected(image.astype(np.float64))
    assert (model.least, model.largest) == pytest.approx(
        (wanted.min() * (high - low) + low, wanted.max() * (high - low) + low), rel=1e-6, abs=1e-5
    )
    if restored.image.dtype.kind == "f":
        np.testing.assert_allclose(restored.image, wanted, rtol=1e-5, atol=1e-4)
    assert restored.image.dtype == (dtype if dtype != "int32" else "float32")


@pytest.mark.parametrize(
    ("way", "image", "said"),
    [
        ("range", np.full((9, 9, 3), 77, np.uint8), "every sample of the image is 77"),
        ("peak", np.zeros((9, 9, 3)), "no sample of the image is above 0"),
        ("peak", np.full((9, 9, 3), -2.0), "no sample of the image is above 0"),
    ],
)
def test_an_image_without_a_range_goes_in_as_black_and_that_is_said(
    make_manifest: MakeManifest, way: str, image: Array, said: str
) -> None:
    restorer = Restorer(TorchSession(torch.nn.Identity(), make_manifest(normalisation=way)))
    with pytest.warns(KeygraphWarning, match=said):
        np.testing.assert_array_equal(restorer(image), np.zeros_like(image))


class Half(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two views of three channels to one picture: left - right / 2."""

    def forward(self, image):  # type: ignore[no-untyped-def]
        return image[:, :3] - image[:, 3:] / 2


@pytest.fixture
def stereo(make_manifest: MakeManifest) -> Restorer:
    manifest = make_manifest(in_channels=6, views=("left", "right"), clamp=(0.0, 1.0))
    return Restorer(TorchSession(Half(), manifest))


@pytest.mark.parametrize("dtype", ["uint16", "uint8", "float32"])
def test_two_views_make_one_picture_of_their_type(stereo: Restorer, dtype: str) -> None:
    left, right = random(30, 21, 3, dtype=dtype), random(30, 21, 3, dtype=dtype)[::-1]
    restored = stereo(left, inputs={"right": right}, tile=16)
    assert restored.dtype == left.dtype
    expected = np.maximum(left.astype(np.float64) - right / 2, 0)
    np.testing.assert_allclose(restored, expected, rtol=0, atol=0.51 if dtype != "float32" else 1e-6)


def test_views_that_do_not_go_together(stereo: Restorer) -> None:
    left = random(30, 21, 3, dtype=np.uint16)
    gray = left[:, :, 0]
    for image, inputs, message in (
        (left, {}, "takes right beside the image, and right is missing; give --input right=FILE"),
        (left, {"left": left, "right": left}, "no input left; it takes right beside the image, which is the left view"),
        (left, {"right": left[1:]}, r"the right view is 29 x 21 .* the image \(left\) is 30 x 21"),
        (left, {"right": gray}, "with 1 channel, but the image"),
        (left, {"right": (left // 256).astype(np.uint8)}, "the right view is uint8, but the image uint16"),
        (gray, {"right": gray}, "1 channel .* takes 3 channels of each of left and right"),
    ):
        with pytest.raises(InputError, match=message):
            stereo(image, inputs=inputs)


def test_floats_are_cut_to_the_clamp_too(make_manifest: MakeManifest) -> None:
    image = np.linspace(-1, 2, 64 * 3, dtype=np.float32).reshape(8, 8, 3)
    for value_range, clamp, expected in (
        ((0.0, 1.0), (0.0, 1.0), np.clip(image, 0, 1)),
        ((-1.0, 1.0), (-1.0, 1.0), np.clip(image, 0, 1)),
        ((0.0, 1.0), None, image),
    ):
        manifest = make_manifest(value_range=value_range, clamp=clamp)
        restored = Restorer(TorchSession(torch.nn.Identity(), manifest))(image)
        np.testing.assert_allclose(restored, expected, atol=1e-6)


class Bands(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Bands that are -1 to 2 times the picture's first channel."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.factors = torch.nn.Parameter(torch.linspace(-1, 2, bands)[:, None, None])

    def forward(self, image):  # type: ignore[no-untyped-def]
        return image[:, :1] * self.factors


@pytest.mark.parametrize(("bands", "wavelengths"), [(31, tuple(range(400, 701, 10))), (3, (450, 550, 650)), (5, ())])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_spectra_are_float32_whatever_they_are_made_from(
    make_manifest: MakeManifest, bands: int, wavelengths: tuple[float, ...], dtype: str
) -> None:
    manifest = make_manifest(out_channels=bands, wavelengths=wavelengths, clamp=(0.0, 1.0))
    image = random(10, 12, 3, dtype=dtype)
    restored = Restorer(TorchSession(Bands(bands), manifest)).restore(image, tile=8, overlap=0).image
    assert (restored.dtype, restored.shape) == (np.dtype(np.float32), (10, 12, bands))
    white = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    expected = np.clip(image[..., :1].astype(np.float64) / white * np.linspace(-1, 2, bands), 0, 1)
    np.testing.assert_allclose(restored, expected, atol=1e-6)
    assert result_type(make_manifest(out_channels=4), np.dtype(dtype)) == dtype
    with pytest.raises(InputError, match=r"1 channel .* but the model takes 3"):
        Restorer(TorchSession(Bands(bands), manifest)).restore(image[..., 0])


def test_a_measurement_of_one_channel_gives_all_bands(imager: Callable[..., Restorer]) -> None:
    image, inputs = measurement(8, 8)
    assert imager()(image, inputs=inputs).shape == imager()(image[..., None], inputs=inputs).shape == (8, 8, BANDS)
