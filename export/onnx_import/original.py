"""An ONNX file as its author made it, in ONNX Runtime: what its import, and the file made of it, are verified against.

Selections are compared apart from values, as for all networks: what the original selects is forced on the import, so
that one near tie does not look like an error, and no error like a near tie. The new file's own way from its image to
its result is compared with the original's as well, as run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from ...errors import KeygraphError
from ...instrumentation.exposed_session import ExposedSession
from ...instrumentation.metrics import psnr
from ...instrumentation.synthetic import synthetic_inputs
from ...manifest import Manifest
from ...parity.rounding.network import Arithmetic, Network
from ...runtime.backends.onnx_file import load_onnx
from ...runtime.backends.onnx_providers import PROVIDERS, reason, session_options
from ..custom.top_k import COMPARISONS, TopKReference, TopKSelection
from ..rounding import ExpectedRounding
from ..verify import Check, required, rounding_inputs, verify
from .file import ForeignOnnx

#: PSNR in dB of the new file and the original, each as run: rounding alone stays far above it, near ties mostly.
_AS_RUN_DB = 40.0


class OriginalProbe:
    """A session of the original that returns its selections as well.

    Parameters
    ----------
    source
        The file.
    """

    def __init__(self, source: ForeignOnnx) -> None:
        self._image, self._restored = source.image, source.restored
        self._batch = source.shape[0]
        model = load_onnx(source.path)
        numbers = _floating(source)
        kinds = {
            **{node.output[1]: TensorProto.INT64 for node in model.graph.node if node.op_type == "TopK"},
            **{
                node.output[0]: TensorProto.BOOL
                for node in model.graph.node
                if node.op_type in COMPARISONS and set(node.input) <= numbers
            },
        }
        self._selected = [name for name in kinds if name and name != self._restored]
        model.graph.output.extend(helper.make_tensor_value_info(name, kinds[name], None) for name in self._selected)
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), session_options(), providers=[PROVIDERS["cpu"]]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
            raise KeygraphError(f"ONNX Runtime does not run {source.path}: {reason(error)}") from error

    def record(
        self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[TopKSelection]]:
        """Restore a batch and return every selection with the result; see `GraphProbe.record`.

        Where the file takes a batch of one only, its images are restored one by one.
        """
        batches = [images] if self._batch in (None, len(images)) else [image[None] for image in images]
        try:
            found = [
                self._session.run([self._restored, *self._selected], {self._image: np.ascontiguousarray(batch)})
                for batch in batches
            ]
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
            raise KeygraphError(f"ONNX Runtime does not run it: {reason(error)}") from error
        restored, *selected = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if not np.isfinite(restored).all():
            raise KeygraphError("its result is not finite")
        return restored, [TopKSelection(values) for values in selected]


def _floating(source: ForeignOnnx) -> set[str]:
    """Return the names of tensors of floating point that a file computes, as far as their types are known."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(source.model).graph
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    return {
        value.name
        for value in graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name in computed
    }


class _ImportReference(TopKReference):
    """The import in PyTorch, which is compared with the original in ONNX Runtime."""

    def __init__(self, module: nn.Module, probe: OriginalProbe, similarity: float) -> None:
        super().__init__(module, similarity)
        self._probe = probe

    def probe(self, path: Path, library: Path | None, rounded: bool) -> OriginalProbe:  # type: ignore[override]
        """Return the original's session."""
        return self._probe


def verify_original(
    draft: Path,
    source: ForeignOnnx,
    module: nn.Module,
    manifest: Manifest,
    library: Path | None,
    progress: Callable[[str], None],
    network: Network,
) -> list[Check]:
    """Verify an import, and the file made of it, against the original in ONNX Runtime.

    Parameters
    ----------
    draft
        The new file.
    source
        The original.
    module
        The import in PyTorch, unmodified.
    manifest
        The new file's.
    library
        ONNX Runtime library of keygraph's operators, or None for the new file's functions.
    progress
        Called with a line before each case.
    network
        The import, to measure rounding.

    Returns
    -------
    list of Check
        PSNR of the import with the original's selections; as run, of the new file.

    Raises
    ------
    KeygraphError
        They differ.
    """
    # The import is not in half precision, and computes at its own k.
    exact = replace(manifest, precision="fp32", half=None, neighbours=None)
    neighbours = manifest.neighbours
    k = neighbours.default if neighbours is not None and neighbours.runtime else None
    probe = OriginalProbe(source)
    reference = _ImportReference(module, probe, required(exact).similarity)
    rounding = ExpectedRounding(network, Arithmetic("fp32"), *rounding_inputs(exact))
    try:
        checks = verify(
            source.path,
            reference,
            exact,
            None,
            lambda where: progress(f"verifying against the original file {where}"),
            rounding=rounding,
        )
    except KeygraphError as error:
        raise KeygraphError(f"{source.path} in ONNX Runtime, and as imported, differ: {error}") from error
    exposed = ExposedSession(draft, library)
    compared = []
    for check in checks:
        inputs = synthetic_inputs(manifest, check.shape, check.content)
        expected, _ = probe.record(inputs[0], None)
        restored, _ = exposed.run(inputs[0], k, ())
        as_run = psnr(restored, expected, manifest.value_range)
        # On a flat image everything ties, and a threshold may keep all of it.
        if check.content != "flat" and not as_run >= min(_AS_RUN_DB, required(manifest).psnr):
            raise KeygraphError(
                f"the exported file differs from {source.path} at {'x'.join(map(str, check.shape))}: {as_run:.1f} dB"
            )
        compared.append(replace(check, psnr_as_run=float(int(min(as_run, 200.0) * 10) / 10)))
    return compared
