"""An exported model for exact tiled inference."""

from __future__ import annotations

import threading
from pathlib import Path

from ....errors import InputError, MissingDependencyError
from ....installation import package_line
from ....manifest import IMAGE_INPUT, IMAGE_OUTPUT, Manifest
from ...backends.emulated_half import emulate_half
from ...backends.onnx_file import load_onnx
from ...io.regions import RegionReader, RegionWriter
from ..checkpoint import PlaneCheckpoint
from ..progress import Progress
from .executor import Open, infer
from .spatial_layout import NotLocalError
from .sweep_plan import SweepPlan, plan


class ExactModel:
    """Runs an exported model in sweeps over tiles, with the result of the whole image, for any number of threads.

    The plan is computed once and shared. Each `restore` opens its own models and keeps its own feature maps, so that
    concurrent ones need the memory and the disk of each.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    manifest
        Its manifest.
    open_model
        Opens the models of the sweeps.
    rounded
        Emulate half precision by rounding float32, where this machine has no kernels for the file's type.

    Raises
    ------
    InputError
        The model takes images of one size only, or several inputs, or failed the proof of exact tiles at export.
    MissingDependencyError
        The package onnx is not installed.
    """

    def __init__(self, path: Path, manifest: Manifest, open_model: Open, rounded: bool = False) -> None:
        if manifest.statistics is not None and manifest.statistics.exact is None:
            raise InputError(f"{path} failed the proof of exact tiles when it was exported")
        if manifest.shape is not None:
            raise InputError(f"{path} takes images of one size only, so there is nothing to divide")
        if manifest.extra_inputs or manifest.margin != (0, 0) or manifest.neighbours is not None:
            raise InputError(f"{path} takes more than an image, which exact tiled inference does not do")
        try:
            import onnx  # noqa: F401 - checks that it is installed
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "exact tiled inference takes the network apart, which needs onnx; install it with: "
                f"{package_line('onnx>=1.19')}"
            ) from error
        self._path, self._manifest, self._open, self._rounded = path, manifest, open_model, rounded
        self._plan: SweepPlan | None = None
        self._planning = threading.Lock()

    @property
    def plan(self) -> SweepPlan:
        """The sweeps; raises `InputError`, with the reason, for a network that cannot be run exactly in tiles."""
        with self._planning:
            if self._plan is None:
                self._plan = self._make_plan()
            return self._plan

    def _make_plan(self) -> SweepPlan:
        from . import shape_inference
        from .analysis import analyze

        model = load_onnx(self._path)
        if self._rounded:
            model = emulate_half(model)
        manifest = self._manifest
        try:
            known = shape_inference.infer(model, {IMAGE_INPUT: manifest.in_channels}, manifest.least_side)
            found = plan(analyze(known, [IMAGE_INPUT], IMAGE_OUTPUT), [IMAGE_INPUT], IMAGE_OUTPUT)
            if any(manifest.size_multiple % sweep.unit for sweep in found.sweeps):
                raise NotLocalError(f"its maps do not divide sizes in multiples of {manifest.size_multiple} evenly")
            return found
        except NotLocalError as error:
            raise InputError(f"{self._path} cannot be run exactly in tiles: {error}") from error

    def prepare(self) -> None:
        """Compute `plan` now; errors are those of `plan`."""
        _ = self.plan

    def restore(
        self,
        source: RegionReader,
        writer: RegionWriter,
        size: tuple[int, int],
        *,
        tile: int,
        folder: Path,
        progress: Progress | None = None,
        kept: PlaneCheckpoint | None = None,
    ) -> None:
        """Restore an image.

        Parameters
        ----------
        source
            The input image, [H, W, C] of the network's type.
        writer, size, tile, folder, progress, kept
            As for `executor.infer`, which gives the errors, too.
        """
        infer(
            self.plan,
            self._open,
            {IMAGE_INPUT: source},
            writer,
            size,
            tile=tile,
            folder=folder,
            progress=progress,
            kept=kept,
        )
