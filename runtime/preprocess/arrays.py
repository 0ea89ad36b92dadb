"""Images as programs have them: arrays of any package and layout, with alpha or without, and PIL images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from ...manifest import IMAGE_INPUT

#: Orders of the axes: height, width, channels, and the images of a batch.
LAYOUTS = ("HWC", "CHW", "NHWC", "NCHW")

#: Modes of PIL images whose arrays are gray levels or RGB, with alpha or without. YCbCr and others have other axes.
_PIL_MODES = ("L", "LA", "I", "F", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class GivenImages:
    """Images that a user gave as one object.

    Attributes
    ----------
    images
        [H, W] (gray) or [H, W, C] each, without alpha.
    alphas
        [H, W] of each image; empty where they have none.
    inputs
        The model's other inputs of each image.
    layout
        One of `LAYOUTS`.
    """

    images: tuple[NDArray[Any], ...]
    alphas: tuple[NDArray[Any], ...]
    inputs: tuple[Mapping[str, NDArray[Any]], ...]
    layout: str

    def joined(self, restored: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], tuple[str, ...]]:
        """Return the restored images in the layout and with the alpha of the given ones, and notices about alpha.

        Parameters
        ----------
        restored
            [h, w] or [h, w, C] for each of `images`.
        """
        notices: tuple[str, ...] = ()
        if self.alphas:
            pairs = zip(self.images, self.alphas, restored, strict=True)
            results, lines = zip(*(_with_alpha(*pair) for pair in pairs), strict=True)
            restored, notices = results, tuple(dict.fromkeys(line for of_one in lines for line in of_one))
        arranged = [np.moveaxis(one, 2, 0) if "CH" in self.layout else one for one in restored]
        return np.stack(arranged) if "N" in self.layout else np.ascontiguousarray(arranged[0]), notices


def given_images(
    image: ArrayLike, inputs: Mapping[str, ArrayLike] | None = None, layout: str = "HWC", alpha: bool = False
) -> GivenImages:
    """Return the images of an object that a user gave, and the model's other inputs, as arrays.

    Parameters
    ----------
    image
        In the layout: an array, or whatever else `as_array` takes. A gray image may be [H, W] in the layout HWC.
    inputs
        The other inputs by name, in the layout, with a batch where the image has one; or [H, W] for all images.
    layout
        One of `LAYOUTS`.
    alpha
        True when the last channel is alpha. That of a PIL image is known without this.

    Raises
    ------
    InputError
        The layout is unknown, an array does not have it, or `as_array` refuses it.
    """
    if layout not in LAYOUTS:
        raise InputError(f"the layout is {layout!r}; give one of {', '.join(LAYOUTS)}")
    of_pil = _is_pil(image)
    if of_pil and layout != "HWC":
        raise InputError(f"the layout is {layout}, but the image is a PIL image, which has none; leave the layout out")
    array = as_array(image, IMAGE_INPUT)
    # A PIL image of mode P may have got its alpha by the conversion of its palette.
    alpha = alpha or (of_pil and array.ndim == 3 and array.shape[2] in (2, 4))
    images = _arranged(array, layout, IMAGE_INPUT)
    others = {
        name: _arranged(as_array(values, name), layout, name, len(images)) for name, values in (inputs or {}).items()
    }
    alphas: tuple[NDArray[Any], ...] = ()
    if alpha:
        if images[0].ndim == 2 or images[0].shape[2] < 2:
            raise InputError(f"the image's shape {array.shape} has no channel beside its alpha; leave alpha out")
        alphas = tuple(one[:, :, -1] for one in images)
        colours = [one[:, :, :-1] for one in images]
        # Two channels of a PIL image are gray levels and alpha.
        images = tuple(one[:, :, 0] if layout == "HWC" and one.shape[2] == 1 else one for one in colours)
    each = tuple({name: values[index] for name, values in others.items()} for index in range(len(images)))
    return GivenImages(images, alphas, each, layout)


def hint(layout: str, alpha: bool, channels: int, array: NDArray[Any]) -> str:
    """Return advice for an image that does not fit a model, where another layout or alpha would; else nothing.

    Parameters
    ----------
    layout, alpha
        What the user gave.
    channels
        What the model expects.
    array
        The image, [H, W] or [H, W, C] as far as the layout says.
    """
    if array.ndim != 3 or array.shape[2] in (1, 3, channels):
        return ""
    if not alpha and array.shape[2] in (2, 4, channels + 1):
        return "; if the last channel is alpha, give alpha=True"
    if layout == "HWC" and array.shape[0] == channels:
        return f'; its shape is {array.shape}: if that is channels, height, width, give layout="CHW"'
    return ""


def as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return an array, a nested list, a PIL image, or a tensor of another package, as an array on the host.

    Parameters
    ----------
    values
        What the user gave: what NumPy reads (also by ``__array_interface__``), objects with ``__dlpack__``, arrays on
        a GPU of PyTorch and CuPy, which are copied to the host, and PIL images. A palette is converted into colours,
        and black and white into 0 and 255.
    name
        Its name, for the message.

    Raises
    ------
    InputError
        NumPy cannot read it: a tensor in bfloat16, or that requires grad; lists of different lengths. Or it has a
        mask, which would be lost; or it is a PIL image in a mode whose values are not gray levels or RGB.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"the {name} is a masked array, and its mask would be lost; give {name}.filled(...)")
    try:
        return np.asarray(_readable(values, name))
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        kind = type(values)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        convert = "dequantize" if getattr(values, "is_quantized", False) else "detach().float"
        raise InputError(
            f"the {name} is a {kind.__module__}.{kind.__qualname__} that NumPy cannot read ({reason[0].rstrip('.')}); "
            f"give a NumPy array, which tensor.{convert}().cpu().numpy() makes of a PyTorch tensor"
        ) from error


def _readable(values: Any, name: str) -> Any:
    """Return something that `numpy.asarray` reads."""
    if isinstance(values, np.ndarray):
        return values
    if _is_pil(values):
        return _without_palette(values, name)
    if _is_on_gpu(values):
        return _on_host(values)
    reads = ("__array__", "__array_interface__", "__array_struct__", "__buffer__")
    if hasattr(values, "__dlpack__") and not any(hasattr(values, protocol) for protocol in reads):
        return np.from_dlpack(values)
    return values


def _is_on_gpu(values: Any) -> bool:
    """Return whether an array says that it is on a GPU. A tensor that requires grad raises an error when asked."""
    try:
        return hasattr(values, "__cuda_array_interface__")
    except RuntimeError:
        return False


def _on_host(values: Any) -> Any:
    """Copy an array on a GPU to the host, by the method that its package has."""
    if callable(getattr(values, "get", None)):  # CuPy
        return values.get()
    if callable(getattr(values, "cpu", None)):  # PyTorch
        return values.cpu()
    if callable(getattr(values, "copy_to_host", None)):  # Numba
        return values.copy_to_host()
    raise TypeError("it is on a GPU, and has none of the methods get, cpu and copy_to_host")


def _is_pil(values: Any) -> bool:
    return isinstance(getattr(values, "mode", None), str) and type(values).__module__.startswith("PIL.")


def _without_palette(image: Any, name: str) -> Any:
    """Return a PIL image with gray levels or RGB; raise `InputError` for other axes."""
    mode = image.mode
    if mode == "1":
        return image.convert("L")
    if mode in ("P", "PA"):
        transparent = mode == "PA" or "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    if mode in ("L", "RGB") and "transparency" in image.info:  # One colour of the image is transparent.
        return image.convert("LA" if mode == "L" else "RGBA")
    if mode not in _PIL_MODES:
        raise InputError(f'the {name} is a PIL image of mode {mode}; convert it to RGB with {name}.convert("RGB")')
    return image


def _arranged(array: NDArray[Any], layout: str, name: str, count: int | None = None) -> tuple[NDArray[Any], ...]:
    """Return the arrays of a batch as [H, W] or [H, W, C]; with a `count`, of so many images."""
    if array.ndim == 2 and (layout == "HWC" or count is not None):
        return (array,) * (count or 1)
    if layout == "HWC":
        if array.ndim == 4:
            raise InputError(
                f'the {name} has shape {array.shape}; give [H, W] or [H, W, C], or say layout="NHWC" or "NCHW"'
            )
        return (array,)
    if array.ndim != len(layout):
        raise InputError(f"the {name} has shape {array.shape}, which has not the axes of the layout {layout}")
    images = tuple(array) if "N" in layout else (array,)
    if not images or (count is not None and len(images) != count):
        number = "no image" if count is None else f"another number of images than the image ({count})"
        raise InputError(f"the {name} has shape {array.shape} in the layout {layout}: {number}")
    return tuple(np.moveaxis(one, 0, 2) for one in images) if "CH" in layout else images


def _with_alpha(
    image: NDArray[Any], alpha: NDArray[Any], restored: NDArray[Any]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return a restored image with the alpha that belongs to it, as a restored file has, and notices."""
    from ..io.images.picture import Picture
    from ..io.images.writing import with_pixels

    picture = with_pixels(Picture(image, alpha), restored)
    if picture.alpha is None:
        return restored, picture.notices
    colours = restored if restored.ndim == 3 else restored[:, :, None]
    plane = picture.alpha.astype(restored.dtype, copy=False)
    return np.concatenate([colours, plane[:, :, None]], axis=2), picture.notices
