"""An exported file for exact tiled inference."""

from __future__ import annotations

import functools
from pathlib import Path

from ....errors import InputError, MissingDependencyError
from ....manifest import IMAGE_INPUT, IMAGE_OUTPUT, Manifest
from ...backends.emulated_half import rounding
from ...io.regions import RegionReader, RegionWriter
from ..progress import Progress
from .executor import Open, infer
from .spatial_layout import NotLocalError
from .sweep_plan import SweepPlan, plan


class ExactModel:
    """Runs a file sweep by sweep over tiles, with the whole image's result.

    Parameters
    ----------
    path
        A file that keygraph exported.
    manifest
        What it says of itself.
    open_model
        Opens the models that are made of it.
    rounded
        Half precision by rounding float32, where this machine has no kernels for the file's type.

    Raises
    ------
    InputError
        It takes images of one size only, or several inputs.
    MissingDependencyError
        The package onnx is not there.
    """

    def __init__(self, path: Path, manifest: Manifest, open_model: Open, rounded: bool = False) -> None:
        if manifest.statistics is not None and manifest.statistics.exact is None:
            raise InputError(f"{path} failed the proof of exact tiles when it was exported")
        if manifest.shape is not None:
            raise InputError(f"{path} takes images of one size only, so there is nothing to divide")
        if manifest.extra_inputs or manifest.margin != (0, 0) or manifest.neighbours is not None:
            raise InputError(f"{path} takes more than an image, which exact tiled inference does not do")
        try:
            import onnx  # noqa: F401 - only whether it is there
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "exact tiled inference takes the network apart, which needs onnx; install it with: "
                "pip install 'onnx>=1.19'"
            ) from error
        self._path, self._manifest, self._open, self._rounded = path, manifest, open_model, rounded

    @functools.cached_property
    def plan(self) -> SweepPlan:
        """The sweeps; raises `InputError` for a network that cannot be run exactly in tiles, and says why."""
        import onnx

        from . import shape_inference
        from .locality import understand

        model = onnx.load(self._path)
        if self._rounded:
            model = rounding(model)
        manifest = self._manifest
        try:
            known = shape_inference.find(model, {IMAGE_INPUT: manifest.in_channels}, manifest.size_multiple)
            found = plan(understand(known, [IMAGE_INPUT], IMAGE_OUTPUT), [IMAGE_INPUT], IMAGE_OUTPUT)
            if any(manifest.size_multiple % sweep.unit for sweep in found.sweeps):
                raise NotLocalError(f"its maps do not divide sizes in multiples of {manifest.size_multiple} evenly")
            return found
        except NotLocalError as error:
            raise InputError(f"{self._path} cannot be run exactly in tiles: {error}") from error

    def prepare(self) -> None:
        """Find the sweeps now; errors are those of `plan`."""
        _ = self.plan

    def restore(
        self,
        source: RegionReader,
        sink: RegionWriter,
        size: tuple[int, int],
        *,
        tile: int,
        folder: Path,
        progress: Progress | None = None,
    ) -> None:
        """Restore an image; see `infer`."""
        infer(self.plan, self._open, {IMAGE_INPUT: source}, sink, size, tile=tile, folder=folder, progress=progress)
