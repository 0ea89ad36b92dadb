"""Export a checkpoint to one portable ONNX file, verified against PyTorch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from ..errors import InputError, KeygraphError, MissingDependencyError
from ..files import check_space, require_utf8, unwritable
from ..manifest import Manifest
from ..models import LoadedModel
from ..models.architecture import CUSTOM
from ..plugins import library
from ..runtime.companion_files import check_outputs, written_with
from .calibrate import calibrate, statistics_images
from .calibration_data import CalibrationImage, calibration_images
from .canonicalize import canonicalize
from .custom.model import CustomModel
from .custom.neighbours import WithK, with_k
from .custom.top_k import TopKReference
from .mixed_precision import to_mixed_precision
from .onnx_file import save, set_manifest
from .plan import plan
from .reference import AnyReference, Reference
from .trace import trace, translate
from .verify import as_record, check_memory, required, verify

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
    target = Path(path)
    require_utf8(target)
    check_outputs([target], model.sources)
    check_space(target.parent, _weights_bytes(model, half), "the exported file needs")
    if isinstance(model, CustomModel):
        progress("translating")
        traced = translate(with_k(model.program, manifest.neighbours), manifest)
    else:
        progress("tracing")
        traced = trace(model.module, manifest)
    canonicalize(traced)
    if half:
        manifest = to_mixed_precision(traced, manifest, model.keep_fp32, images, progress)
    try:
        with tempfile.TemporaryDirectory(prefix=".keygraph-", dir=target.parent) as scratch:
            # Under its final name, because the file refers to its external data by name.
            draft = Path(scratch) / target.name
            progress("writing")
            manifest = save(traced, manifest, draft)
            onnx.checker.check_model(draft, full_check=True)
            if verification:
                manifest = replace(manifest, verification=_verify(draft, model, manifest, images, progress))
                manifest = calibrate(draft, manifest, tiled_images, progress)
                manifest = set_manifest(draft, manifest)
            check_outputs([target], model.sources)
            earlier = {file for file in written_with(target) if file.exists()}
            # External data first, so that the model never exists without its weights.
            files = sorted(Path(scratch).iterdir(), key=lambda file: file == draft)
            for file in files:
                os.replace(file, target.with_name(file.name))
            for file in earlier - {target.with_name(file.name) for file in files}:
                file.unlink()  # The weights of an earlier, larger model of this name.
    except OSError as error:
        raise unwritable(target, error) from error
    return manifest


def _weights_bytes(model: LoadedModel | CustomModel, half: bool) -> int:
    """Return the bytes of a network's weights in its file; in half precision, at least half of those in FP32."""
    size: int = sum(tensor.numel() * tensor.element_size() for tensor in model.module.state_dict().values())
    return size // 2 if half else size


def _verify(
    draft: Path,
    model: LoadedModel | CustomModel,
    manifest: Manifest,
    images: Sequence[CalibrationImage],
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Verify a file in every configuration in which users may run it; return a record for each.

    - ``"library"``: with keygraph's operator library, if it is installed and the file uses the operators.
    - ``"functions"``: with the file's own functions, or ``"standard operators"`` where it has none.
    - ``"original file"``: the ONNX file that the network was imported from, in ONNX Runtime.
    - ``"rounded"``: fp16 emulated as a GPU computes it (`runtime.backends.emulated_half`). bf16 is always emulated,
      because ONNX Runtime does not compute it on a CPU.
    """
    module = model.module
    if isinstance(model, CustomModel) and model.fused + model.packed:
        program = with_k(model.program, manifest.neighbours)
        module = program.module(check_guards=False)
        if manifest.neighbours is not None:
            module = WithK(program, manifest.neighbours)
    check_memory(module, manifest)
    emulated = manifest.precision == "bf16"
    installed: Path | None = None
    configurations: dict[str, tuple[Path | None, bool]]
    functions = onnx.load(draft, load_external_data=False).functions
    if functions:
        configurations = {"functions": (installed, emulated)}
        try:
            installed = library("onnxruntime")
            configurations = {"library": (installed, emulated), **configurations}
        except MissingDependencyError:
            progress("the operator library is not installed: only the file's own functions are verified")
    else:
        configurations = {"standard operators": (installed, emulated)}
    if manifest.precision == "fp16":
        configurations["rounded"] = (installed, True)
    similarity = required(manifest).similarity
    reference: AnyReference = Reference(model.module, manifest.value_range, similarity)
    if isinstance(model, CustomModel) and model.packed:
        reference = TopKReference(module, similarity)
    elif isinstance(model, CustomModel) and model.fused:
        # The program was verified against the module, selections apart. Its key graphs can be forced, as for a KGT.
        reference = Reference(module, manifest.value_range, similarity)
    elif isinstance(model, CustomModel) and not functions:
        reference = TopKReference(module, similarity)
    records = {}
    for name, (operators, rounded) in configurations.items():
        try:
            progress(f"verifying with {name}")
            checks = verify(draft, reference, manifest, operators, progress, images=images, rounded=rounded)
        except KeygraphError as error:
            raise KeygraphError(f"verification with {name} failed: {error}; no file was written") from error
        records[name] = as_record(checks, "library" if operators else "functions", manifest, rounded)
    if isinstance(model, CustomModel) and model.verify_original is not None:
        progress("verifying against the original file")
        try:
            records["original file"] = model.verify_original(draft, manifest, installed, progress)
        except KeygraphError as error:
            raise KeygraphError(f"verification failed: {error}; no file was written") from error
    return records
