"""PSNR of mixed-precision variants of a traced network against the network in FP32."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import KeygraphError, MissingDependencyError
from ...instrumentation.key_graphs import GraphProbe
from ...instrumentation.metrics import psnr
from ...manifest import Manifest
from ...plugins import library
from ..activation_ranges import largest_values
from ..calibration_data import CalibrationImage
from ..onnx_file import save
from ..precision import to_half


class Measurement:
    """Run an FP32 network and mixed-precision variants of it on the same images.

    Parameters
    ----------
    traced
        The network after `canonicalize`, in FP32.
    manifest
        Manifest of the half-precision file.
    images
        The images to run on.
    folder
        Folder for the files that are run.
    """

    def __init__(
        self,
        traced: ir.Model,
        manifest: Manifest,
        images: Sequence[CalibrationImage],
        folder: Path,
    ) -> None:
        self._proto = ir.to_proto(traced)
        self._manifest, self._images = manifest, images
        self._reference, self._candidate = folder / "fp32.onnx", folder / "candidate.onnx"
        neighbours = manifest.neighbours
        self._k = neighbours.default if neighbours is not None and neighbours.runtime else None
        self._library: Path | None = None
        with suppress(MissingDependencyError):  # Without it the file's own functions run: the same, but slower.
            self._library = library("onnxruntime")
        save(traced, replace(manifest, precision="fp32", half=None), self._reference)
        self._expected: list[tuple[NDArray[np.float32], list[NDArray[Any]]]] = []

    def ranges(self) -> dict[str, float]:
        """Return the largest absolute value of every tensor of the FP32 network, over all images."""
        return largest_values(self._reference, self._images, self._k, self._library)

    def psnr(self, kept: Collection[str]) -> float:
        """Return the PSNR of a variant against FP32, in dB: the lowest over the images.

        Both run with the key graphs that the FP32 network chooses, so that near ties do not count.

        Parameters
        ----------
        kept
            Names of the nodes that compute in FP32.

        Returns
        -------
        float
            -inf when a weight or a result leaves the range of the half type.
        """
        assert self._manifest.half is not None
        candidate = ir.from_proto(self._proto)
        try:
            to_half(candidate, self._manifest.precision, kept, self._manifest.half.half_io)
        except KeygraphError:
            return -math.inf  # A weight is out of range.
        save(candidate, self._manifest, self._candidate)
        probe = GraphProbe(self._candidate, self._library, rounded=True)
        lowest = math.inf
        for image, (expected, graphs) in zip(self._images, self._references(), strict=True):
            tensor, *extras = image.inputs
            restored, _ = probe.force(tensor, self._k, graphs, *extras)
            decibels = psnr(restored, expected, self._manifest.value_range)
            lowest = min(lowest, -math.inf if math.isnan(decibels) else decibels)
        return lowest

    def _references(self) -> list[tuple[NDArray[np.float32], list[NDArray[Any]]]]:
        """Return the FP32 result and key graphs for each image; computed once."""
        if not self._expected:
            probe = GraphProbe(self._reference, self._library)
            for image in self._images:
                tensor, *extras = image.inputs
                restored, selections = probe.record(tensor, self._k, *extras)
                self._expected.append((restored, [selection.graph for selection in selections]))
        return self._expected
