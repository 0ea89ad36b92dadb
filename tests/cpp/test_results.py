"""The C++ runtime gives what the Python runtime gives, from the same files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from exported import ExportStore
from keygraph.models.mst import MSTConfig
from keygraph.models.restormer import RestormerConfig
from keygraph.runtime.restored import Restored
from numpy.typing import NDArray
from restore_stream import CppRestored, CppRestorer
from tiny_kgt import Tiny

ModelFile = Callable[..., Path]
Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = Path(__file__).parents[2] / "examples"
RESTORMER: dict[str, Any] = {"channels": 8, "blocks": (1, 1, 1, 1), "refinement_blocks": 1, "heads": (1, 1, 2, 2)}
TYPES = ("uint8", "uint16", "float32")

#: The tolerance that is promised, of white. Sums are in the same order, so that results are usually equal.
TOLERANCE = 1e-6

sys.path.insert(0, str(EXAMPLES))
from photos import add_noise, unseen_photo  # noqa: E402


def samples(shape: tuple[int, ...], kind: str = "uint8", seed: int = 0) -> Array:
    values = np.random.default_rng([seed, *shape]).random(shape)
    dtype = np.dtype(kind)
    return (values * np.iinfo(dtype).max).round().astype(dtype) if dtype.kind == "u" else values.astype(dtype)


def assert_equal(restored: CppRestored, expected: Restored) -> None:
    """The same image, computed in the same way, with the same notices."""
    image = expected.image
    assert (restored.image.dtype, restored.image.shape) == (image.dtype, image.shape)
    white = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    np.testing.assert_allclose(
        restored.image.astype(float) / white, image.astype(float) / white, rtol=0, atol=TOLERANCE
    )
    assert (restored.tiles, restored.tile, restored.overlap) == (
        len(expected.plan.tiles),
        expected.tile,
        expected.overlap,
    )
    assert (restored.k, restored.batch, restored.padded) == (expected.k or 0, expected.batch, expected.padded)
    assert restored.reported == restored.tiles
    blended = [line for line in restored.notices if not line.startswith("tiles are not exact")]
    assert blended == list(expected.notices)


def compare(
    program: Path,
    model: Path,
    *images: Array,
    inputs: Mapping[str, Array] | None = None,
    options: Mapping[str, Any] | None = None,
    **of_python: Any,
) -> None:
    """Restore each image on both sides; `of_python` are options that the C++ runtime does not have."""
    options = options or {}
    with keygraph.load(model, threads=1) as python, CppRestorer(program, model) as cpp:
        for image in images:
            expected = python.restore(image, inputs=inputs, **options, **of_python)
            assert_equal(cpp.restore(image, inputs=inputs, **options), expected)


@pytest.mark.slow  # Its export takes most of the time.
def test_the_demo_photo(program: Path, exports: ExportStore) -> None:
    model = exports.get(EXAMPLES / "kgt-denoise-tiny.ckpt", "demo").onnx
    noisy = add_noise(unseen_photo(), 25, seed=1)
    compare(program, model, noisy, (noisy / 255).astype(np.float32))
    compare(program, model, noisy.astype(np.uint16) * 257, options={"tile": 128, "overlap": 32, "k": 16})


def test_a_hundred_odd_sizes(program: Path, tiny: Tiny) -> None:
    random = np.random.default_rng(0)
    sizes = [(1, 1), (1, 2), (2, 1), (1, 90), (70, 1), (3, 5), *random.integers(1, 80, (94, 2)).tolist()]
    with keygraph.load(tiny.onnx, threads=1) as python, CppRestorer(program, tiny.onnx) as cpp:
        for number, (height, width) in enumerate(sizes):
            image = samples((height, width, 3)[: 2 + (number % 4 > 0)], TYPES[number % 3])
            options: dict[str, Any] = {"k": number % 40 + 1}
            if number % 2:
                options |= {
                    "tile": (16, 24, 32)[number % 3],
                    "overlap": (0, 8)[number // 2 % 2],
                    "batch": number % 5 + 1,
                }
            assert_equal(cpp.restore(image, **options), python.restore(image, **options))


@pytest.mark.parametrize("library", ["auto", None])
def test_with_the_operators_and_with_the_functions_in_the_file(program: Path, tiny: Tiny, library: str | None) -> None:
    image = samples((40, 50, 3))
    with (
        keygraph.load(tiny.onnx, library=library, threads=2) as python,
        CppRestorer(program, tiny.onnx, library, threads=2) as cpp,
    ):
        assert_equal(cpp.restore(image), python.restore(image))
        assert cpp.description == python.description
        assert cpp.notices == ()


def test_a_restormer_whole_and_in_tiles(program: Path, exports: ExportStore) -> None:
    model = exports.get(RestormerConfig(**RESTORMER), "restormer").onnx
    compare(program, model, *(samples((37, 45, 3), kind) for kind in TYPES), samples((1, 1, 3)))
    tiles = {"tile": 32, "overlap": 16}
    compare(program, model, samples((70, 45, 3)), options=tiles, global_statistics="tile")


def test_an_mst_with_its_mask(program: Path, exports: ExportStore) -> None:
    model = exports.get(MSTConfig(bands=4, channels=4, blocks=(1, 1)), "mst").onnx
    for height, width in ((31, 35), (1, 1), (64, 48)):
        measurement = 3 * samples((height, width + 6), "float32")
        for kind in TYPES:
            mask = samples((height, width), kind)
            compare(program, model, measurement, inputs={"mask": mask})
        tiles = {"tile": 32, "overlap": 16}
        compare(program, model, measurement, inputs={"mask": mask}, options=tiles, global_statistics="tile")


def test_spectra_of_pictures(program: Path, make_model: ModelFile) -> None:
    wavelengths = tuple(400.0 + 10 * band for band in range(5))
    model = make_model("bands", out_channels=5, normalisation="range", wavelengths=wavelengths)
    compare(program, model, *(samples((20, 27, 3), kind) for kind in TYPES), np.full((9, 9, 3), 7, np.uint8))


@pytest.mark.parametrize("kind", TYPES)
def test_two_views(program: Path, make_model: ModelFile, kind: str) -> None:
    model = make_model("blur", in_channels=6, out_channels=6, views=("left", "right"))
    left, right = samples((21, 29, 3), kind), samples((21, 29, 3), kind, seed=1)
    compare(program, model, left, inputs={"right": right})


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 2},
        {"scale": 3, "size_multiple": 4, "smallest": 12},
        {"value_range": (-1.0, 1.0)},
        {"value_range": (0.0, 255.0), "clamp": (20.0, 200.0)},
        {"normalisation": "range"},
        {"normalisation": "peak", "gain": 0.8, "clamp": (0.0, 0.5)},
        {"normalisation": "none"},
        {"shape": (2, 16, 24)},
        {"shape": (3, 32, 32), "tiling": {"tile": 32, "overlap": 16, "psnr": 90.0}},
        {"tiling": {"tile": 48, "overlap": 24, "psnr": 90.0}},
        {"global_statistics": True},
    ],
    ids=str,
)
def test_what_a_manifest_says(program: Path, make_model: ModelFile, changes: dict[str, Any]) -> None:
    model = make_model("nearest" if changes.get("scale") else "blur", **changes)
    images = [samples(shape, kind) for shape in ((5, 7, 3), (50, 70, 3), (20, 33)) for kind in TYPES]
    compare(program, model, *images)
    if not changes.get("shape"):
        compare(program, model, *images, options={"tile": 24, "overlap": 8}, **of_tiles(changes))


def of_tiles(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {"global_statistics": "tile"} if changes.get("global_statistics") else {}


def test_large_images_are_tiled_and_batched(program: Path, make_model: ModelFile) -> None:
    compare(program, make_model("blur"), samples((530, 500, 3)), samples((1, 300_000, 3)))


def test_colour_through_a_gray_model(program: Path, make_model: ModelFile) -> None:
    for shape in (None, (2, 16, 16)):
        compare(program, make_model("blur", in_channels=1, out_channels=1, shape=shape), samples((50, 70, 3), "uint16"))


def test_k_is_an_input_and_outside_of_training_noticed(program: Path, make_model: ModelFile) -> None:
    neighbours = {"default": 64, "maximum": 256, "trained": (64, 128), "runtime": True}
    model = make_model("add_k", neighbours=neighbours)
    for k in (None, 1, 64, 256):
        compare(program, model, samples((8, 8, 3), "float32"), samples((8, 8, 3)), options={"k": k})
    fixed = {"default": 64, "maximum": 256, "trained": (), "runtime": False}
    compare(program, make_model("identity", neighbours=fixed), samples((8, 8, 3)), options={"k": 64})


def test_half_precision_images(program: Path, tmp_path: Path, make_manifest: Callable[..., Any]) -> None:
    """Every exponent of float16, subnormal and too large, rounds as in NumPy."""
    import onnx
    from keygraph.manifest import IMAGE_INPUT, IMAGE_OUTPUT, METADATA_KEY
    from onnx import TensorProto, helper

    half = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, None) for name in (IMAGE_INPUT, IMAGE_OUTPUT)]
    half[0] = helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.FLOAT16, ["b", 3, "h", "w"])
    node = helper.make_node("Identity", [IMAGE_INPUT], [IMAGE_OUTPUT])
    model = helper.make_model(
        helper.make_graph([node], "half", half[:1], half[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    manifest = make_manifest(precision="fp16", normalisation="none")
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, tmp_path / "half.onnx")
    random = np.random.default_rng(0)
    exponents = random.integers(-28, 15, (64, 64, 3))
    values = np.ldexp(random.choice([-1.0, 1.0], exponents.shape) * (1 + random.random(exponents.shape)), exponents)
    values[0] = np.ldexp(random.integers(0, 4096, (64, 3)) / 2, -25)  # Ties among subnormal numbers.
    values[1] = (2048 + random.integers(0, 2048, (64, 3))) / 1024  # Ties among normal ones.
    compare(program, tmp_path / "half.onnx", values.astype(np.float32))
