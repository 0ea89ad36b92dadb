"""Check the options of an export, and enter them into the manifest of the file to be made."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError
from ..manifest import HalfPrecision, Manifest, Neighbours
from ..models import registry

#: ``auto`` is fp16 with the fewest blocks in FP32 that reach a target PSNR.
PRECISIONS = ("fp32", "fp16", "bf16", "auto")

#: Default target of ``auto``: PSNR against FP32, dB.
TARGET_DB = 50.0


def plan(
    manifest: Manifest,
    *,
    k: int | None,
    shape: tuple[int, int, int] | None,
    precision: str,
    keep_fp32: Sequence[str] = (),
    half_io: bool = False,
    target_psnr: float | None = None,
) -> Manifest:
    """Return the manifest of the file to be exported: the model's, with the user's options checked and entered.

    Parameters
    ----------
    manifest
        The model's, from `LoadedModel.manifest`.
    k, shape, precision, keep_fp32, half_io, target_psnr
        As for `exporter.export`.

    Returns
    -------
    Manifest
        Without verification, tiling and ranges, which an export measures.

    Raises
    ------
    InputError
        An option is invalid.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision {precision!r}; choose one of: {', '.join(PRECISIONS)}")
    _check_precision_options(precision, half_io, keep_fp32, target_psnr)
    half = None
    if precision != "fp32":
        target = (TARGET_DB if target_psnr is None else target_psnr) if precision == "auto" else None
        half = HalfPrecision(keep_fp32=tuple(keep_fp32), target_psnr=target, half_io=half_io)
    neighbours = manifest.neighbours
    if k is not None:
        if neighbours is None:
            raise InputError(f"{manifest.architecture} has no key graph; leave --k out")
        if not 1 <= k <= neighbours.maximum:
            raise InputError(f"k is {k}; it must be from 1 to {neighbours.maximum} (the nodes of a window), or runtime")
        neighbours = Neighbours(default=k, maximum=neighbours.maximum, trained=neighbours.trained, runtime=False)
    if shape is not None:
        batch, height, width = shape
        m = manifest.size_multiple
        if min(shape) < 1 or height % m or width % m:
            fitting = "x".join(str(max(1, -(-side // m)) * m) for side in (height, width))
            raise InputError(
                f"the shape is {batch}x{height}x{width}; height and width must be multiples of {m}; "
                f"the next that fits is {max(batch, 1)}x{fitting}"
            )
    made_with = {name: importlib.metadata.version(name) for name in ("keygraph", "torch", "onnx", "onnxscript")}
    package = registry.package_of(manifest.architecture)
    if package is not None:
        made_with[package.name] = package.version
    return replace(
        manifest,
        neighbours=neighbours,
        shape=shape,
        precision="fp16" if precision == "auto" else precision,
        half=half,
        made_with=made_with,
    )


def _check_precision_options(
    precision: str, half_io: bool, keep_fp32: Sequence[str], target_psnr: float | None
) -> None:
    """Check the options that apply to some precisions only.

    Parameters
    ----------
    precision
        One of `PRECISIONS`.
    half_io, keep_fp32, target_psnr
        As in `exporter.export`.

    Raises
    ------
    InputError
        An option does not apply to this precision, or the target is not from 10 to 100 dB.
    """
    if precision == "fp32":
        for option, given in (("--half-io", half_io), ("--keep-fp32", bool(keep_fp32))):
            if given:
                raise InputError(
                    f"{option} has no effect with fp32; leave it out, or add --precision fp16, bf16 or auto"
                )
    if target_psnr is not None:
        if precision != "auto":
            raise InputError("--target-psnr applies to --precision auto only; leave it out, or choose auto")
        if not 10 <= target_psnr <= 100:
            raise InputError(f"--target-psnr is {target_psnr:g}; it must be from 10 to 100 dB")
