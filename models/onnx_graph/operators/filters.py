"""Convolutions, pooling and resampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Operator

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_LARGEST: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _padding(call: Call, dims: int) -> tuple[list[int], list[int]]:
    """Return what is added before and after each dimension."""
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID"):
        raise call.refuse(f"with auto_pad {automatic}")
    pads = call.attribute("pads") or [0] * (2 * dims)
    return pads[:dims], pads[dims:]


def _padded(call: Call, value: Tensor, dims: int, fill: float = 0.0) -> tuple[Tensor, list[int]]:
    """Return the tensor, padded already where the two sides differ, and what is left to pad on both sides."""
    before, after = _padding(call, dims)
    if before == after:
        return value, before
    sides = [number for pair in zip(reversed(before), reversed(after), strict=True) for number in pair]
    return F.pad(value, sides, value=fill), [0] * dims


def _convolution(call: Call) -> Tensor:
    weight = call.tensor(1)
    dims = weight.ndim - 2
    value, padding = _padded(call, call.tensor(), dims)
    return _CONVOLUTIONS[dims](
        value,
        weight,
        call.optional(2),
        stride=call.attribute("strides") or [1] * dims,
        padding=padding,
        dilation=call.attribute("dilations") or [1] * dims,
        groups=call.attribute("group", 1),
    )


def _transposed(call: Call) -> Tensor:
    weight = call.tensor(1)
    dims = weight.ndim - 2
    before, after = _padding(call, dims)
    if call.attribute("output_shape") or before != after:
        raise call.refuse("with output_shape, or with other padding at each side,")
    return _TRANSPOSED[dims](
        call.tensor(),
        weight,
        call.optional(2),
        stride=call.attribute("strides") or [1] * dims,
        padding=before,
        output_padding=call.attribute("output_padding") or [0] * dims,
        groups=call.attribute("group", 1),
        dilation=call.attribute("dilations") or [1] * dims,
    )


def _max_pool(call: Call) -> Tensor:
    kernel = call.attribute("kernel_shape")
    if call.outputs > 1:
        raise call.refuse("with indices")
    value, padding = _padded(call, call.tensor(), len(kernel), float("-inf"))
    return _LARGEST[len(kernel)](
        value,
        kernel,
        stride=call.attribute("strides") or [1] * len(kernel),
        padding=padding,
        dilation=call.attribute("dilations") or [1] * len(kernel),
        ceil_mode=bool(call.attribute("ceil_mode", 0)),
    )


def _average_pool(call: Call) -> Tensor:
    kernel, counted = call.attribute("kernel_shape"), bool(call.attribute("count_include_pad", 0))
    before, after = _padding(call, len(kernel))
    dilated = any(number != 1 for number in call.attribute("dilations") or [])
    if len(kernel) != 2 or dilated or (before != after and not counted):
        raise call.refuse("with this padding or dilation")
    value, padding = _padded(call, call.tensor(), 2)
    return F.avg_pool2d(
        value,
        kernel,
        stride=call.attribute("strides") or [1, 1],
        padding=padding,
        ceil_mode=bool(call.attribute("ceil_mode", 0)),
        count_include_pad=counted,
    )


def _spatial(value: Tensor) -> list[int]:
    return list(range(2, value.ndim))


def _resize(call: Call) -> Tensor:
    """Resample height and width as PyTorch's `interpolate` does."""
    value, mode = call.tensor(), call.attribute("mode", "nearest")
    if value.ndim != 4 or call.attribute("axes") or call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("of other dimensions than height and width")
    factors = call.numbers(2 if call.opset > 10 else 1) or None
    target = call.numbers(3)
    given: dict[str, Any] = {}
    if target:
        given["size"] = target[2:]
    elif factors and all(isinstance(factor, float) and factor.is_integer() for factor in factors[2:]):
        given["size"] = [size * int(factor) for size, factor in zip(value.shape[2:], factors[2:], strict=True)]
    elif factors:
        given["scale_factor"] = factors[2:]
    coordinates = call.attribute("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        floored = coordinates == "asymmetric" and call.attribute("nearest_mode", "round_prefer_floor") == "floor"
        whole = "size" in given and not target  # Multiplied with whole factors, all conventions agree.
        if not floored and not whole:
            raise call.refuse(f"to the nearest pixel by {coordinates} coordinates")
        return F.interpolate(value, mode="nearest", **given)
    aligned = coordinates == "align_corners"
    if mode not in ("linear", "cubic") or not (aligned or coordinates in ("half_pixel", "pytorch_half_pixel")):
        raise call.refuse(f"with mode {mode} by {coordinates} coordinates")
    if mode == "cubic" and call.attribute("cubic_coeff_a", -0.75) != (
        -0.5 if call.attribute("antialias", 0) else -0.75
    ):
        raise call.refuse("with this cubic_coeff_a")
    return F.interpolate(
        value,
        mode="bilinear" if mode == "linear" else "bicubic",
        align_corners=aligned,
        antialias=bool(call.attribute("antialias", 0)),
        **given,
    )


def _grid_sample(call: Call) -> Tensor:
    modes = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic"}
    mode = call.attribute("mode", "bilinear")
    return F.grid_sample(
        call.tensor(),
        call.tensor(1),
        mode=modes.get(mode, mode),
        padding_mode=call.attribute("padding_mode", "zeros"),
        align_corners=bool(call.attribute("align_corners", 0)),
    )


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "GlobalAveragePool": lambda call: call.tensor().mean(_spatial(call.tensor()), keepdim=True),
    "GlobalMaxPool": lambda call: call.tensor().amax(_spatial(call.tensor()), keepdim=True),
    "GridSample": _grid_sample,
    "MaxPool": _max_pool,
    "Resize": _resize,
}
