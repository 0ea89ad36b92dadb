"""Images that are no ordinary NumPy arrays, and images for which memory does not suffice."""

from __future__ import annotations

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
from keygraph.runtime.preprocess.request import as_array
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
        restorer([[1, 2], [3]])  # type: ignore[arg-type]
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


@pytest.mark.parametrize("mode", ["P", "YCbCr", "HSV", "LAB", "CMYK"])
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
