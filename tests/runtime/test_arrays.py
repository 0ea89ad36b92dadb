"""Images that are no ordinary NumPy arrays, and images for which memory does not suffice."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.manifest import ExtraInput, Manifest
from keygraph.runtime.notices import KeygraphWarning
from keygraph.runtime.preprocess.arrays import as_array
from keygraph.runtime.restorer import Restorer

ModelFile = Callable[..., Path]


@pytest.fixture
def restorer(make_model: ModelFile) -> Restorer:
    return keygraph.load(make_model("identity"), library=None)


def test_what_numpy_reads_is_an_image(restorer: Restorer) -> None:
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((20, 30, 3), np.float32)
    np.testing.assert_array_equal(restorer(torch.from_numpy(image)), image)
    np.testing.assert_array_equal(restorer(torch.from_numpy(image).half()), image.astype(np.float16))


@pytest.mark.parametrize(
    "change",
    [
        "bfloat16()",
        "requires_grad_()",
        "to_sparse()",
        "to('meta')",
        "to(torch.float8_e4m3fn)",
    ],
)
def test_tensors_that_numpy_cannot_read(restorer: Restorer, change: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = eval(f"tensor.{change}", {"tensor": torch.rand(8, 8, 3), "torch": torch})
    with pytest.raises(
        InputError, match=r"the image is a torch\.Tensor .*tensor\.detach\(\)\.float\(\)\.cpu\(\)"
    ) as said:
        restorer(tensor)
    assert "\n" not in str(said.value)


def test_a_tensor_on_a_gpu() -> None:
    class OnGpu:
        """Raises what PyTorch raises for tensors on a GPU."""

        def __array__(self, *_: Any, **__: Any) -> Any:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy\nmore")

    with pytest.raises(InputError, match=r"the mask is a .*OnGpu that NumPy cannot read .can't convert cuda:0") as said:
        as_array(OnGpu(), "mask")
    assert "\n" not in str(said.value)


def test_arrays_of_other_types(restorer: Restorer, make_model: ModelFile) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pixels = np.ones((8, 8, 3), np.float32)
    with pytest.raises(InputError, match="type is bfloat16; it must be uint8, uint16, float16, float32 or float64"):
        restorer(pixels.astype(ml_dtypes.bfloat16))
    with pytest.raises(InputError, match="the image is a masked array, and its mask would be lost"):
        restorer(np.ma.masked_equal(pixels, 1))
    with pytest.raises(InputError, match=r"the image is a builtins\.list that NumPy cannot read"):
        restorer([[1, 2], [3]])
    masked = keygraph.load(make_model("masked", extra_inputs=(ExtraInput("mask", 1),)), library=None)
    with pytest.raises(InputError, match="the mask's type is bfloat16; it must hold real numbers"):
        masked(pixels, inputs={"mask": np.ones((8, 8), ml_dtypes.bfloat16)})


def test_memory_that_does_not_suffice_for_the_result(make_model: ModelFile) -> None:
    code = f"""
        import resource, numpy as np, keygraph
        restorer = keygraph.load({str(make_model("nearest", scale=4))!r}, library=None, threads=1)
        image = np.zeros((3000, 3000, 3), np.float64)
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        try:
            restorer(image)
        except keygraph.KeygraphError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("out of memory (Unable to allocate 3.22 GiB")
    assert "for an image of 3000 x 3000 x 3; free memory, restore a part of the image" in run.stdout
    assert run.stdout.count("\n") == 1


def test_memory_that_does_not_suffice_for_a_batch_is_retried_with_less(make_manifest: Callable[..., Manifest]) -> None:
    class Small:
        description = "small"
        manifest = make_manifest()

        def run(self, images: Any, k: int | None, *extras: Any) -> Any:
            if len(images) > 1:
                raise MemoryError  # Python's own has no words
            return images

    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    restored = Restorer(Small()).restore(image, tile=32, batch=2)
    np.testing.assert_array_equal(restored.image, image)
    assert restored.notices == ("out of memory with 2 tiles of 32 x 32 together: went on with 1",)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "CMYK"])
def test_pil_images_that_are_neither_gray_nor_rgb_are_refused(mode: str) -> None:
    image = pytest.importorskip("PIL.Image").new(mode, (4, 3))
    with pytest.raises(InputError, match="convert it to RGB"):
        as_array(image, "image")


@pytest.mark.parametrize("mode", ["L", "I;16", "F", "RGB"])
def test_pil_images_of_gray_levels_and_rgb_are_taken(mode: str) -> None:
    assert as_array(pytest.importorskip("PIL.Image").new(mode, (4, 3)), "image").shape[:2] == (3, 4)


def test_a_quantized_tensor_is_advised_to_be_dequantized() -> None:
    torch = pytest.importorskip("torch")
    quantized = torch.quantize_per_tensor(torch.zeros(3, 4), 0.1, 0, torch.quint8)
    with pytest.raises(InputError, match=r"tensor\.dequantize\(\)\.cpu\(\)\.numpy\(\)"):
        as_array(quantized, "image")


@pytest.mark.parametrize("layout", ["HWC", "CHW", "NHWC", "NCHW"])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_result_has_the_layout_of_its_image(make_model: ModelFile, layout: str, alpha: bool) -> None:
    restorer = keygraph.load(make_model("nearest", scale=2), library=None)
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3 + alpha), dtype=np.uint8)

    def arranged(batch: Any) -> Any:
        moved = np.moveaxis(batch, 3, 1) if "CH" in layout else batch
        return moved if "N" in layout else moved[0]

    with pytest.warns(KeygraphWarning, match="alpha resampled") if alpha else contextlib.nullcontext():
        restored = restorer(arranged(images), layout=layout, alpha=alpha)
    expected = arranged(images.repeat(2, axis=1).repeat(2, axis=2))
    assert restored.shape == expected.shape
    assert restored.dtype == np.uint8
    colours = arranged(np.broadcast_to([True, True, True, False][: 3 + alpha], (2, 40, 60, 3 + alpha)))
    np.testing.assert_array_equal(restored[colours], expected[colours])


def test_alpha_is_kept(restorer: Restorer) -> None:
    image = np.random.default_rng(0).random((20, 30, 4), np.float32).astype(np.float16)
    np.testing.assert_array_equal(restorer(image, alpha=True, tile=16), image)
    with pytest.raises(InputError, match=r"4 channels .*; if the last channel is alpha, give alpha=True"):
        restorer(image)  # Infrared, perhaps.
    with pytest.raises(InputError, match=r"4 channels \(alpha apart\), but the model takes 3 channels$"):
        restorer(np.zeros((8, 8, 5)), alpha=True)
    with pytest.raises(InputError, match="no channel beside its alpha"):
        restorer(image[:, :, 0], alpha=True)
    gray = restorer(image[:, :, :2], alpha=True)
    np.testing.assert_allclose(gray.astype(float), image[:, :, :2].astype(float), atol=1e-3)


def test_inputs_have_the_layout_too(make_model: ModelFile) -> None:
    masked = keygraph.load(make_model("masked", extra_inputs=(ExtraInput("mask", 3),)), library=None)
    rng = np.random.default_rng(0)
    images, masks = rng.random((2, 2, 3, 16, 24), np.float32)
    np.testing.assert_allclose(masked(images, inputs={"mask": masks}, layout="NCHW"), images * masks, atol=1e-6)
    one = keygraph.load(make_model("masked", extra_inputs=(ExtraInput("mask", 1),)), library=None)
    plane = masks[0, 0]
    np.testing.assert_allclose(one(images, inputs={"mask": plane}, layout="NCHW"), images * plane, atol=1e-6)
    with pytest.raises(InputError, match=r"the mask has shape \(1, 3, 16, 24\).*another number of images"):
        masked(images, inputs={"mask": masks[:1]}, layout="NCHW")


def test_progress_of_a_batch_is_that_of_all_its_images(restorer: Restorer) -> None:
    seen: list[tuple[int, int]] = []
    images = np.zeros((2, 32, 32, 3), np.uint8)
    restorer(images, layout="NHWC", tile=16, overlap=0, batch=2, progress=lambda *of: seen.append(of))
    assert seen == [(2, 8), (4, 8), (6, 8), (8, 8)]


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((3, 20, 30), "HWC", r'shape is \(3, 20, 30\): if that is channels, height, width, give layout="CHW"'),
        ((2, 20, 30, 3), "HWC", r'shape \(2, 20, 30, 3\); give \[H, W\] or \[H, W, C\], or say layout="NHWC"'),
        ((20, 30), "CHW", "has not the axes of the layout CHW"),
        ((20, 30, 3), "NCHW", "has not the axes of the layout NCHW"),
        ((0, 20, 30, 3), "NHWC", "no image"),
        ((20, 30, 3), "chw", "the layout is 'chw'; give one of HWC, CHW, NHWC, NCHW"),
        ((20, 30, 3), "CHW", "the image has 20 channels"),
        ((8,), "HWC", r"shape \(8,\); give \[H, W\]"),
    ],
)
def test_layouts_that_do_not_fit(restorer: Restorer, shape: tuple[int, ...], layout: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        restorer(np.zeros(shape, np.uint8), layout=layout)


def test_pictures_of_pil_become_colours(restorer: Restorer) -> None:
    pil = pytest.importorskip("PIL.Image")
    colours = np.random.default_rng(0).integers(0, 4, (12, 10, 3), dtype=np.uint8) * 85
    rgb = pil.fromarray(colours)
    palette = rgb.convert("RGB").quantize(64)
    np.testing.assert_array_equal(restorer(palette), np.asarray(palette.convert("RGB")))
    palette.info["transparency"] = 0
    with_alpha = restorer(palette)
    np.testing.assert_array_equal(with_alpha, np.asarray(palette.convert("RGBA")))
    assert set(np.unique(with_alpha[:, :, 3])) == {0, 255}
    for mode in ("RGBA", "LA"):
        image = rgb.convert(mode)
        image.putalpha(rgb.convert("L"))
        np.testing.assert_array_equal(restorer(image), np.asarray(image))
    bits = rgb.convert("1")
    np.testing.assert_array_equal(restorer(bits), np.asarray(bits).astype(np.uint8) * 255)
    deep = np.arange(120, dtype=np.uint16).reshape(12, 10) * 500
    np.testing.assert_array_equal(restorer(pil.fromarray(deep)), deep)
    rgb.info["transparency"] = tuple(colours[0, 0])
    assert restorer(rgb)[0, 0, 3] == 0
    with pytest.raises(InputError, match="is a PIL image, which has none"):
        restorer(rgb, layout="CHW")


class OnlyDlpack:
    """An array of another package, which NumPy reads by DLPack alone."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class OnlyInterface:
    """An array of another package, which NumPy reads by ``__array_interface__`` alone."""

    def __init__(self, values: Any) -> None:
        self.values, self.__array_interface__ = values, values.__array_interface__


@pytest.mark.parametrize("kind", [OnlyDlpack, OnlyInterface])
def test_arrays_of_other_packages(restorer: Restorer, kind: Callable[[Any], Any]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    restored = restorer(kind(image))
    assert type(restored) is np.ndarray
    np.testing.assert_array_equal(restored, image)


class OnGpu:
    """An array on a GPU as far as its protocol says; a method of the given name copies it. None was tried."""

    def __init__(self, values: Any, method: str) -> None:
        self.__cuda_array_interface__ = {"shape": values.shape, "typestr": values.dtype.str, "version": 3}
        setattr(self, method, lambda: values)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


@pytest.mark.parametrize("method", ["get", "cpu", "copy_to_host"])
def test_arrays_on_a_gpu_are_copied(restorer: Restorer, method: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    np.testing.assert_array_equal(restorer(OnGpu(image, method)), image)
    with pytest.raises(InputError, match="on a GPU, and has none of the methods get, cpu and copy_to_host"):
        restorer(OnGpu(image, "numpy"))
