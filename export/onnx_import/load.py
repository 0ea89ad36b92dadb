"""A network that an ONNX file describes, for export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...forks import require_torch
from ...manifest import Manifest
from ..custom.model import ASSUMED_RANGE, RANGE_NOTE, CustomModel, examine
from ..program_network import ProgramNetwork
from ..verify import as_record
from .file import ForeignOnnx, read_foreign
from .network import ImportedNetwork
from .original import verify_original


def load_onnx_network(
    path: Path,
    *,
    task: str = "",
    shape: tuple[int, int, int] | None = None,
    size_multiple: int | None = None,
    value_range: tuple[float, float] | None = None,
    tie: str = "keep",
    progress: Callable[[str], None] = lambda _step: None,
) -> CustomModel:
    """Import an ONNX file that somebody else made, and examine its network as any module is examined.

    Parameters
    ----------
    path
        The file.
    task, size_multiple, tie
        As for `examine`.
    shape
        The only (B, H, W) that the new file is to take; None for what the file takes.
    value_range
        Values of black and white; None for 0 and 1, with a note.
    progress
        Called with a line before each step.

    Returns
    -------
    CustomModel

    Raises
    ------
    InputError
        The file cannot be imported (`read_foreign`), or its network cannot be exported.
    """
    require_torch()
    progress("reading the file")
    source = read_foreign(path)
    fixed, notes = _fixed(source, shape)
    network = ImportedNetwork(source).eval().requires_grad_(False)
    if value_range is None:
        notes.append(RANGE_NOTE)
    producer = " ".join(filter(None, (source.model.producer_name, source.model.producer_version)))
    provenance: dict[str, Any] = {"source": source.digests(), "opset": source.opset, "producer": producer}
    model = examine(
        network,
        path.name,
        provenance,
        task=task,
        shape=fixed,
        size_multiple=size_multiple,
        value_range=value_range or ASSUMED_RANGE,
        channels=source.shape[1],
        tie=tie,
        sources=source.sources,
        progress=progress,
    )

    def check(draft: Path, manifest: Manifest, library: Path | None, progress: Callable[[str], None]) -> dict[str, Any]:
        rounded = ProgramNetwork(model.attentions.unfused)
        checks = verify_original(draft, source, network, manifest, library, progress, rounded)
        record = as_record(
            checks, "library" if library else "functions", replace(manifest, precision="fp32", half=None)
        )
        return {**record, "against": path.name}

    return replace(model, notes=(*notes, *model.notes), verify_original=check)


def _fixed(source: ForeignOnnx, shape: tuple[int, int, int] | None) -> tuple[tuple[int, int, int] | None, list[str]]:
    """Return the only (B, H, W) of the new file, or None for dynamic sizes, and a note for what the file decides."""
    batch, _, height, width = source.shape
    name = source.path.name
    if shape is None and batch not in (None, 1) and None in (height, width):
        raise InputError(f"{name} takes batches of {batch} only; say its sizes with --shape, as in {batch}x256x256")
    if height is None and width is None and batch in (None, 1):
        return shape, []
    if shape is not None:
        for what, size, wanted in zip(("batch", "height", "width"), shape, (batch, height, width), strict=True):
            if wanted is not None and size != wanted:
                raise InputError(f"--shape has a {what} of {size}, and {name} takes {wanted} only; leave --shape out")
        return shape, []
    if height is None or width is None:
        free = "width" if width is None else "height"
        raise InputError(
            f"{name} takes any {free}, but fixes the other side ({width or height}); say both with --shape, for "
            f"instance --shape 1x{height or 256}x{width or 256}"
        )
    fixed = batch or 1, height, width
    if batch is None:
        note = (
            f"{name} takes {height} x {width} only: exported for a batch of 1; for another, --shape Bx{height}x{width}"
        )
    else:
        note = f"{name} takes {'x'.join(map(str, fixed))} only, and so will the new file"
    return fixed, [f"{note}; for any size, export it with dynamic sizes"]
