"""Verify a file in every configuration in which users may run it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from ..errors import KeygraphError, MissingDependencyError
from ..manifest import Manifest
from ..models import LoadedModel
from ..parity.pass_criteria import NOISE_FACTOR, worse_than_control
from ..parity.rounding.network import Arithmetic, Network
from ..parity.rounding.stored_types import stored_types
from ..plugins import library
from ..runtime.backends.onnx_file import read_onnx
from .calibration_data import CalibrationImage
from .canonicalize import canonicalize
from .custom.model import CustomModel
from .custom.neighbours import WithK, with_k
from .custom.top_k import TopKReference
from .onnx_file import save
from .program_network import ProgramNetwork
from .reference import AnyReference, Reference
from .rounding import ExpectedRounding
from .trace import translate
from .verify import Check, VerificationError, as_record, check_memory, required, rounding_inputs, verify

Progress = Callable[[str], None]


def verify_file(
    draft: Path,
    model: LoadedModel | CustomModel,
    manifest: Manifest,
    images: Sequence[CalibrationImage],
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Verify a file in every configuration; return a record for each.

    - ``"library"``: with keygraph's operator library, if it is installed and the file uses the operators.
    - ``"functions"``: with the file's own functions, or ``"standard operators"`` where it has none.
    - ``"original file"``: the ONNX file that the network was imported from, in ONNX Runtime.
    - ``"rounded"``: fp16 emulated as a GPU computes it (`runtime.backends.emulated_half`). bf16 is always emulated,
      because ONNX Runtime does not compute it on a CPU.

    Parameters
    ----------
    draft
        The file.
    model
        What it was made from.
    manifest
        The file's.
    images
        Calibration images, as for `verify`.
    progress
        Called with a line before each step.

    Raises
    ------
    VerificationError
        It fails in one of them.
    """
    network = _network(model, manifest)
    check_memory(network, manifest)
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
    reference = _reference(model, network, manifest, bool(functions))
    rounding = _rounding(draft, model, manifest)
    records, found = {}, dict[str, list[Check]]()
    for name, (operators, rounded) in configurations.items():
        try:
            found[name] = verify(
                draft,
                reference,
                manifest,
                operators,
                _saying(progress, f"verifying with {name}"),
                images=images,
                rounded=rounded,
                rounding=rounding,
            )
        except KeygraphError as error:
            raise VerificationError(f"verification with {name} failed: {error}") from error
        records[name] = as_record(found[name], "library" if operators else "functions", manifest, rounded)
    if isinstance(model, CustomModel) and model.attentions.rewritten and manifest.precision == "fp32":
        control = _compare_with_control([one for checks in found.values() for one in checks], model, manifest, progress)
        for record in records.values():
            record["control"] = control
    if isinstance(model, CustomModel) and model.verify_original is not None:
        progress("verifying against the original file")
        try:
            records["original file"] = model.verify_original(draft, manifest, installed, progress)
        except KeygraphError as error:
            raise VerificationError(f"verification failed: {error}") from error
    return records


def _saying(progress: Progress, what: str) -> Progress:
    return lambda where: progress(f"{what} {where}")


def _network(model: LoadedModel | CustomModel, manifest: Manifest) -> nn.Module:
    """Return the network that a file is compared with: the module, or its program with the operators.

    The program was verified against the module, selections apart. Its key graphs can be forced, as for a KGT.
    """
    if not isinstance(model, CustomModel) or not model.attentions.fused + model.attentions.packed:
        return model.module
    program = with_k(model.program, manifest.neighbours)
    if manifest.neighbours is not None:
        return WithK(program, manifest.neighbours)
    return program.module(check_guards=False)


def _reference(
    model: LoadedModel | CustomModel, network: nn.Module, manifest: Manifest, functions: bool
) -> AnyReference:
    """Return what runs the network that a file is compared with.

    Parameters
    ----------
    model, manifest
        As for `verify_file`.
    network
        From `_network`.
    functions
        Whether the file has the operators.
    """
    similarity = required(manifest).similarity
    if isinstance(model, CustomModel) and (model.attentions.packed or not functions):
        return TopKReference(network, similarity)
    return Reference(network, manifest.value_range, similarity)


def _rounding(draft: Path, model: LoadedModel | CustomModel, manifest: Manifest) -> ExpectedRounding:
    """Return what measures the rounding of a file, in the network as its author wrote it.

    Where k is an input, which the author's network does not have, in the network with the operators.
    """
    nodes = None if manifest.half is None else stored_types(read_onnx(draft))
    if isinstance(model, CustomModel) and manifest.neighbours is not None and manifest.neighbours.runtime:
        network: Network = ProgramNetwork(with_k(model.program, manifest.neighbours), takes_k=True)
    elif isinstance(model, CustomModel):
        network = ProgramNetwork(model.attentions.unfused)
    else:
        network = Network(model.module, manifest)
    return ExpectedRounding(network, Arithmetic(manifest.precision, nodes=nodes), *rounding_inputs(manifest))


def _compare_with_control(checks: Sequence[Check], model: CustomModel, manifest: Manifest, progress: Progress) -> str:
    """Compare a verified file's errors with those of its control: the same network exported with no attention fused.

    The control is made only where an error is larger than noise: below that, both files are as good as any.

    Parameters
    ----------
    checks
        Of the file, in all configurations.
    model, manifest, progress
        As for `verify_file`.

    Returns
    -------
    str
        The result, for the manifest.

    Raises
    ------
    VerificationError
        The file is worse than its control; see `worse_than_control`.
    """
    times = _largest_times(checks)
    if times <= NOISE_FACTOR:
        return "not needed: no error is larger than that of any correct program"
    progress("exporting with no attention fused, as the control")
    unfused = replace(model, attentions=model.attentions.without_operators(), neighbours=None)
    manifest = replace(manifest, neighbours=None)
    traced = translate(unfused.program, manifest)
    canonicalize(traced)
    with tempfile.TemporaryDirectory(prefix="keygraph-") as folder:
        control = Path(folder) / "control.onnx"
        save(traced, manifest, control)
        functions = bool(unfused.attentions.fused)
        reference = _reference(unfused, _network(unfused, manifest), manifest, functions)
        rounding = _rounding(control, model, manifest)
        plain = verify(
            control, reference, manifest, None, _saying(progress, "verifying the control"), rounding=rounding
        )
    without = _largest_times(plain)
    if worse_than_control(times, without):
        raise VerificationError(
            f"with fused attentions the error is {times:.1f} times what rounding explains, without {without:.1f} times"
        )
    return f"{times:.2g} times what rounding explains, and {without:.2g} times with no attention fused"


def _largest_times(checks: Sequence[Check]) -> float:
    """Return the largest error on generated images as a multiple of what rounding explains."""
    return max((one.error.times for one in checks if one.error is not None and one.picture is None), default=0.0)
