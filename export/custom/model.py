"""A network of unknown architecture, with what was found out about it."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.export import ExportedProgram

from ...errors import InputError
from ...forks import require_torch
from ...manifest import Interface, Manifest, Neighbours
from ...models.architecture import CUSTOM, DELICATE_OPERATORS
from ...models.checkpoint import weights_sha256
from ...models.own_weights import tensors_of
from ...models.source_file import user_line
from ..module_state import State, in_state, state_of
from ..opaque import opaque_failure
from ..recognition import Verdict
from ..trace import capture
from .attention import Attentions, fuse_attentions
from .guards import check_guards
from .interface import find_interface
from .neighbours import check_tie, offered_k
from .sizes import MULTIPLES, Sizes, find_sizes
from .trial import Trial, check_signature

#: Values of black and white where nothing is said, and the note that says so.
ASSUMED_RANGE = 0.0, 1.0
RANGE_NOTE = "values from 0 (black) to 1 (white), as nothing else is said: if it was trained with others, --range"

#: File, its manifest, library of operators or None, called with a line before each step -> record.
VerifyOriginal: TypeAlias = Callable[[Path, Manifest, Path | None, Callable[[str], None]], dict[str, Any]]


@dataclass(frozen=True)
class CustomModel:
    """A network of unknown architecture.

    Attributes
    ----------
    module
        The network, float32 and in evaluation mode: float32[B, C, H, W] -> float32[B, C', sH, sW].
    interface
        Its inputs and outputs.
    attentions
        The network as `capture` made it for these, with keygraph's operators in the place of attentions to a top-k.
    shape
        The only (B, H, W) that the program takes; None for dynamic sizes.
    provenance
        Where it comes from, as JSON values: entry point, its arguments, SHA-256 of the source.
    sources
        The files that it was made from.
    notes
        A line for each thing that was found out.
    verify_original
        Compares the file that was made with what the network was imported from, and returns the record for the
        manifest; None where the network is PyTorch's own.
    neighbours
        The choice of k that a file can offer; None where it can offer none.
    """

    module: nn.Module
    interface: Interface
    attentions: Attentions
    shape: tuple[int, int, int] | None
    provenance: dict[str, Any]
    sources: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    verify_original: VerifyOriginal | None = None
    neighbours: Neighbours | None = None

    @property
    def program(self) -> ExportedProgram:
        """The network as it is exported."""
        return self.attentions.program

    @property
    def keep_fp32(self) -> tuple[str, ...]:
        """FP32 patterns for files in half precision: those for every architecture."""
        return DELICATE_OPERATORS

    def manifest(self) -> Manifest:
        """Return the manifest of the PyTorch model; an export replaces the fields that it determines."""
        weights = weights_sha256(tensors_of(self.module, "the module"))
        manifest = manifest_of(self.interface, self.provenance, weights)
        return replace(manifest, neighbours=self.neighbours, attentions=self.attentions.found())


def with_fewer(model: CustomModel, reason: str) -> CustomModel | None:
    """Return a network with fewer attentions computed by the operators; None where none is. Its k is not offered.

    Parameters
    ----------
    model
        The network.
    reason
        Why, for the verdicts.
    """
    fewer = model.attentions.fewer(reason)
    return None if fewer is None else replace(model, attentions=fewer, neighbours=None)


def manifest_of(interface: Interface, provenance: dict[str, Any], weights: str = "") -> Manifest:
    """Return the manifest of a network of unknown architecture, in PyTorch.

    Parameters
    ----------
    interface
        Its inputs and outputs.
    provenance
        Its configuration.
    weights
        SHA-256 of its weights.
    """
    return Manifest(
        architecture=CUSTOM,
        configuration=provenance,
        shape=None,
        precision="fp32",
        weights_sha256=weights,
        **{f.name: getattr(interface, f.name) for f in fields(interface)},
    )


def examine(
    module: nn.Module,
    name: str,
    provenance: dict[str, Any],
    *,
    task: str = "",
    shape: tuple[int, int, int] | None = None,
    size_multiple: int | None = None,
    value_range: tuple[float, float] = ASSUMED_RANGE,
    channels: int | None = None,
    tie: str = "keep",
    sources: tuple[Path, ...] = (),
    progress: Callable[[str], None] = lambda _step: None,
) -> CustomModel:
    """Find out what an export needs to know of a module, by running and tracing it.

    Parameters
    ----------
    module
        The module, float32 on the CPU, in evaluation mode.
    name
        Its name in messages.
    provenance, sources
        As the attributes of `CustomModel`.
    task
        Free text, for instance ``"denoising"``.
    shape
        The only (B, H, W) that the file is to take; None for dynamic sizes.
    size_multiple
        The size multiple; None to find it.
    value_range
        Values of black and white in its images.
    channels
        Of its images; None to find them.
    tie
        One of `neighbours.TIES`: what to do where a network keeps the nodes that tie with the k-th.
    progress
        Called with a line before each step.

    Returns
    -------
    CustomModel

    Raises
    ------
    InputError
        The module cannot be exported; the message says why, and at which of its lines.
    """
    require_torch()
    check_tie(tie)
    low, high = value_range
    if not -torch.inf < low < high < torch.inf:
        raise InputError(f"--range is {low:g} {high:g}; give the values of black and white, the smaller first")
    if size_multiple is not None and size_multiple < 1:
        raise InputError(f"--size-multiple is {size_multiple}; it must be at least 1")
    if size_multiple is not None and shape is not None:
        raise InputError("--size-multiple has no effect with a fixed --shape; leave one of them out")
    check_signature(module, name)
    trial = Trial(module, name, value_range, channels)
    state = state_of(module)
    interface, notes = find_interface(trial, task=task, shape=shape, size_multiple=size_multiple, progress=progress)
    progress("tracing")
    interface, program, more = _traced(trial, state, interface, shape, size_multiple)
    with in_state(state):
        found = fuse_attentions(program, module, interface, shape, progress, exactly_k=tie == "k")
    neighbours, choice = offered_k(found.program, found.verdicts, tie, interface.global_statistics)
    lines = (*notes, *more, *_described(found.verdicts), *choice)
    return CustomModel(module, interface, found, shape, provenance, sources, lines, neighbours=neighbours)


def _described(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a line for each verdict; equal ones, of attentions of one module, are one line."""
    counts = Counter(map(str, verdicts))
    return [line if count == 1 else f"{line} ({count} attentions)" for line, count in counts.items()]


def source_of(module: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of the file that defines a module's class, by the file's name; empty where there is none."""
    try:
        file = Path(inspect.getsourcefile(type(module)) or "")
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    except (TypeError, OSError):
        return {}


def _traced(
    trial: Trial, state: State, interface: Interface, shape: tuple[int, int, int] | None, given: int | None
) -> tuple[Interface, ExportedProgram, list[str]]:
    """Trace the network with the size multiple that was found, or with the next one with which it can be traced.

    A network that pads its image in a branch (``if height % 8``) is traced for multiples of 8.
    """
    first: Exception | None = None
    found = interface.size_multiple
    larger = [multiple for multiple in sorted(MULTIPLES) if multiple > found and multiple % found == 0]
    for multiple in [found, *(larger if given is None and shape is None else [])]:
        if multiple != found:
            sizes: Sizes = find_sizes(trial, interface.in_channels, interface.scale, multiple)
            interface = replace(interface, size_multiple=multiple, smallest=max(1, _beyond(sizes)))
        try:
            with in_state(state):
                program = capture(trial.module, replace(manifest_of(interface, {}), shape=shape))
        except Exception as error:  # The user's code, traced, raises what it likes.
            first = first or error
            if _data_dependent(error):
                break
            continue
        if shape is None:
            taken = Sizes(multiple, max(multiple, interface.smallest))
            guard = check_guards(program, trial, interface.in_channels, taken)
            if guard is not None:
                first = first or BranchError(guard)
                continue
        notes = []
        if first is not None:
            line = user_line(first)
            where = f" at {line}" if line else f", {first}" if isinstance(first, BranchError) else ""
            notes.append(
                f"it runs with {'any size' if found == 1 else f'multiples of {found}'}, but its code branches on the "
                f"size{where}: traced for multiples of {multiple}"
            )
        return interface, program, notes
    assert first is not None
    opaque = opaque_failure(trial.name, trial.module, first)
    raise opaque or InputError(_trace_failure(trial.name, first, shape)) from first


class BranchError(Exception):
    """The network's code branches on the size."""


def _data_dependent(error: Exception) -> bool:
    text = str(error)
    return "data-dependent" in text or "Dynamic control flow" in text or "GuardOnDataDependent" in type(error).__name__


def _beyond(sizes: Sizes) -> int:
    return sizes.smallest if sizes.smallest > sizes.multiple else 1


def _trace_failure(name: str, error: Exception, shape: tuple[int, int, int] | None) -> str:
    """Return the message for a module that torch.export cannot trace."""
    text = " ".join(str(error).split())
    line = user_line(error)
    at = f" at {line}" if line else ""
    if isinstance(error, BranchError):
        return (
            f"{name} takes sizes for which its program, traced at one size, gives other results: its code branches on "
            f"the size, and the program holds only where {text}; write it without that branch, or export one size with "
            "--shape, for instance --shape 1x256x256"
        )
    if _data_dependent(error):
        return (
            f"{name} cannot be traced: a branch or a size{at} depends on the values of the image (control flow in "
            "Python); write it with torch.where, or with sizes that follow from the image's size"
        )
    if "Constraints violated" in text or "specialized" in text or "constraint" in text.lower():
        advice = "" if shape is not None else "; or export one size with --shape, for instance --shape 1x256x256"
        return (
            f"{name} cannot be traced for all sizes: its code{at} fixes a batch or size, or branches on it "
            f"({text[:200]}); compute sizes from the input's shape{advice}"
        )
    return f"{name} cannot be traced{at}: {type(error).__name__}: {text[:300]}"
