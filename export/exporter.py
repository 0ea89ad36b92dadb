"""Export a checkpoint to one portable ONNX file, verified against PyTorch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from ..errors import InputError, KeygraphError
from ..files import check_space, require_utf8, unwritable
from ..manifest import Manifest
from ..models import LoadedModel
from ..models.architecture import CUSTOM
from ..runtime.companion_files import check_outputs, written_with
from .calibrate import calibrate, statistics_images
from .calibration_data import CalibrationImage, calibration_images
from .canonicalize import canonicalize
from .custom.model import CustomModel, with_fewer
from .custom.neighbours import with_k
from .mixed_precision import to_mixed_precision
from .onnx_file import save, set_manifest
from .plan import plan
from .steps import count_steps
from .trace import trace, translate
from .verify import VerificationError
from .verify_file import verify_file

Progress = Callable[[str], None]


def export(
    model: LoadedModel | CustomModel,
    path: str | os.PathLike[str],
    *,
    k: int | None = None,
    shape: tuple[int, int, int] | None = None,
    precision: str = "fp32",
    keep_fp32: Sequence[str] = (),
    half_io: bool = False,
    target_psnr: float | None = None,
    calibration: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, str | os.PathLike[str]] | None = None,
    verification: bool = True,
    progress: Progress = lambda _step: None,
    planned: Callable[[int], None] = lambda _steps: None,
    notice: Callable[[str], None] = lambda _line: None,
) -> Manifest:
    """Export a network and verify the file against PyTorch; the file is written only when it passes.

    Parameters
    ----------
    model
        From `models.load_checkpoint`, or from `custom.examine`.
    path
        The ``.onnx`` file to write. Above 1.5 GB the weights go to ``<path>.data``.
    k
        Fix the number of neighbours; None makes k an input of the file.
    shape
        Fix the input's (B, H, W); None makes them dynamic, H and W in multiples of the size multiple.
    precision
        ``"fp32"``; ``"fp16"`` or ``"bf16"`` for weights and activations in half precision, except what the architecture
        keeps in FP32; ``"auto"`` for fp16 with as many more blocks in FP32 as `target_psnr` takes.
    keep_fp32
        FP32 patterns in addition to the architecture's, for instance ``"body.3.*"``; see `fp32_patterns`.
    half_io
        Make the input and output images half precision, too.
    target_psnr
        For ``"auto"``: PSNR against FP32 in dB, 10 to 100; None for `plan.TARGET_DB`.
    calibration
        Folder of calibration images, on which a half-precision file, or the effect of tiles on global statistics, is
        measured, and a network without a description is verified; None for generated images.
    inputs
        Extra inputs for the calibration images, by name: for each a folder with files of the images' names, or one file
        for all images.
    verification
        False skips verification and the calibration of tiles; the manifest records that.
    progress
        Called with a line before each step.
    planned
        Called once with the number of steps, before the first.
    notice
        Called with a line for what becomes of a network of unknown architecture whose file fails verification: it is
        exported with fewer attentions computed by the operators.

    Returns
    -------
    Manifest
        The manifest in the file.

    Raises
    ------
    InputError
        An option is invalid, or the file cannot be written.
    KeygraphError
        Verification failed. No file is left behind.
    """
    manifest = plan(
        model.manifest(),
        k=k,
        shape=shape,
        precision=precision,
        keep_fp32=keep_fp32,
        half_io=half_io,
        target_psnr=target_psnr,
    )
    if precision == "auto" and not verification:
        raise InputError("--precision auto needs verification; leave --no-verify out, or choose fp16 or bf16")
    half = manifest.half is not None
    custom = manifest.architecture == CUSTOM
    if calibration is not None and not (verification and (half or custom or manifest.global_statistics)):
        raise InputError(
            "--calibration applies only to half precision and to models with statistics over the whole image, and not "
            "with --no-verify; leave it out"
        )
    if inputs and calibration is None:
        raise InputError("--input gives the extra inputs for the images of --calibration; give both or neither")
    beside = {name: Path(given) for name, given in (inputs or {}).items()}
    folder = Path(calibration) if calibration else None
    measured = verification and (half or (custom and folder is not None))
    images = calibration_images(manifest, folder, beside) if measured else []
    tiled_images = statistics_images(manifest, folder, beside) if verification else []
    planned(count_steps(manifest, operators=_operators(model), verification=verification, images=len(images)))
    target = Path(path)
    require_utf8(target)
    check_outputs([target], model.sources)
    check_space(target.parent, _weights_bytes(model, half), "the exported file needs")
    try:
        with tempfile.TemporaryDirectory(prefix=".keygraph-", dir=target.parent) as scratch:
            while True:
                # Under its final name, because the file refers to its external data by name.
                draft = Path(tempfile.mkdtemp(dir=scratch)) / target.name
                try:
                    written = _write(draft, model, manifest, images, progress)
                    if verification:
                        written = replace(written, verification=verify_file(draft, model, written, images, progress))
                    break
                except VerificationError as error:
                    simpler = with_fewer(model, str(error)) if isinstance(model, CustomModel) else None
                    if simpler is None:
                        raise KeygraphError(f"{error}; no file was written") from error
                    fixed = ", and k fixed" if manifest.neighbours is not None and manifest.neighbours.runtime else ""
                    model = simpler
                    manifest = replace(manifest, attentions=model.attentions.found(), neighbours=model.neighbours)
                    notice(f"{error}: exported with {model.attentions.words} instead{fixed}")
            if verification:
                written = calibrate(draft, written, tiled_images, progress)
                written = set_manifest(draft, written)
            manifest = written
            check_outputs([target], model.sources)
            earlier = {file for file in written_with(target) if file.exists()}
            # External data first, so that the model never exists without its weights.
            files = sorted(draft.parent.iterdir(), key=lambda file: file == draft)
            for file in files:
                os.replace(file, target.with_name(file.name))
            for file in earlier - {target.with_name(file.name) for file in files}:
                file.unlink()  # The weights of an earlier, larger model of this name.
    except OSError as error:
        raise unwritable(target, error) from error
    return manifest


def _operators(model: LoadedModel | CustomModel) -> bool:
    """Return whether a network's file has operators of keygraph."""
    if isinstance(model, CustomModel):
        return model.attentions.fused + model.attentions.packed > 0
    return model.manifest().neighbours is not None


def _write(
    draft: Path,
    model: LoadedModel | CustomModel,
    manifest: Manifest,
    images: Sequence[CalibrationImage],
    progress: Progress,
) -> Manifest:
    """Write a file that is not verified yet; return the manifest in it."""
    if isinstance(model, CustomModel):
        progress("translating")
        traced = translate(with_k(model.program, manifest.neighbours), manifest)
    else:
        progress("tracing")
        traced = trace(model.module, manifest)
    canonicalize(traced)
    if manifest.half is not None:
        manifest = to_mixed_precision(traced, manifest, model.keep_fp32, images, progress)
    progress("writing")
    manifest = save(traced, manifest, draft)
    onnx.checker.check_model(draft, full_check=True)
    return manifest


def _weights_bytes(model: LoadedModel | CustomModel, half: bool) -> int:
    """Return the bytes of a network's weights in its file; in half precision, at least half of those in FP32."""
    size: int = sum(tensor.numel() * tensor.element_size() for tensor in model.module.state_dict().values())
    return size // 2 if half else size
